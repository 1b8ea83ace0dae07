"""CC against numpy, and what it does not look at. Runs on JAX too."""

import numpy as np
import pytest
from reference import maps, numpy, same_as, unit

from tfjointrd.training.distillers import CC


def correlations(x):
    """exp(-2 gamma) (1 + 2 gamma x·y + (2 gamma x·y)² / 2)."""
    product = 0.8 * unit(x) @ unit(x).T
    return np.exp(-0.8) * (1 + product + product**2 / 2)


def reference(student, teacher):
    return np.square(correlations(student) - correlations(teacher)).mean(-1)


def test_value_and_gradient():
    method = CC()
    same_as(lambda own, theirs: method([own], [theirs]), reference, maps(4, 3), maps(4, 6))


def test_high_orders_are_the_gaussian_kernel():
    x = maps(4, 3)
    squares = np.square(unit(x)[:, None] - unit(x)[None]).sum(-1)
    found = numpy(CC(gamma=0.4, order=12).correlations(x.astype("float32")))
    np.testing.assert_allclose(found, np.exp(-0.4 * squares), rtol=1e-4)


def test_the_order_of_the_batch_does_not_matter():
    x, y = maps(4, 3).astype("float32"), maps(4, 6).astype("float32")
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(numpy(CC()([x[order]], [y[order]])), numpy(CC()([x], [y]))[order], rtol=1e-4)
    np.testing.assert_allclose(numpy(CC()([x], [5 * x])), 0, atol=1e-10)


def test_bad_arguments():
    for options, message in (({"gamma": 0}, "`gamma` above 0"), ({"order": 0}, "`order` to be a whole number from 1")):
        with pytest.raises(ValueError, match=message):
            CC(**options)
