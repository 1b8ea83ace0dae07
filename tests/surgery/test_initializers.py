"""New weights as the papers' authors draw them, in a network and in its clones."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, models
from tfjointrd.surgery.initializers import with_initializer

L = keras.layers


def values(layer):
    return [keras.ops.convert_to_numpy(weight.value) for weight in layer.weights]


def network():
    inputs = keras.Input((8, 8, 24))
    x = L.BatchNormalization(name="bn")(L.Conv2D(100, 3, 2, use_bias=False, name="conv")(inputs))
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(inputs, L.Dense(300, name="dense")(L.GlobalAveragePooling2D()(x)), name="drawn")


# Variance of the convolution's kernel, of the dense layer's, and the dense layer's largest value where it has one.
@pytest.mark.parametrize(
    ("initializer", "convolution", "dense", "limit"),
    [
        ("he_normal", 2 / (9 * 24), 2 / 100, None),
        ("fan_out", 2 / (9 * 100), 1 / 300, 0.1),
        ("lecun_normal", 1 / (9 * 24), 1 / 100, None),
    ],
)
def test_variances(initializer, convolution, dense, limit):
    source = network()
    source.get_layer("bn").gamma.assign(np.arange(100.0))
    drawn = with_initializer(source, initializer)
    assert drawn.name == "drawn" and [x.name for x in drawn.layers] == [x.name for x in source.layers]
    for made in (drawn, keras.models.clone_model(drawn), keras.Model.from_config(drawn.get_config())):
        ((kernel,), (weights, bias)) = values(made.get_layer("conv")), values(made.get_layer("dense"))
        assert kernel.var() == pytest.approx(convolution, rel=0.05)
        assert weights.var() == pytest.approx(dense, rel=0.05)
        assert abs(kernel.mean()) < 0.01 and abs(weights.mean()) < 0.01
        if limit is None:
            assert not bias.any()
        else:
            assert 0.09 < np.abs(bias).max() <= limit and np.abs(weights).max() <= limit
    assert not np.array_equal(values(drawn.get_layer("conv"))[0], values(source.get_layer("conv"))[0])
    np.testing.assert_array_equal(values(drawn.get_layer("bn"))[0], np.arange(100.0))
    np.testing.assert_array_equal(*(values(x.get_layer("depthwise"))[0] for x in (drawn, source)))


def test_narrow_clones_are_drawn_for_their_own_width():
    drawn = with_initializer(models.resnet20(), "fan_out")
    narrow = keras.models.clone_model(adjoin(drawn, alpha=4, round_to=1).small())
    (kernel,) = values(narrow.get_layer("stage3_block2_conv1"))
    assert kernel.shape == (3, 3, 16, 16) and kernel.var() == pytest.approx(2 / (9 * 16), rel=0.1)
    assert np.abs(values(narrow.get_layer("logits"))[0]).max() <= 0.25  # 1 / sqrt(16)


def test_the_seed_repeats_it():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        drawn.append(with_initializer(network(), "lecun_normal").get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*drawn, strict=True))


def test_what_is_no_initializer():
    with pytest.raises(ValueError, match="one of he_normal, fan_out, lecun_normal. Received: initializer='magic'"):
        with_initializer(network(), "magic")
