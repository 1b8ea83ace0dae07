"""Layers that are configured by channel or by axis: narrowed, kept full with the reason said, or refused by name."""

import keras
import numpy as np
import pytest
from keras import layers as L

from tfjointrd import adjoin, search, slim
from tfjointrd.surgery import IN, Rule, pointwise, register_rule
from tfjointrd.surgery.rules.rule import _RULES
from tfjointrd.training.methods.adjoined import Adjoined

CHANNELS = 8
CONSTANT = keras.initializers.Constant


def around(*middle):
    """A network with layers between convolution `a` of 8 channels and convolution `b`."""
    layers = [L.Conv2D(CHANNELS, 3, padding="same", name="a"), *middle, L.Conv2D(8, 3, name="b")]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(3, name="head")])


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def check(pair):
    """The small path runs as in training, and what comes out of it computes what it does."""
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    assert np.isfinite(numpy(pair(x, training=True)["small"])).all()
    expected = numpy(pair(x, training=False)["small"])
    np.testing.assert_allclose(numpy(pair.small()(x, training=False)), expected, atol=1e-5)
    np.testing.assert_allclose(numpy(pair.full()(x, training=False)), numpy(pair(x, training=False)["full"]), atol=1e-5)


NARROWED = {
    "noise of each channel": lambda: L.Dropout(0.5, noise_shape=(None, 1, 1, CHANNELS), seed=0),
    "noise of each row": lambda: L.Dropout(0.5, noise_shape=(None, 8, 1, 1), seed=0),
    "alpha noise of each channel": lambda: L.AlphaDropout(0.5, noise_shape=(None, 1, 1, CHANNELS), seed=0),
    "channels that follow from the others": lambda: L.Reshape((8, 8, -1)),
    "one slope for all channels": lambda: L.PReLU(shared_axes=[3]),
    "a fixed kernel": lambda: L.DepthwiseConv2D(
        3, padding="same", depthwise_initializer=CONSTANT(np.ones((3, 3, CHANNELS, 1), "float32")), trainable=False
    ),
    "biases by channel": lambda: L.Conv2D(8, 1, bias_initializer=CONSTANT(np.arange(8.0))),
    "one axis in a list": lambda: L.RMSNormalization(axis=[-1]),
}
KEPT = {
    "layer normalisation over all axes": lambda: L.LayerNormalization(axis=[1, 2, 3]),
    "layer normalisation over positions": lambda: L.LayerNormalization(axis=[1, 2]),
    "batch normalisation by row": lambda: L.BatchNormalization(axis=1),
    "batch normalisation by column": lambda: L.BatchNormalization(axis=2),
    "group normalisation by row": lambda: L.GroupNormalization(4, axis=1),
    "softmax over rows": lambda: L.Softmax(axis=1),
    "statistics of each channel": lambda: L.Normalization(),
    "constants of each channel": lambda: L.Rescaling(np.linspace(1, 2, CHANNELS).tolist()),
}


@pytest.mark.parametrize("name", NARROWED)
def test_what_is_narrowed(name):
    pair = adjoin(around(NARROWED[name]()), 2, (), round_to=1)
    assert "a" not in pair.kept_full and pair.small().get_layer("a").filters == CHANNELS // 2
    check(pair)


@pytest.mark.parametrize("name", KEPT)
def test_what_stays_full_with_the_reason(name):
    layer = KEPT[name]()
    pair = adjoin(around(layer), 2, (), round_to=1)
    assert pair.kept_full["a"].startswith(f"'{layer.name}'") and pair.small().get_layer("b").filters == 4
    assert pair.small().get_layer("a").filters == CHANNELS
    check(pair)


def test_searches_narrow_them_too():
    middle = (
        NARROWED["noise of each channel"](),
        KEPT["layer normalisation over all axes"](),
        L.Conv2D(8, 1, name="c"),
    )
    dan = search(around(*middle, NARROWED["a fixed kernel"]()), (1, 2, 4), (), round_to=1, gamma=0.0)
    dan.gates.eta.assign(np.random.default_rng(1).normal(size=dan.gates.eta.shape))
    assert dan.kept_full["a"].endswith("needs them all") and "c" not in dan.kept_full
    check(dan)


def shared_reshape():
    """One reshape called on vectors of two convolutions, whose channels are dropped alike then."""
    inputs, reshape = keras.Input((8, 8, 3)), L.Reshape((1, 1, CHANNELS), name="shared")
    x = L.Conv2D(CHANNELS, 3, name="a")(inputs)
    pooled = [L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(L.Conv2D(CHANNELS, 3, name="other")(inputs))]
    y = L.Concatenate()([L.Conv2D(4, 1)(reshape(one)) for one in pooled])
    return keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(y)))


def test_one_configuration_for_several_calls():
    model = shared_reshape()
    pair = adjoin(model, {"a": 2, "other": 4}, round_to=1)
    assert pair.small().get_layer("a").filters == pair.small().get_layer("other").filters == 4
    check(pair)
    narrow = slim(model, {"a": [1, 5]})
    assert narrow.get_layer("other").filters == 2


# === What has no narrow form ===


@keras.saving.register_keras_serializable("tests")
class Tinted(L.Layer):
    """Adds a colour, one number for each channel, which is part of its configuration."""

    def __init__(self, colour, **kwargs):
        super().__init__(**kwargs)
        self.colour = list(colour)

    def call(self, x):
        return x + keras.ops.convert_to_tensor(self.colour, x.dtype)

    def get_config(self):
        return {**super().get_config(), "colour": self.colour}


@keras.saving.register_keras_serializable("tests")
class NoisyInTraining(Tinted):
    """Does so in training only, so that making the layer shows nothing."""

    def call(self, x, training=None):
        return super().call(x) if training else x

    def compute_output_spec(self, x, training=None):
        if training:
            assert x.shape[-1] == len(self.colour), "one number for each channel"
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.parametrize("layer_class", [Tinted, NoisyInTraining])
def test_layers_without_a_narrow_form_are_named(layer_class):
    register_rule(layer_class, pointwise())
    try:
        model = around(layer_class(np.arange(float(CHANNELS)), name="tinted"))
        calls = [
            lambda: adjoin(model, 2, (), round_to=1),
            lambda: search(model, (1, 2), (), round_to=1, gamma=0.0),
            lambda: slim(model, {"a": [0, 3]}),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=rf"Layer 'tinted' \({layer_class.__name__}\) .* no form with fewer"):
                call()
        check(adjoin(model, 2, ["a"], round_to=1))  # as it stays full, nothing is asked of it
    finally:
        del _RULES[layer_class]


@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: L.Conv2D(8, 3, activation=L.PReLU(), name="mine"), "its activation is a layer with weights"),
        (lambda: L.Conv2D(8, 3, lora_rank=2, name="mine"), "its weight 'lora_kernel_a' has the shape"),
    ],
    ids=["activation", "lora"],
)
def test_weights_that_the_table_does_not_know(layer, reason):
    with pytest.raises(ValueError, match=rf"Layer 'mine' \(Conv2D\) .*What went wrong: {reason}"):
        adjoin(around(layer()), 2, (), round_to=1)


# === Operators with several outputs ===


def halves(ends):
    """Parts of a tensor: one convolved beside another, the rest behind."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, padding="same", name="stem")(inputs)
    first, second, *rest = keras.ops.split(x, ends, axis=-1)
    y = L.Conv2D(second.shape[-1], 3, padding="same", name="within")(first) + second
    x = L.Conv2D(8, 3, name="behind")(L.Concatenate()([y, *rest]))
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("ends", [2, [4, 12], [8]])
def test_every_part_of_a_split_keeps_channels(ends):
    model = halves(ends)
    for pair in (adjoin(model, 2, (), round_to=1), search(model, (2, 4), (), round_to=1, gamma=0.0)):
        check(pair)
    small = adjoin(model, 4, (), round_to=1).small()
    assert small.get_layer("stem").filters == 4 and small.get_layer("within").filters == 2
    check(adjoin(model, 4, ["within"], round_to=1))  # whose channels are a part of the stem's


@keras.saving.register_keras_serializable("tests")
class Beside(L.Layer):
    """A tensor scaled, and beside it as it is."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="random_normal")

    def call(self, x):
        return {"scaled": x * self.scale, "whole": x}


def test_layers_of_your_own_with_several_outputs():
    inputs = keras.Input((8, 8, 3))
    found = Beside(name="beside")(L.Conv2D(CHANNELS, 3, name="a")(inputs))
    x = L.Conv2D(8, 3, name="b")(L.Concatenate()([found["whole"], found["scaled"]]))
    model = keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))
    register_rule(Beside, pointwise({"scale": (IN,)}))
    try:
        with pytest.raises(ValueError, match=r"Layer 'beside' \(Beside\) returns 2 tensors.* Received: those of 1"):
            slim(model, {"a": [0, 7]})
        register_rule(Beside, Rule(lambda analysis, call, spec, inputs: [inputs[0]] * 2, {"scale": (IN,)}))
        assert slim(model, {"a": [0, 7]}).get_layer("b").kernel.shape == (3, 3, 4, 8)
        check(adjoin(model, 2, (), round_to=1))
        check(adjoin(model, 2, ["a"], round_to=1))
        check(search(model, (2, 4), (), round_to=1, gamma=0.0))
    finally:
        del _RULES[Beside]


def test_a_part_without_channels_is_an_error():
    with pytest.raises(ValueError, match="Layer 'split.*' would be left without channels"):
        slim(halves(2), {"stem": range(8)})
    inputs = keras.Input((8, 8, 3))
    images = keras.ops.concatenate(keras.ops.split(L.Conv2D(8, 3, name="a")(inputs), 2, axis=0), axis=-1)
    with pytest.raises(ValueError, match="Layer 'split.*' splits the batch"):
        slim(keras.Model(inputs, L.Conv2D(4, 1)(images)), {"a": [0]})


# === Masks ===


def test_masks_are_masks():
    model = around()
    mask = np.array([False, True, True, False, True, False, False, False])
    expected = slim(model, {"a": [1, 2, 4]}).get_weights()
    for keep in (
        mask,
        mask.tolist(),
        keras.ops.convert_to_tensor(mask),
        np.array([1, 2, 4], "uint8"),
        (i for i in (1, 2, 4)),
    ):
        for ours, theirs in zip(slim(model, {"a": keep}).get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    by_mask, by_number = (Adjoined(model, {"small": {"a": keep}}) for keep in (mask, 3))
    assert by_mask.small().get_layer("a").filters == 3 == by_number.small().get_layer("a").filters
    np.testing.assert_array_equal(by_mask.small().get_weights()[0], expected[0])
    assert by_mask.get_config()["keep"] == {"small": {"a": [1, 2, 4]}}
    for wrong in ([0.0, 1.9], np.array([1.0]), [True, 2], "ab", [None], [[0, 1]], True, 1.5):
        with pytest.raises(
            ValueError, match=r"Expected `keep.*positions of channels as whole numbers, or to be a mask"
        ):
            Adjoined(model, {"small": {"a": wrong}})
    with pytest.raises(ValueError, match="a mask of booleans, to have an entry for each of 8 channels. Received: 2"):
        slim(model, {"a": [True, False]})
