"""VID against numpy. Runs on JAX too."""

import numpy as np
import pytest
from reference import built, conv, maps, numpy, same_as, weights_of

from tfjointrd.training.distillers import VID


@pytest.fixture
def method():
    return built(VID(), [(4, 4, 3)], [(2, 2, 5)])


def test_value_and_gradient(method):
    kernels, scale = weights_of(method.predictors[0]), numpy(method.log_scales[0].value).astype("float64")
    variance = np.log1p(np.exp(scale)) + 1e-5

    def reference(student, teacher):
        x = student.reshape(3, 2, 2, 2, 2, 3).mean((2, 4))
        for kernel in kernels[:2]:
            x = np.maximum(conv(x, kernel), 0)
        squares = np.square(teacher - conv(x, kernels[2])) / variance
        return 0.5 * (squares + np.log(variance)).mean((1, 2, 3))

    same_as(lambda own, theirs: method([own], [theirs]), reference, maps(3, 4, 4, 3), maps(3, 2, 2, 5))


def test_the_first_variance():
    method = VID(initial_variance=2.5)
    method.build([(None, 4, 4, 3)], [(None, 4, 4, 5)])
    np.testing.assert_allclose(np.log1p(np.exp(numpy(method.log_scales[0].value))), 2.5, rtol=1e-4)
    with pytest.raises(ValueError, match="Expected `initial_variance` above 0. Received: initial_variance=0"):
        VID(initial_variance=0)


def test_a_prediction_that_is_met_costs_least(method):
    x = maps(3, 4, 4, 3).astype("float32")
    met = numpy(method.predictors[0](x.reshape(3, 2, 2, 2, 2, 3).mean((2, 4))))
    least = numpy(method([x], [met]))
    for other in (met + 0.1, met - 0.1):
        assert (numpy(method([x], [other])) > least).all()
