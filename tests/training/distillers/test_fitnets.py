"""FitNets' hints against numpy. Runs on JAX too."""

import numpy as np
import pytest
from reference import built, conv, maps, normalized, numpy, same_as, weights_of

from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.training.distillers import FitNets


@pytest.fixture
def method(tiny):
    found = FitNets()
    found.taps(read_graph(tiny(shortcuts=False)), read_graph(tiny()))
    return built(found, [(4, 4, 3)], [(4, 4, 5)])


def test_value_and_gradient(method):
    kernel, gamma, beta, *_ = weights_of(method.regressors[0])

    def reference(student, teacher):
        predicted = np.maximum(normalized(conv(student, kernel), gamma, beta), 0)  # the hint is a ReLU's output
        return np.square(predicted - teacher).mean((1, 2, 3))

    same_as(lambda own, hint: method([own], [hint]), reference, maps(3, 4, 4, 3), np.abs(maps(3, 4, 4, 5)))


def test_a_hint_that_is_met_costs_nothing(method):
    x = maps(3, 4, 4, 3).astype("float32")
    hint = method.regressors[0](x, training=True)
    np.testing.assert_allclose(numpy(method([x], [hint])), 0, atol=1e-6)


def test_the_middle_stage_is_found(tiny):
    student, teacher = read_graph(tiny(shortcuts=False)), read_graph(tiny())
    assert [[ref.layer for ref in side] for side in FitNets().taps(student, teacher)] == [["stage2_relu"]] * 2
    named = FitNets([("stage1_relu", "stage2_relu1")]).taps(student, teacher)
    assert [side[0].layer for side in named] == ["stage1_relu", "stage2_relu1"]
    method = FitNets("stage2_relu1")
    method.taps(student, teacher)
    with pytest.raises(ValueError, match="multiple of .* for 'fit_nets_.*_regressor0'. Received: shape"):
        method.build([(None, 4, 4, 3)], [(None, 8, 8, 3)])
