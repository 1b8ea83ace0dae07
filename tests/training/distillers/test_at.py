"""Attention transfer against numpy, and what it does not look at. Runs on JAX too."""

import numpy as np
import pytest
from reference import built, maps, numpy, same_as, unit

from tfjointrd.training.distillers import AT


def attention(x):
    return unit(np.square(x).sum(-1).reshape(len(x), -1))


def pooled(x, size):
    return x.reshape(len(x), x.shape[1] // size, size, x.shape[2] // size, size, -1).mean((2, 4))


@pytest.mark.parametrize("sides", [(4, 4), (4, 2), (2, 4)])
def test_value_and_gradient(sides):
    shapes = (sides[0], sides[0], 3), (sides[1], sides[1], 5)
    method, least = built(AT(), *([shape] for shape in shapes)), min(sides)

    def reference(student, teacher):
        both = (attention(pooled(x, x.shape[1] // least)) for x in (student, teacher))
        return np.square(np.subtract(*both)).mean(-1)

    same_as(lambda own, theirs: method([own], [theirs]), reference, maps(3, *shapes[0]), maps(3, *shapes[1]))


def test_channels_and_their_scale_do_not_matter():
    method = built(AT(), [(4, 4, 3)] * 2, [(4, 4, 3)] * 2)
    x = maps(3, 4, 4, 3).astype("float32")
    y = maps(3, 4, 4, 3).astype("float32")
    before = numpy(method([x, x], [y, y]))
    np.testing.assert_allclose(numpy(method([x[..., ::-1], 3 * x], [y, -y])), before, rtol=1e-4)
    np.testing.assert_allclose(numpy(method([x, y], [2 * x[..., [1, 2, 0]], y])), 0, atol=1e-12)
    assert (before > 1e-3).all()


def test_resolutions_that_do_not_fit():
    with pytest.raises(ValueError, match="maps for AT whose resolutions .* multiples .* Received: shape"):
        AT().build([(None, 4, 4, 3)], [(None, 3, 3, 3)])
    with pytest.raises(ValueError, match=r"Expected feature maps .* for AT. Received: shape \(None, 7\)"):
        AT().build([(None, 7)], [(None, 7)])
