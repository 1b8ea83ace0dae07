"""Factor transfer against numpy in both phases, and what learns in which. Runs on JAX too."""

import keras
import numpy as np
import pytest
from reference import built, conv, gradient, maps, normalized, numpy, same_as, unit, weights_of

from tfjointrd.training.distillers import FT


@pytest.fixture
def method():
    return built(FT(phase_one=0.25, factor_weight=10.0), [(4, 4, 3)], [(4, 4, 5)])


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def convolved(x, weights):
    values = [numpy(weight.value).astype("float64") for weight in weights]
    for kernel, bias in zip(values[::2], values[1::2], strict=True):
        x = leaky(conv(x, kernel, bias))
    return x


def test_phase_one_reconstructs(method):
    def reference(student, teacher):
        return np.square(convolved(convolved(teacher, method.encoder), method.decoder) - teacher).mean((1, 2, 3))

    x, y = (maps(3, 4, 4, channels).astype("float32") for channels in (3, 5))
    np.testing.assert_allclose(numpy(method([x], [y], progress=0.2)), reference(x, y), rtol=1e-4)
    assert not gradient(lambda own: keras.ops.sum(method([own], [y], progress=0.2)), x).any()


def test_value_and_gradient_in_phase_two(method):
    x, y = (maps(3, 4, 4, channels) for channels in (3, 5))
    method([x.astype("float32")], [y.astype("float32")], progress=0.2)  # by which the paraphraser is what was learned
    kept = [numpy(weight.value) for weight in method.paraphraser]
    for weight in method.encoder:
        weight.assign(2 * weight.value)  # as weight decay would go on
    layers = [weights_of(layer) for layer in method.translator.layers if layer.weights]

    def reference(student, teacher):
        for (kernel, bias), (gamma, beta, *_) in zip(layers[::2], layers[1::2], strict=True):
            student = leaky(normalized(conv(student, kernel, bias), gamma, beta))
        factors = convolved(teacher, method.paraphraser)
        both = (unit(part.reshape(3, -1)) for part in (student, factors))
        return 10 * np.abs(np.subtract(*both)).mean(-1)

    same_as(lambda own, theirs: method([own], [theirs], progress=0.3), reference, x, y, rtol=5e-3)
    for before, weight in zip(kept, method.paraphraser, strict=True):
        np.testing.assert_array_equal(before, numpy(weight.value))
    assert np.abs(kept[0]).max() > 0.1


def test_bad_arguments():
    for options in ({"phase_one": 0}, {"phase_one": 1.0}, {"rate": 0}, {"factor_weight": -1}):
        ((argument, value),) = options.items()
        with pytest.raises(ValueError, match=f"Expected `{argument}` .* Received: {argument}={value}"):
            FT(**options)
