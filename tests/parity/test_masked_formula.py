"""The sliced layers of adjoined networks against Eqn 1 of the paper, which multiplies the full kernel by a mask.

Runs on the TensorFlow backend here and on the JAX backend through tests/test_jax_backend.py.
"""

import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers import AdjoinedConv2D, AdjoinedDense
from tfjointrd.layers.adjoined import AdjoinedLayer

TOLERANCE = 1e-5


def count(keep):
    """How many channels are kept."""
    return keep if isinstance(keep, int) else len(keep)


def adjoined(layer, narrow, **share):
    """A layer and its narrow twin: `narrow` is what its configuration has otherwise, `share` what of each weight."""
    small = type(layer).from_config({**layer.get_config(), **narrow})
    return AdjoinedLayer(layer, {"small": small}, {"small": share})


def convolution(cls, keep_in, keep_out, filters, *args, **kwargs):
    """A convolution that keeps these of its input and output channels."""
    share = {"kernel": [None, None, None if kwargs.get("groups") else keep_in, keep_out], "bias": [keep_out]}
    narrow = {"filters": count(keep_out)}
    if "groups" in kwargs:
        narrow["groups"] = kwargs["groups"] * count(keep_out) // filters
    return adjoined(cls(filters, *args, **kwargs), narrow, **share)


def value_and_gradients(function, values):
    """`function(values)`, a scalar, and its gradient in each of the arrays `values`."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradients = jax.value_and_grad(function)([jax.numpy.asarray(v) for v in values])
    else:
        import tensorflow as tf

        tensors = [tf.constant(v) for v in values]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(tensors)
        gradients = tape.gradient(value, tensors)
    return ops.convert_to_numpy(value), [ops.convert_to_numpy(g) for g in gradients]


def mask(size, keep):
    """One for the kept entries, zero for the rest."""
    ones = np.zeros(size, "float32")
    ones[np.arange(keep) if isinstance(keep, int) else keep] = 1
    return ones


def spread(x, size, keep):
    """A small tensor as a full one with zeros for the dropped channels."""
    matrix = np.zeros((x.shape[-1], size), "float32")
    matrix[np.arange(x.shape[-1]), np.arange(keep) if isinstance(keep, int) else keep] = 1
    return ops.matmul(x, matrix)


def check(layer, full_shape, small_shape, keep_out, masked):
    """Compares `layer` on a random pair with the masked formula, in values and all gradients.

    `masked(weights, x_full, x_small)` computes the pair of full-width outputs by Eqn 1.
    """
    rng = np.random.default_rng(1)
    layer.build([full_shape, small_shape])
    weights = [rng.normal(size=v.shape).astype("float32") for v in layer.trainable_variables]
    inputs = [rng.normal(size=shape).astype("float32") for shape in (full_shape, small_shape)]
    symbols = [keras.KerasTensor(shape) for shape in (full_shape, small_shape)]
    full, small = (tensor.shape for tensor in layer.compute_output_spec(symbols))
    probes = [rng.normal(size=shape).astype("float32") for shape in (full, small)]

    def sliced(values):
        *variables, x_full, x_small = values
        (z_full, z_small), _ = layer.stateless_call(variables, [], [x_full, x_small])
        return ops.sum(z_full * probes[0]) + ops.sum(z_small * probes[1])

    def reference(values):
        *variables, x_full, x_small = values
        z_full, z_small = masked(variables, x_full, x_small)
        return ops.sum(z_full * probes[0]) + ops.sum(z_small * spread(probes[1], full[-1], keep_out))

    (value, gradients), (expected, references) = (
        value_and_gradients(function, [*weights, *inputs]) for function in (sliced, reference)
    )
    scale = max(1.0, abs(float(expected)))
    assert abs(value - expected) / scale < TOLERANCE
    for gradient, wanted in zip(gradients, references, strict=True):
        assert np.max(np.abs(gradient - wanted)) / max(1.0, np.max(np.abs(wanted))) < TOLERANCE
    assert layer([ops.convert_to_tensor(x) for x in inputs])[1].shape == small


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("keep_in, keep_out", [(4, 3), (8, 6), ([0, 2, 7], [1, 4, 5]), (4, [0, 5])])
def test_convolution(padding, strides, dilation, keep_in, keep_out):
    options = {"strides": strides, "padding": padding, "dilation_rate": dilation}
    layer = convolution(keras.layers.Conv2D, keep_in, keep_out, 6, 3, **options)

    def masked(variables, x_full, x_small):
        kernel, bias = variables
        m = mask(6, keep_out)
        z_full = ops.conv(x_full, kernel, strides, padding, dilation_rate=dilation) + bias
        z_small = ops.conv(spread(x_small, 8, keep_in), kernel * m, strides, padding, dilation_rate=dilation) + bias * m
        return z_full, z_small

    width = count(keep_in)
    check(layer, (2, 7, 7, 8), (2, 7, 7, width), keep_out, masked)


BY_HAND = {
    "alpha": (4, 3, {"alpha": 2}),
    "alpha_not_whole": (4, 4, {"alpha": 1.5, "activation": "tanh"}),
    "strides": (4, 3, {"alpha": 2, "strides": 2, "padding": "same", "use_bias": False}),
    "dilation": (8, 2, {"alpha": 3, "dilation_rate": 2, "activation": "sigmoid"}),
    "mask": (4, [0, 2, 5], {"mask": [1, 0, 1, 0, 0, 1]}),
    "both_masks": ([1, 4, 5], [2, 3], {"mask": [0, 0, 1, 1, 0, 0], "input_mask": [0, 1, 0, 0, 1, 1, 0, 0]}),
    "groups": (4, 3, {"alpha": 2, "groups": 2, "padding": "same"}),
    "a_part_of_each_group": ([0, 1, 4, 5], [0, 3], {"mask": [1, 0, 0, 1, 0, 0], "groups": 2}),
    "depthwise": ([0, 3, 6], [0, 3, 6], {"mask": [1, 0, 0, 1, 0, 0, 1, 0], "groups": 8, "padding": "same"}),
}


@pytest.mark.parametrize("keep_in, keep_out, options", BY_HAND.values(), ids=BY_HAND)
def test_layer_by_hand(keep_in, keep_out, options):
    filters = 8 if options.get("groups") == 8 else 6
    if isinstance(keep_in, list):
        options = {**options, "input_mask": mask(8, keep_in)}
    layer = AdjoinedConv2D(filters, 3, **options)
    activation = keras.activations.get(options.get("activation"))
    how = (options.get("strides", 1), options.get("padding", "valid"), "channels_last", options.get("dilation_rate", 1))

    def masked(variables, x_full, x_small):
        m = mask(filters, keep_out)
        kernel, bias = variables if layer.full.use_bias else (variables[0], 0.0)
        z_full = ops.conv(x_full, kernel, *how) + bias
        z_small = ops.conv(spread(x_small, 8, keep_in), kernel * m, *how) + bias * m
        return activation(z_full), activation(z_small)

    check(layer, (2, 6, 6, 8), (2, 6, 6, count(keep_in)), keep_out, masked)
    assert count(layer.kept) == count(keep_out)


@pytest.mark.parametrize("options", [{"alpha": 2}, {"mask": [0, 1, 0, 0, 1]}])
def test_dense_layer_by_hand(options):
    keep_out, keep_in = 2 if "alpha" in options else [1, 4], [0, 2, 7]
    layer = AdjoinedDense(5, "tanh", input_mask=mask(8, keep_in), **options)

    def masked(variables, x_full, x_small):
        (kernel, bias), m = variables, mask(5, keep_out)
        z_small = ops.matmul(spread(x_small, 8, keep_in), kernel * m) + bias * m
        return ops.tanh(ops.matmul(x_full, kernel) + bias), ops.tanh(z_small)

    check(layer, (3, 8), (3, 3), keep_out, masked)


def test_layer_by_hand_with_channels_first():
    """The same function of transposed images, and the same gradients."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        try:
            tf.nn.conv2d(tf.zeros((1, 1, 2, 2)), tf.zeros((1, 1, 1, 1)), 1, "VALID", "NCHW")
        except tf.errors.UnimplementedError:
            pytest.skip("TensorFlow has convolutions of channels first only with its oneDNN kernels, or on a GPU")
    options = {"mask": [0, 1, 1, 0], "input_mask": [1, 0, 1], "strides": 2, "padding": "same"}
    rng = np.random.default_rng(0)
    full = rng.normal(size=(2, 6, 6, 3)).astype("float32")
    images = [full, full[..., [0, 2]]]
    results = []
    for data_format, order in (("channels_last", (0, 1, 2, 3)), ("channels_first", (0, 3, 1, 2))):
        layer = AdjoinedConv2D(4, 3, data_format=data_format, **options)
        inputs = [x.transpose(order) for x in images]
        layer.build([x.shape for x in inputs])
        shapes = layer.compute_output_shape([x.shape for x in inputs])
        assert [tuple(z.shape) for z in layer(inputs)] == shapes
        weights = [np.random.default_rng(1).normal(size=v.shape).astype("float32") for v in layer.weights]

        def loss(values, layer=layer, inputs=inputs):
            outputs, _ = layer.stateless_call(values, [], inputs)
            return sum(ops.sum(ops.tanh(z)) for z in outputs)

        results.append(value_and_gradients(loss, weights))
    (value, gradients), (expected, references) = results
    assert value == pytest.approx(expected, rel=1e-5)
    for gradient, wanted in zip(gradients, references, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("keep_in, keep_out", [(4, 6), (2, 3), ([2, 3, 6, 7], [3, 4, 5, 9, 10, 11])])
def test_grouped_convolution(use_bias, keep_in, keep_out):
    options = {"groups": 4, "padding": "same", "use_bias": use_bias}
    layer = convolution(keras.layers.Conv2D, keep_in, keep_out, 12, 3, **options)

    def masked(variables, x_full, x_small):
        m = mask(12, keep_out)
        kernel, bias = variables if use_bias else (variables[0], 0.0)
        z_full = ops.conv(x_full, kernel, 1, "same") + bias
        return z_full, ops.conv(spread(x_small, 8, keep_in), kernel * m, 1, "same") + bias * m

    width = count(keep_in)
    check(layer, (2, 5, 5, 8), (2, 5, 5, width), keep_out, masked)


@pytest.mark.parametrize("keep", [3, [0, 2, 5]])
@pytest.mark.parametrize("strides", [1, 2])
def test_depthwise_convolution(keep, strides):
    positions = list(range(keep)) if isinstance(keep, int) else keep
    keep_out = [2 * p + i for p in positions for i in range(2)]
    full = keras.layers.DepthwiseConv2D(3, strides=strides, padding="same", depth_multiplier=2)
    layer = adjoined(full, {}, kernel=[None, None, keep, None], bias=[keep_out])

    def masked(variables, x_full, x_small):
        kernel, bias = variables
        m = mask(12, keep_out)
        z_full = ops.depthwise_conv(x_full, kernel, strides, "same") + bias
        masked_kernel = kernel * mask(6, keep)[:, None]
        return z_full, ops.depthwise_conv(spread(x_small, 6, keep), masked_kernel, strides, "same") + bias * m

    check(layer, (2, 6, 6, 6), (2, 6, 6, len(positions)), keep_out, masked)


@pytest.mark.parametrize("keep_in, keep_out", [(4, None), (4, 3), ([1, 5, 6], [0, 4])])
@pytest.mark.parametrize("activation", [None, "tanh"])
def test_dense(keep_in, keep_out, activation):
    keep_out = 5 if keep_out is None else keep_out
    full = keras.layers.Dense(5, activation=activation)
    layer = adjoined(full, {"units": count(keep_out)}, kernel=[keep_in, keep_out], bias=[keep_out])
    act = keras.activations.get(activation)

    def masked(variables, x_full, x_small):
        kernel, bias = variables
        m = mask(5, keep_out)
        z_small = ops.matmul(spread(x_small, 8, keep_in), kernel * m) + bias * m
        return act(ops.matmul(x_full, kernel) + bias), act(z_small)

    check(layer, (3, 8), (3, count(keep_in)), keep_out, masked)


@pytest.mark.parametrize("keep_in, keep_out", [(4, 3), ([0, 2, 7], [1, 4])])
@pytest.mark.parametrize("strides", [1, 2])
def test_transposed_convolution(strides, keep_in, keep_out):
    full = keras.layers.Conv2DTranspose(6, 3, strides=strides, padding="same")
    share = {"kernel": [None, None, keep_out, keep_in], "bias": [keep_out]}
    layer = adjoined(full, {"filters": count(keep_out)}, **share)

    def masked(variables, x_full, x_small):
        kernel, bias = variables
        m = mask(6, keep_out)
        z_full = ops.conv_transpose(x_full, kernel, strides, "same") + bias
        z_small = ops.conv_transpose(spread(x_small, 8, keep_in), kernel * m[:, None], strides, "same") + bias * m
        return z_full, z_small

    check(layer, (2, 4, 4, 8), (2, 4, 4, count(keep_in)), keep_out, masked)


@pytest.mark.parametrize("keep_in, keep_out", [(4, 3), ([0, 2, 5], [1, 4])])
def test_separable_convolution(keep_in, keep_out):
    full = keras.layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2)
    positions = list(range(keep_in)) if isinstance(keep_in, int) else keep_in
    middle = [2 * p + i for p in positions for i in range(2)]
    share = {
        "depthwise_kernel": [None, None, keep_in, None],
        "pointwise_kernel": [None, None, middle, keep_out],
        "bias": [keep_out],
    }
    layer = adjoined(full, {"filters": count(keep_out)}, **share)

    def masked(variables, x_full, x_small):
        depthwise, pointwise, bias = variables
        m = mask(5, keep_out)
        z_full = ops.conv(ops.depthwise_conv(x_full, depthwise, 1, "same"), pointwise, 1, "same") + bias
        x = ops.depthwise_conv(spread(x_small, 6, keep_in), depthwise, 1, "same")
        return z_full, ops.conv(x, pointwise * m, 1, "same") + bias * m

    check(layer, (2, 5, 5, 6), (2, 5, 5, count(keep_in)), keep_out, masked)


def test_activation_with_parameters():
    layer = adjoined(keras.layers.PReLU(shared_axes=[1, 2]), {}, alpha=[None, None, [1, 2]])

    def masked(variables, x_full, x_small):
        (alpha,) = variables
        x_small = spread(x_small, 4, [1, 2])
        return tuple(ops.where(x > 0, x, alpha * x) for x in (x_full, x_small))

    check(layer, (2, 3, 3, 4), (2, 3, 3, 2), [1, 2], masked)
