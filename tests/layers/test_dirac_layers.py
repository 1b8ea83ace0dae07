"""`DiracConv2D` against the ordinary convolution that it stands for. Runs on JAX too."""

import forked
import keras
import numpy as np
import pytest

from tfjointrd.layers.dirac import DiracConv2D, delta

ops = keras.ops


def randomised(layer, channels, seed=0):
    """The layer, built, with random weights."""
    layer.build((None, 7, 6, channels))
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def ordinary(layer, **config):
    """The convolution with the kernel alpha * delta + beta * W, spelt out position by position."""
    own = {variable.name: ops.convert_to_numpy(variable.value) for variable in layer.weights}
    kernel = own["kernel"] * own["beta"]
    height, width, channels, filters = kernel.shape
    for channel in range(min(channels, filters)):
        kernel[height // 2, width // 2, channel, channel] += own["alpha"][channel]
    conv = keras.layers.Conv2D(layer.filters, layer.kernel_size, **config)
    conv.build((None, 7, 6, channels))
    conv.set_weights([kernel, own["bias"]] if layer.use_bias else [kernel])
    return conv


@pytest.mark.parametrize(
    "channels, filters, size, config",
    [
        (4, 4, 3, {"padding": "same"}),
        (4, 4, 3, {"padding": "same", "use_bias": False}),
        (4, 6, 3, {"padding": "same", "strides": 2}),
        (6, 4, 3, {"padding": "valid", "activation": "relu"}),
        (3, 5, 1, {}),
        (5, 3, 1, {"strides": 2, "activation": "tanh"}),
        (3, 3, (5, 1), {"padding": "same", "use_bias": False}),
        (3, 4, 3, {"padding": "same", "dilation_rate": 2}),
    ],
)
def test_equals_an_ordinary_convolution(channels, filters, size, config):
    layer = randomised(DiracConv2D(filters, size, **config), channels)
    x = np.random.default_rng(1).normal(size=(2, 7, 6, channels)).astype("float32")
    expected = ops.convert_to_numpy(ordinary(layer, **config)(x))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.effective_kernel()),
        ops.convert_to_numpy(ordinary(layer, **config).kernel),
        atol=1e-6,
    )


def test_begins_near_the_identity():
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 4)).astype("float32")
    layer = DiracConv2D(4, 3, padding="same", beta=0.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.alpha.value), np.ones(4))
    default = DiracConv2D(6, 3)
    default.build((None, 5, 5, 4))
    np.testing.assert_allclose(ops.convert_to_numpy(default.beta.value), np.full(6, 0.1), rtol=1e-6)


def test_delta_of_an_even_kernel_keeps_every_position():
    """Keras pads an even kernel on the right, so that its tap stands left of the middle."""
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("float32")
    for size in (2, 4):
        out = ops.conv(x, delta((size, size, 2, 2)), padding="same")
        np.testing.assert_array_equal(ops.convert_to_numpy(out), x)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses GradientTape")
def test_gradients():
    """dW = beta g, dbeta = sum W g, dalpha = sum delta g, where g is the gradient of the ordinary kernel."""
    import tensorflow as tf

    layer = randomised(DiracConv2D(5, 3, strides=2, padding="same"), 4)
    conv = ordinary(layer, strides=2, padding="same")
    x = np.random.default_rng(1).normal(size=(2, 7, 6, 4)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    own = {
        v.name: g.numpy() for v, g in zip(layer.weights, tape.gradient(loss, layer.trainable_variables), strict=True)
    }
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(conv(x) ** 2)
    g = tape.gradient(loss, conv.kernel.value).numpy()
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(own["kernel"], g * layer.beta.numpy(), **close)
    np.testing.assert_allclose(own["beta"], (g * layer.kernel.numpy()).sum((0, 1, 2)), **close)
    np.testing.assert_allclose(own["alpha"], (g * delta(g.shape)).sum((0, 1, 2)), **close)


def test_mixed_precision_and_regularisation():
    layer = DiracConv2D(3, 3, dtype="mixed_bfloat16", kernel_regularizer=keras.regularizers.L2(0.5))
    out = layer(np.ones((1, 4, 4, 3), "float32"))
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16" and layer.kernel.dtype == "float32"
    kernel = ops.convert_to_numpy(layer.kernel.value)
    assert float(layer.losses[0]) == pytest.approx(0.5 * (kernel**2).sum(), rel=1e-5)


def test_groups_are_refused():
    with pytest.raises(ValueError, match="Expected `groups` to be 1. Received: groups=2, in layer 'both'"):
        DiracConv2D(4, 3, groups=2, name="both")


def test_reloads_in_another_process(tmp_path):
    """One on JAX, which starts faster."""
    layer = DiracConv2D(4, 3, strides=2, alpha=0.5, beta=0.3, activation="relu", name="dirac")
    network = keras.Sequential([keras.Input((7, 6, 2)), layer])
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 2)).astype("float32")
    np.savez(tmp_path / "io.npz", x=x, y=network.predict(x, verbose=0))
    network.save(tmp_path / "dirac.keras")
    code = """
import sys, keras, numpy as np, tfjointrd
folder = sys.argv[1]
network, io = keras.saving.load_model(folder + "/dirac.keras"), np.load(folder + "/io.npz")
np.testing.assert_allclose(network.predict(io["x"], verbose=0), io["y"], atol=1e-5)
config = network.get_layer("dirac").get_config()
assert (config["alpha"], config["beta"]) == (0.5, 0.3)
"""
    forked.run(code, tmp_path)
