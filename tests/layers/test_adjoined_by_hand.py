"""`AdjoinedConv2D` and `AdjoinedDense` in networks put together by hand. Runs on JAX too.

tests/parity/test_masked_formula.py compares them with the formula of the paper, in values and gradients.
"""

import json

import forked
import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers import AdjoinedConv2D, AdjoinedDense

L = keras.layers
MASK = [0, 1, 1, 0, 0, 1, 0, 0]
OTHER = {"strides": 2, "padding": "same", "use_bias": False, "activation": "relu", "kernel_regularizer": "l2"}
LAYERS = [
    AdjoinedConv2D(8, 3, alpha=2, padding="same"),
    AdjoinedConv2D(8, (3, 1), mask=MASK, input_mask=[1, 0, 0, 1], name="masked", **OTHER),
    AdjoinedConv2D(8, 3, alpha=4, groups=2, dtype="mixed_bfloat16", trainable=False, activity_regularizer="l1"),
    AdjoinedDense(8, "relu", mask=np.array(MASK, bool), dtype="float64"),
]


def numpy(x):
    return ops.convert_to_numpy(x)


def images(channels=4, kept=2, size=6):
    x = np.random.default_rng(0).normal(size=(4, size, size, channels)).astype("float32")
    return [x, x[..., :kept]]


def by_hand():
    """A network of three adjoined layers, with a batch normalisation on each path."""
    inputs = keras.Input((6, 6, 3))
    pair = AdjoinedConv2D(8, 3, alpha=2, padding="same", use_bias=False, name="conv1")([inputs, inputs])
    pair = [L.ReLU()(L.BatchNormalization(momentum=0.5, name=f"bn_{i}")(z)) for i, z in enumerate(pair)]
    pair = AdjoinedConv2D(8, 3, strides=2, mask=MASK, activation="relu", name="conv2")(pair)
    pair = [L.Flatten()(z) for z in pair]
    full, small = AdjoinedDense(3, alpha=1, input_mask=np.tile(MASK, 4), name="logits")(pair)
    return keras.Model(inputs, {"full": full, "small": small})


def taken_out(network):
    """The small network by itself."""
    layer = {name: network.get_layer(name).small_layer() for name in ("conv1", "conv2", "logits")}
    normalization = keras.models.clone_model(keras.Sequential([keras.Input((6, 6, 4)), network.get_layer("bn_1")]))
    normalization.set_weights(network.get_layer("bn_1").get_weights())
    return keras.Sequential(
        [keras.Input((6, 6, 3)), layer["conv1"], normalization, L.ReLU(), layer["conv2"], L.Flatten(), layer["logits"]]
    )


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_config_round_trip(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.name == layer.name and again.get_config() == layer.get_config()
    assert (again.kept, again.trainable, again.dtype_policy) == (layer.kept, layer.trainable, layer.dtype_policy)
    expected, outputs = layer(images()), again(images())
    assert [z.shape for z in outputs] == [z.shape for z in expected]
    assert layer.compute_output_shape([x.shape for x in images()]) == [tuple(z.shape) for z in expected]
    again.set_weights(layer.get_weights())
    for ours, theirs in zip(again(images()), expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(numpy(ops.cast(ours, "float32")), numpy(ops.cast(theirs, "float32")))


def test_weights_are_those_of_the_full_layer():
    layer = AdjoinedConv2D(8, 3, alpha=2)
    assert layer.name.startswith("adjoined_conv2d") and AdjoinedConv2D(8, 3, alpha=2, name="mine").name == "mine"
    layer(images())
    assert [tuple(weight.shape) for weight in layer.trainable_weights] == [(3, 3, 4, 8), (8,)]
    assert layer.kept == 4 and AdjoinedConv2D(8, 3, mask=MASK).kept == [1, 2, 5]


def test_a_network_by_hand_trains_and_its_small_network_stands_alone():
    network = by_hand()
    x, y = images(channels=3)[0], np.array([0, 1, 2, 0])
    before = [numpy(weight).copy() for weight in network.trainable_weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("sgd", {"full": loss, "small": loss})
    network.fit(x, {"full": y, "small": y}, epochs=2, verbose=0)
    assert all(np.abs(numpy(now) - then).max() > 0 for now, then in zip(network.trainable_weights, before, strict=True))
    small = taken_out(network)
    assert small.count_params() == 3 * 9 * 4 + 4 * 4 + (9 * 4 + 1) * 3 + (4 * 3 + 1) * 3
    np.testing.assert_allclose(small.predict(x, verbose=0), network.predict(x, verbose=0)["small"], atol=1e-6)
    with pytest.raises(ValueError, match="Expected a layer that is built. Received: layer 'fresh'"):
        AdjoinedConv2D(8, 3, alpha=2, name="fresh").small_layer()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    layer = AdjoinedConv2D(8, 3, alpha=2, dtype=policy)
    outputs = layer(images())
    assert {keras.backend.standardize_dtype(z.dtype) for z in outputs} == {policy.removeprefix("mixed_")}
    assert layer.full.kernel.dtype == "float32"
    exact = AdjoinedConv2D(8, 3, alpha=2)
    exact.build([x.shape for x in images()])
    exact.set_weights(layer.get_weights())
    for z, expected in zip(outputs, exact(images()), strict=True):
        np.testing.assert_allclose(numpy(ops.cast(z, "float32")), numpy(expected), atol=0.05)


def test_regularizers():
    """That of the kernel counts once, that of the activity on both paths."""
    layer = AdjoinedConv2D(8, 3, alpha=2, kernel_regularizer=keras.regularizers.L2(1.0))
    layer(images())
    np.testing.assert_allclose(float(sum(layer.losses)), np.sum(numpy(layer.full.kernel) ** 2), rtol=1e-5)
    layer = AdjoinedConv2D(8, 3, alpha=2, activity_regularizer=keras.regularizers.L2(1.0))
    outputs = layer(images())
    expected = sum(np.sum(numpy(z) ** 2) for z in outputs) / 4  # images
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"either `alpha` or `mask` for layer 'c'. Received: alpha=None, mask=None"),
        ({"alpha": 2, "mask": MASK}, r"either `alpha` or `mask` for layer 'c'"),
        ({"alpha": 0.5}, r"`alpha` of layer 'c' to be a number from 1 on .* Received: alpha=0.5"),
        ({"alpha": 9}, r"leaves one of 8 filters. Received: alpha=9"),
        ({"alpha": True}, r"Received: alpha=True"),
        ({"alpha": "2"}, r"Received: alpha='2'"),
        ({"mask": MASK[:5]}, r"`mask` of layer 'c' to be zeros and ones, 8 in all"),
        ({"mask": [0] * 8}, r"at least one of them 1"),
        ({"mask": [1, 2, 5]}, r"Received: mask=\[1, 2, 5\]"),  # positions
        ({"mask": [0.5] * 8}, r"zeros and ones"),
        ({"mask": [[0, 1]]}, r"zeros and ones"),
        ({"alpha": 2, "input_mask": "first"}, r"`input_mask` of layer 'c' to be zeros and ones, one for each channel"),
        (
            {"mask": [1, 0, 0, 0, 1, 1, 0, 0], "groups": 2},
            r"equally many filters, or none, .* kept filters \[0, 4, 5\]",
        ),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        AdjoinedConv2D(8, 3, name="c", **options)


@pytest.mark.parametrize(
    "options, shapes, message",
    [
        ({}, (4, 6), r"`x_small` of layer 'c' to have at most 4 channels, as the full path. Received: 6 channels"),
        ({"input_mask": [1, 0, 1, 0]}, (4, 3), r"2 channels, those of `input_mask`. Received: 3 channels"),
        ({"input_mask": [1, 0, 1]}, (4, 2), r"`input_mask` of layer 'c' .*4 in all"),
        ({"groups": 4}, (4, 4), r"groups whose filters are kept, and none of others: \[0, 1\] of 4"),
    ],
)
def test_small_inputs_that_cannot_be(options, shapes, message):
    layer = AdjoinedConv2D(8, 3, alpha=2, name="c", **options)
    full, small = ((2, 5, 5, channels) for channels in shapes)
    with pytest.raises(ValueError, match=message):
        layer.build([full, small])
    with pytest.raises(ValueError, match=r"'c' expects \[x_full, x_small\]"):
        layer(np.ones(full))


def test_weights_that_were_changed_are_refused():
    """A slice of an int8 kernel without its scale would be another layer."""
    x = [np.ones((2, 4), "float32"), np.ones((2, 2), "float32")]
    for change in (lambda layer: layer.full.quantize("int8"), lambda layer: layer.full.enable_lora(2)):
        layer = AdjoinedDense(8, alpha=2)
        layer(x)
        change(layer)
        with pytest.raises(ValueError, match="do not quantize it or give it a LoRA"):
            layer(x)


def test_reloads_in_another_process(tmp_path):
    """One on JAX, which starts faster."""
    network, x = by_hand(), images(channels=3)[0]
    np.savez(tmp_path / "io.npz", x=x, **network.predict(x, verbose=0))
    network.save(tmp_path / "pair.keras")
    code = """
import sys, keras, numpy as np, tfjointrd
folder = sys.argv[1]
network, io = keras.saving.load_model(folder + "/pair.keras"), np.load(folder + "/io.npz")
for name, z in network.predict(io["x"], verbose=0).items():
    np.testing.assert_allclose(z, io[name], atol=1e-5)
assert network.get_layer("conv2").mask == [bool(one) for one in (0, 1, 1, 0, 0, 1, 0, 0)]
"""
    forked.run(code, tmp_path)
