"""Statistics of batch normalisations measured anew. Runs on JAX too."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, recalibrate_batchnorm


def statistics(model, kinds=("moving_mean", "moving_variance")):
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights if v.path.endswith(kinds)}


def moments(model, layer, x):
    """Mean and variance of what goes into a layer, the batch normalisations ahead of it by the statistics of `x`."""
    part = keras.Model(model.input, model.get_layer(layer).input)
    values = keras.ops.convert_to_numpy(part(x, training=True))
    return values.mean((0, 1, 2)), values.var((0, 1, 2))


def test_one_batch_gives_its_own_statistics(tiny, images):
    x, _ = images
    model = tiny()
    before = {v.path: keras.ops.convert_to_numpy(v.value) for v in model.weights}
    assert recalibrate_batchnorm(model, x) is model
    for name in ("stem_bn", "stage2_bn2", "stage3_bn2"):
        copy = keras.models.clone_model(model)
        copy.set_weights(list(before.values()))
        mean, variance = moments(copy, name, x)
        np.testing.assert_allclose(model.get_layer(name).moving_mean, mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(model.get_layer(name).moving_variance, variance, rtol=1e-3, atol=1e-5)
        assert model.get_layer(name).momentum == 0.8
    for variable in model.weights:
        if "moving" not in variable.path:
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), before[variable.path])


def test_several_batches_give_the_mean(tiny, images):
    x, y = images
    model = tiny()
    first, second = (statistics(recalibrate_batchnorm(model, part)) for part in (x[:32], (x[32:], y[32:])))
    model.get_layer("stem_bn").trainable = False  # measures all the same
    together = statistics(recalibrate_batchnorm(model, ((x[:32], y[:32]), (x[32:], y[32:]))))
    for path, value in together.items():
        np.testing.assert_allclose(value, (first[path] + second[path]) / 2, rtol=1e-4, atol=1e-6)
    assert not model.get_layer("stem_bn").trainable
    apart = statistics(recalibrate_batchnorm(model, (x[:32], x[32:])))  # two batches, and not images with labels
    for path, value in apart.items():
        np.testing.assert_allclose(value, together[path], rtol=1e-4, atol=1e-6)
    again = statistics(recalibrate_batchnorm(model, (x[:32], x[32:]), steps=1))
    for path, value in again.items():
        np.testing.assert_allclose(value, first[path], rtol=1e-4, atol=1e-6)


def test_dropout_is_off(tiny, images):
    """Ahead of a batch normalisation, and behind one, whose `training` Keras hands on."""
    x, _ = images
    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Dropout(0.9)(keras.layers.Conv2D(4, 3)(inputs))
    z = keras.layers.BatchNormalization(name="bn", epsilon=1e-7)(z)
    z = keras.layers.BatchNormalization(name="behind")(keras.layers.Dropout(0.9)(z))
    model = keras.Model(inputs, keras.layers.Flatten()(z))
    recalibrate_batchnorm(model, x)
    values = keras.ops.convert_to_numpy(model.layers[1](x))
    np.testing.assert_allclose(model.get_layer("bn").moving_variance, values.var((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(model.get_layer("behind").moving_variance, np.ones(4), rtol=1e-3)


def test_small_networks_that_share_statistics_need_it(tiny, images):
    x, y = images
    pair = adjoin(tiny(filters=8), 2, round_to=1, kl_weight=1.0, batch_normalization="shared")
    assert len(pair.network.weights) == len(tiny(filters=8).weights)
    pair.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
    pair.fit(x, y, batch_size=16, epochs=25, verbose=0)
    small = pair.small()
    np.testing.assert_allclose(small.predict(x, verbose=0), pair.predict(x, verbose=0)["small"], atol=1e-4)
    before = np.mean(small.predict(x, verbose=0).argmax(-1) == y)
    after = np.mean(recalibrate_batchnorm(small, x).predict(x, verbose=0).argmax(-1) == y)
    assert after > 0.9 and after >= before


def test_what_cannot_be_measured(tiny, images):
    with pytest.raises(ValueError, match=r"Expected `model` to be a functional .* Take its `full\(\)` or `small\(\)`"):
        recalibrate_batchnorm(adjoin(tiny(), 2, round_to=1), images[0])
    with pytest.raises(ValueError, match="Expected `data` to hold images. Received: none"):
        recalibrate_batchnorm(tiny(), [])
    with pytest.raises(ValueError, match="Expected `steps` to be a whole number .* Received: steps=0"):
        recalibrate_batchnorm(tiny(), images[0], steps=0)
    with pytest.raises(ValueError, match="Expected `model` to have batch normalisations. Received: 'bare' without"):
        recalibrate_batchnorm(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="bare"), images[0])


def test_pixels_of_another_range_change_nothing():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255), keras.layers.BatchNormalization()], name="scaled"
    )
    x = np.random.default_rng(0).uniform(0, 1, (8, 4, 4, 1))
    with pytest.raises(ValueError, match="Expected `data` to hold pixels from 0 to 255, as layer 'rescaling.*scaled'"):
        recalibrate_batchnorm(model, x)
    np.testing.assert_array_equal(model.layers[-1].moving_mean, 0)
    recalibrate_batchnorm(model, 255 * x)
    np.testing.assert_allclose(model.layers[-1].moving_mean, x.mean(), rtol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A layer with layers, in attributes and lists, which drops out in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.steps = [keras.layers.Dropout(0.9), {"norm": keras.layers.BatchNormalization(epsilon=1e-7)}]

    def build(self, shape):
        self.steps[1]["norm"].build(shape)

    def call(self, x, training=None):
        return self.steps[1]["norm"](self.steps[0](x, training=training), training=training)


def test_within_layers_and_wrappers(images):
    """Also of frozen ones, and with dropout off."""
    x = np.repeat(images[0], 2, -1) * [1, 3] + [0, 5]
    inputs = keras.Input((8, 8, 2))
    block, wrapped = Block(), keras.layers.TimeDistributed(keras.layers.BatchNormalization())
    model = keras.Model(inputs, keras.layers.Flatten()(wrapped(block(inputs))))
    model.trainable = False
    norms = [block.steps[1]["norm"], wrapped.layer]
    recalibrate_batchnorm(model, x)
    np.testing.assert_allclose(norms[0].moving_mean, x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norms[0].moving_variance, x.var((0, 1, 2)), rtol=1e-4)
    rows = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))  # each row of pixels is a call: the mean of them counts
    np.testing.assert_allclose(wrapped.layer.moving_mean, rows.mean((0, 2)).mean(0), atol=1e-5)
    np.testing.assert_allclose(wrapped.layer.moving_variance, rows.var((0, 2)).mean(0), rtol=1e-3)
    assert not any(norm.trainable or norm.momentum != 0.99 or "call" in vars(norm) for norm in norms)


def test_several_calls_count_alike():
    x = np.random.default_rng(0).normal(2, 1, (32, 4, 4, 1)).astype("float32")
    norm, inputs = keras.layers.BatchNormalization(), keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Add()([norm(inputs), norm(10 * inputs)]))
    recalibrate_batchnorm(model, [x[:16], x[16:]])
    np.testing.assert_allclose(norm.moving_mean, [5.5 * x.mean()], rtol=1e-4)
