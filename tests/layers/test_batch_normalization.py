import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers import FusedBatchNormalization
from tfjointrd.layers.batch_normalization import check_synchronized

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernel is under test")


def pair(shape=(4, 6, 5, 3), **kwargs):
    """Keras' layer and ours with the same random weights."""
    twins = [cls(**kwargs) for cls in (keras.layers.BatchNormalization, FusedBatchNormalization)]
    for layer in twins:
        layer.build(shape)
    random = np.random.default_rng(1)
    weights = [random.uniform(0.5, 2, weight.shape) for weight in twins[0].weights]
    for layer in twins:
        layer.set_weights(weights)
    return twins


def images(shape=(4, 6, 5, 3), dtype="float32"):
    return ops.cast(np.random.default_rng(2).normal(1, 3, shape), dtype)


def train(layer, x, jit_compile=False):
    """One training call: outputs, gradients of inputs and weights, and the weights afterwards."""
    import tensorflow as tf

    upstream = ops.cast(np.random.default_rng(3).normal(size=x.shape), layer.compute_dtype)

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y * upstream, "float32"))
        return y, tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])

    y, gradients = step(x)
    return [np.asarray(ops.cast(value, "float32")) for value in (y, *gradients, *layer.weights)]


def kernels(layer, x, **kwargs):
    """The kinds of operation the layer runs."""
    import tensorflow as tf

    graph = tf.function(lambda x: layer(x, **kwargs)).get_concrete_function(x).graph
    return {operation.type for operation in graph.get_operations()}


def assert_same(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1, np.abs(e).max()))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"momentum": 0.9, "epsilon": 1e-5},
        {"scale": False},
        {"center": False},
        {"scale": False, "center": False, "axis": 3},
    ],
)
def test_trains_like_keras_layer(kwargs, jit_compile):
    reference, fused = pair(**kwargs)
    assert "FusedBatchNormV3" in kernels(fused, images(), training=True)
    expected = train(reference, images())
    fused.set_weights(pair(**kwargs)[0].get_weights())
    assert_same(train(fused, images(), jit_compile), expected, 1e-5)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 1.6e-2), ("float16", 2e-3)]
)
def test_reduced_precision(policy, tolerance):
    dtype = keras.DTypePolicy(policy).compute_dtype
    reference, fused = pair(dtype=policy)
    expected = train(reference, images(dtype=dtype))
    actual = train(fused, images(dtype=dtype))
    assert_same(actual, expected, tolerance)
    if policy.startswith("mixed"):
        moving_statistics = 2
        assert_same(actual[-moving_statistics:], expected[-moving_statistics:], 1e-5)


def test_moving_statistics_are_not_corrected_for_the_sample_size():
    x = images((2, 1, 2, 3))  # four values a channel: a correction would be 4 / 3
    layer = FusedBatchNormalization(momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_variance, np.var(x, axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, np.mean(x, axis=(0, 1, 2)), rtol=1e-5)


def test_one_value_a_channel():
    reference, fused = pair((1, 1, 1, 3))
    assert_same(train(fused, images((1, 1, 1, 3))), train(reference, images((1, 1, 1, 3))), 1e-5)


def test_batch_size_unknown_to_the_graph():
    reference, fused = (
        keras.Sequential([keras.Input((6, 5, 3)), layer, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
        for layer in pair()
    )
    fused.set_weights(reference.get_weights())
    x, y = np.asarray(images((10, 6, 5, 3))), np.arange(10) % 2
    for model in (reference, fused):
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert_same(fused.get_weights(), reference.get_weights(), 1e-5)


@pytest.mark.parametrize(
    ("shape", "kwargs", "call"),
    [
        ((4, 6, 5, 3), {}, {"training": False}),
        ((4, 6, 5, 3), {}, {}),
        ((4, 6, 5, 3), {"trainable": False}, {"training": True}),
        ((4, 6, 5, 3), {"axis": 1}, {"training": True}),
        ((4, 6, 5, 3), {"synchronized": True}, {"training": True}),
        ((4, 6, 5, 3), {"dtype": "float64"}, {"training": True}),
        ((4, 6, 5, 3), {}, {"training": True, "mask": np.arange(120).reshape(4, 6, 5) % 3 > 0}),
        ((4, 3), {}, {"training": True}),
        ((4, 6, 3), {}, {"training": True}),
        ((2, 4, 6, 5, 3), {}, {"training": True}),
    ],
)
def test_everything_else_is_left_to_keras(shape, kwargs, call):
    reference, fused = pair(shape, **kwargs)
    x = images(shape, kwargs.get("dtype", "float32"))
    assert "FusedBatchNormV3" not in kernels(fused, x, **call)
    assert_same([fused(x, **call), *fused.weights], [reference(x, **call), *reference.weights], 1e-6)


def test_renorm_is_left_to_keras():
    try:
        layer = FusedBatchNormalization(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no renorm")
    assert "FusedBatchNormV3" not in kernels(layer, images(), training=True)


def test_configuration_weights_and_file_are_interchangeable(tmp_path):
    reference, fused = pair(momentum=0.8, epsilon=1e-4, center=False, name="bn")
    assert fused.get_config() == reference.get_config()
    assert [w.path for w in fused.weights] == [w.path for w in reference.weights]
    model = keras.Sequential([keras.Input((6, 5, 3)), fused])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is FusedBatchNormalization
    np.testing.assert_array_equal(loaded(images()), model(images()))


def test_synchronised_where_several_devices_train(monkeypatch):
    layer = FusedBatchNormalization()
    layer.build((4, 6, 5, 3))
    assert not layer.synchronized
    check_synchronized(keras.layers.BatchNormalization())
    monkeypatch.setattr("tfjointrd.layers.batch_normalization.replicas", lambda: 2)
    assert layer.synchronized and not layer.get_config()["synchronized"]
    assert "FusedBatchNormV3" not in kernels(layer, images(), training=True)
    nested = keras.Sequential([keras.Sequential([keras.layers.BatchNormalization(name="inner")])])
    with pytest.raises(ValueError, match="'inner' with synchronized=False"):
        check_synchronized(nested)
    check_synchronized(keras.Sequential([layer, keras.layers.BatchNormalization(synchronized=True)]))
