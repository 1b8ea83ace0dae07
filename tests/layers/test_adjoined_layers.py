import json

import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers.adjoined import AdjoinedLayer, TakeChannels, take

L = keras.layers


def convolution(keep_in=2, keep_out=3, path="small", **kwargs):
    """Of six filters on four channels the small path keeps `keep_out` and `keep_in`."""
    width = keep_out if isinstance(keep_out, int) else len(keep_out)
    full, small = (L.Conv2D(n, 3, padding="same", name="conv", **kwargs) for n in (6, width))
    return AdjoinedLayer(full, {path: small}, {path: {"kernel": [None, None, keep_in, keep_out], "bias": [keep_out]}})


def normalization(**kwargs):
    full, small = (L.BatchNormalization(name="bn", **kwargs) for _ in range(2))
    return AdjoinedLayer(full, {"small": small}, {"small": None})


PAIRED = [
    convolution([0, 3], 3, kernel_regularizer="l2"),
    convolution(2, [1, 4]),
    AdjoinedLayer(
        L.DepthwiseConv2D(3, name="depthwise"),
        {"s": L.DepthwiseConv2D(3)},
        {"s": {"kernel": [None, None, 2, None], "bias": [2]}},
    ),
    normalization(momentum=0.8, epsilon=1e-4),
]


@pytest.mark.parametrize("layer", PAIRED, ids=lambda layer: layer.name)
def test_config_round_trip(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.name == layer.full.name
    assert again.get_config() == layer.get_config()
    inputs = [keras.random.normal((2, 5, 5, 4)), keras.random.normal((2, 5, 5, 2))]
    expected = layer(inputs)
    symbols = layer.compute_output_spec([keras.KerasTensor(x.shape) for x in inputs])
    assert [tuple(z.shape) for z in expected] == [symbol.shape for symbol in symbols]
    again(inputs)
    again.set_weights(layer.get_weights())
    for ours, theirs in zip(again(inputs), expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_regulariser_counts_the_shared_kernel_once():
    layer = convolution(kernel_regularizer=keras.regularizers.L2(1.0))
    layer([ops.ones((1, 2, 2, 4)), ops.ones((1, 2, 2, 2))])
    kernel = ops.convert_to_numpy(layer.full.kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(sum(layer.losses)), np.sum(kernel**2), rtol=1e-5)


def test_small_paths_add_no_weights():
    layer = convolution()
    layer.build([(1, 2, 2, 4), (1, 2, 2, 2)])
    assert [variable.path for variable in layer.variables] == ["conv/conv/kernel", "conv/conv/bias"]
    assert len(layer.trainable_variables) == 2 and layer.count_params() == 9 * 4 * 6 + 6


def test_batch_normalisations_keep_separate_statistics():
    layer = normalization(momentum=0.0)
    rng = np.random.default_rng(0)
    full, small = rng.normal(3, 2, (16, 4, 4, 4)).astype("float32"), rng.normal(-1, 5, (16, 4, 4, 2)).astype("float32")
    outputs = layer([full, small], training=True)
    for path, x, z in zip((layer.full, layer.own["small"]), (full, small), outputs, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(path.moving_mean), x.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(ops.convert_to_numpy(path.moving_variance), x.var((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(ops.convert_to_numpy(z).mean((0, 1, 2)), 0, atol=1e-4)


def test_shared_batch_normalisations_leave_the_statistics_to_the_full_path():
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    full, small = (L.BatchNormalization(momentum=0.0, name="bn") for _ in range(2))
    layer = AdjoinedLayer(full, {"small": small}, {"small": {name: [2] for name in names}})
    rng = np.random.default_rng(0)
    x, x_small = rng.normal(3, 2, (16, 4, 4, 4)).astype("float32"), rng.normal(-1, 5, (16, 4, 4, 2)).astype("float32")
    z, z_small = layer([x, x_small], training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(full.moving_mean), x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(z_small).mean((0, 1, 2)), 0, atol=1e-4)
    again = ops.convert_to_numpy(layer([x, x_small], training=False)[1])
    expected = (x_small - x.mean((0, 1, 2))[:2]) / np.sqrt(x.var((0, 1, 2))[:2] + 1e-3)
    np.testing.assert_allclose(again, expected, rtol=1e-3, atol=1e-3)
    assert len(layer.variables) == 4


@pytest.mark.parametrize(
    "keep", [3, [0], [1, 2], [0, 5], [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11], [0, 4, 8], [3, 7, 11], list(range(12))]
)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_take(keep, axis):
    shape = [3, 4, 5]
    shape[axis] = 12
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = np.take(x, np.arange(keep) if isinstance(keep, int) else keep, axis=axis)
    np.testing.assert_array_equal(ops.convert_to_numpy(take(ops.convert_to_tensor(x), keep, axis)), expected)
    many = np.flatnonzero(np.random.default_rng(1).integers(0, 2, 400)).tolist()  # more runs than pieces
    row = np.arange(400, dtype="float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(take(ops.convert_to_tensor(row), many)), row[many])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="looks at TensorFlow's graph")
@pytest.mark.parametrize("keep", [2, [1, 2], [0, 2], [0, 1, 3]])
def test_slices_have_quick_gradients(keep):
    """That of `x[:n]` takes several times as long as that of the same block by its beginning and size."""
    import tensorflow as tf

    layer = convolution(keep_in=keep, keep_out=keep)
    layer.build([(None, 5, 5, 4), (None, 5, 5, 2 if isinstance(keep, int) else len(keep))])

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            kept = take(x, keep)
            loss = sum(tf.reduce_sum(z) for z in layer([tf.stop_gradient(x), tf.stop_gradient(kept)]))
            loss += tf.reduce_sum(kept)
        return tape.gradient(loss, [x, layer.full.kernel.value])

    graph = gradients.get_concrete_function(tf.TensorSpec((None, 5, 5, 4))).graph
    assert not {operation.type for operation in graph.get_operations()} & {"StridedSliceGrad", "GatherV2"}
    is_kept = np.isin(np.arange(4), np.arange(keep) if isinstance(keep, int) else keep)
    np.testing.assert_array_equal(gradients(tf.ones((2, 5, 5, 4)))[0][0, 0, 0], is_kept)


def test_take_channels():
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, 2)), x[..., :2])
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, [0, 3])), x[..., [0, 3]])
    np.testing.assert_array_equal(ops.convert_to_numpy(take(x, [1], axis=1)), x[:, [1]])
    assert take(x, 4) is x
    layer = TakeChannels.from_config(TakeChannels([1, 2]).get_config())
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x[..., 1:3])
    assert layer.compute_output_shape((None, 3, 4)) == (None, 3, 2)


@pytest.mark.parametrize("keep", [0, -1, True, None, [], [2, 1], [1, 1], [-1, 2]])
def test_channels_that_cannot_be_kept(keep):
    with pytest.raises(ValueError, match=r"`keep` of layer 'c'.*Received: keep="):
        TakeChannels(keep, name="c")


def test_paths_are_checked():
    layer = convolution()
    with pytest.raises(ValueError, match=r"'conv' expects \[x_full, x_small\]"):
        layer.build((2, 5, 5, 4))
    with pytest.raises(ValueError, match=r"'conv' expects the kernel of path 'small' in shape \(3, 3, 3, 3\)"):
        layer.build([(2, 5, 5, 4), (2, 5, 5, 3)])
    with pytest.raises(ValueError, match=r"for the same paths, at least one. Received: \['a'\] and \['b'\]"):
        AdjoinedLayer(L.ReLU(), {"a": L.ReLU()}, {"b": None})
    with pytest.raises(ValueError, match="of 2 channels"):
        TakeChannels(3).build((None, 2))


@pytest.mark.parametrize("compiled", [False, True])
def test_activity_regularizers_count_for_each_network(compiled):
    layer = convolution(activity_regularizer=keras.regularizers.L2(0.1))
    x = keras.random.normal((2, 5, 5, 4))
    inputs = keras.Input((5, 5, 4)), keras.Input((5, 5, 2))
    model = keras.Model(inputs, layer(list(inputs)))
    full, small = model([x, x[..., :2]])
    expected = [0.1 * float(ops.sum(ops.square(z))) / 2 for z in (full, small)]  # Keras divides by the batch
    np.testing.assert_allclose(sorted(map(float, model.losses)), sorted(expected), rtol=1e-4)
    if compiled:
        model.compile("sgd", loss="mse")
        targets = [keras.ops.convert_to_numpy(z) for z in (full, small)]
        loss = model.evaluate([x, x[..., :2]], targets, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(sum(expected), rel=1e-4)
