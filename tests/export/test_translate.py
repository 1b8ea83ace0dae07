"""Networks in tf_keras: the same outputs, layer by layer, and an error where there is no such layer."""

import keras
import numpy as np
import pytest
from bridge_networks import APPLICATIONS, LARGER, MORE, OURS, SLOW_APPLICATIONS, application
from small_networks import pixels, with_random_statistics

import tfjointrd as jrd
from tfjointrd.export import to_tf_keras

DEEP = 1e-5  # rounding that fifty layers and more with random weights make larger; 5e-6 was measured


def check_same(network, tolerance=1e-6):
    network = with_random_statistics(network)
    before = network.get_weights()
    x = pixels(3, network.input_shape[1:]).astype("float32")
    expected, actual = (np.asarray(one(x, training=False)) for one in (network, to_tf_keras(network)))
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual / scale, expected / scale, atol=tolerance)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


@pytest.mark.parametrize("name", OURS)
def test_our_networks(name):
    check_same(OURS[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_of_our_networks(name):
    check_same(MORE[name](), DEEP)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name):
    check_same(application(name, **APPLICATIONS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SLOW_APPLICATIONS, *LARGER])
def test_more_applications(name):
    check_same(application(name, LARGER.get(name, 32)), DEEP)


def test_whole_images_are_dropped_there_too():
    network = network_of(LAYERS.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop"))
    images = np.ones((16, 8, 8, 4), "float32")
    dropped = np.asarray(to_tf_keras(network)(images, training=True)).reshape(16, -1)
    assert (dropped == dropped[:, :1]).all() and len(np.unique(dropped)) == 2


def network_of(function, shape=(8, 8, 4)):
    image = keras.Input(shape, name="image")
    return keras.Model(image, function(image), name="own")


LAYERS = keras.layers
CASES = {
    "silu": lambda x: LAYERS.Activation("swish")(LAYERS.Conv2D(3, 1, activation="silu")(x)),
    "hard": lambda x: LAYERS.Activation("hard_silu")(LAYERS.Activation("hard_sigmoid")(x - 120.0) - 0.5),
    "slope": lambda x: LAYERS.LeakyReLU(0.3)(x - 100.0),
    "limits": lambda x: LAYERS.ReLU(max_value=90, negative_slope=0.1, threshold=2)(x - 50.0),
    "operators": lambda x: (1.5 - keras.ops.relu(x * 0.1) / 3) + (-x) * keras.ops.sigmoid(x - 3.0),
    "merges": lambda x: LAYERS.Average()([x, LAYERS.Maximum()([x, LAYERS.Conv2D(4, 1)(x)])]),
    "pooling by an operator": lambda x: keras.ops.mean(LAYERS.SeparableConv2D(5, 3)(x), axis=(1, 2)),
    "squeezed": lambda x: keras.ops.squeeze(LAYERS.GlobalMaxPooling2D(keepdims=True)(x), axis=(1, 2)),
    "channels cut off": lambda x: jrd.layers.FitChannels(3)(x),
    "channels appended": lambda x: jrd.layers.FitChannels(7)(x),
    "fused": lambda x: jrd.layers.FusedBatchNormalization(epsilon=1e-4)(x),
    "statistics": lambda x: LAYERS.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[0.5, 1.0, 1.5, 2.0])(x),
    "colours": lambda x: LAYERS.Rescaling([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0])(x),
    "regularised": lambda x: LAYERS.Conv2DTranspose(
        3, 3, 2, kernel_regularizer="l2", bias_constraint="max_norm", activation="gelu"
    )(x),
    "called twice": lambda x: (conv := LAYERS.Conv2D(4, 3, padding="same"))(conv(x)),
    "nested": lambda x: network_of(lambda y: LAYERS.PReLU(shared_axes=[1, 2])(LAYERS.UpSampling2D()(y)))(x),
    "positions": lambda x: LAYERS.Dense(3)(LAYERS.Permute((2, 1, 3))(LAYERS.Cropping2D(1)(x))),
    "normalised": lambda x: LAYERS.GroupNormalization(2)(LAYERS.LayerNormalization()(x)),
}


@pytest.mark.parametrize("name", CASES)
def test_layers(name):
    check_same(network_of(CASES[name]))


class Flipped(LAYERS.Layer):
    def call(self, x):
        return keras.ops.flip(x, axis=1)


REFUSED = {
    "own": (lambda x: Flipped(name="mine")(x), "layer 'mine_flip' (Flip)"),
    "quotient": (lambda x: x / LAYERS.Conv2D(4, 1)(x), "a quotient of two tensors"),
    "number above": (lambda x: 1.0 / x, "of a tensor and a number"),
    "activation": (lambda x: LAYERS.Conv2D(4, 1, activation="hard_sigmoid", name="old")(x), "layer 'old' (Conv2D)"),
    "function": (lambda x: LAYERS.Activation(keras.ops.cos, name="cosine")(x), "layer 'cosine' (Activation)"),
    "entry": (lambda x: LAYERS.LayerNormalization(rms_scaling=True, name="rms")(x), "rms_scaling=True"),
    "augmentation": (lambda x: LAYERS.RandomFlip(name="flip")(x), "layer 'flip' (RandomFlip)"),
    "part": (lambda x: x[:, ::2], "(GetItem)"),
    "axis": (lambda x: keras.ops.mean(x, axis=1), "over the axes [1]"),
    "mode": (lambda x: LAYERS.BatchNormalization(name="bn")(x, training=True), "layer 'bn' (BatchNormalization)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tf_keras_lacks_is_named(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match="Expected layers that tf_keras has too") as error:
        to_tf_keras(network_of(function))
    assert message in str(error.value)
