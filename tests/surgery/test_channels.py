import keras
import numpy as np
import pytest

from tfjointrd.surgery import IN, Channels, Ref, Rule, pointwise, read_graph, register_rule, slim
from tfjointrd.surgery.rules.rule import _RULES

L = keras.layers


def kept(model, wanted):
    return Channels(read_graph(model)).keep(wanted)


def test_additions_tie_and_naming_one_is_enough(residual):
    channels = Channels(read_graph(residual))
    sizes = sorted(len(group) for group in channels.groups())
    # stem + block 1 (2 tied), block 1's inner, [projection, block 2's and block 3's last] tied, two inner, head
    assert sizes == [1, 1, 1, 1, 2, 3]
    tied = next(group for group in channels.groups() if len(group) == 3)
    assert "projection" in tied
    result = channels.keep({"projection": [0, 3, 5]})
    for layer in tied:
        assert result[Ref(layer)].tolist() == [0, 3, 5]
    # named layers that disagree: the stream is as wide as its widest part
    other = next(layer for layer in tied if layer != "projection")
    assert channels.keep({"projection": [0], other: [1]})[Ref("projection")].tolist() == [0, 1]


def test_concatenation_strings_together():
    inputs = keras.Input((4, 4, 3))
    a, b = L.Conv2D(4, 1, name="a")(inputs), L.Conv2D(6, 1, name="b")(inputs)
    x = L.Concatenate(name="cat")([a, b])
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten(name="flat")(L.Conv2D(3, 1, name="c")(x))))
    result = kept(model, {"a": [1, 2], "b": [0, 5], "c": [2]})
    assert result[Ref("cat")].tolist() == [1, 2, 4, 9]
    assert result[Ref("flat")].tolist() == [3 * i + 2 for i in range(16)]
    assert result[Ref("head")].tolist() == [0, 1]


def test_groups_are_kept_whole():
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(8, 1, name="a")(inputs)
    x = L.Conv2D(12, 3, groups=4, padding="same", name="grouped")(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    model = keras.Model(inputs, L.Conv2D(2, 1, name="head")(x))
    result = kept(model, {"a": [0]})
    assert result[Ref("a")].tolist() == [0, 1]
    assert result[Ref("grouped")].tolist() == [0, 1, 2]
    assert result[Ref("depthwise")].tolist() == list(range(6))
    narrow = slim(model, {"a": [0, 1, 4]})
    assert narrow.get_layer("grouped").groups == 2
    assert narrow.get_layer("grouped").kernel.shape == (3, 3, 2, 6)


def test_squeeze_and_excitation_follows_its_stream():
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(8, 1, name="a")(inputs)
    gate = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    gate = L.Conv2D(8, 1, activation="sigmoid", name="excite")(L.Conv2D(4, 1, name="squeeze")(gate))
    x = L.Multiply(name="scaled")([x, gate])
    model = keras.Model(inputs, L.Conv2D(2, 1)(x))
    result = kept(model, {"a": [2, 3, 6]})
    assert result[Ref("excite")].tolist() == result[Ref("scaled")].tolist() == [2, 3, 6]
    assert slim(model, {"a": [2, 3, 6]}).get_layer("squeeze").kernel.shape == (1, 1, 3, 4)


def test_what_mixes_channels_stays_wide():
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(8, 1, name="a")(inputs)
    x = L.Permute((3, 1, 2))(x)
    model = keras.Model(inputs, L.Conv2D(4, 1, name="b")(x))
    channels = Channels(read_graph(model))
    assert channels.fixed("a") and channels.fixed("b")
    with pytest.raises(ValueError, match="Received: 'a', whose 8 channels"):
        slim(model, {"a": [0]})
    softmaxed = keras.Model(inputs, L.Conv2D(2, 1)(L.Conv2D(8, 1, activation="softmax", name="attend")(inputs)))
    assert Channels(read_graph(softmaxed)).fixed("attend")


def test_a_kernel_called_twice_sees_the_same_channels():
    inputs = keras.Input((4, 4, 8))
    conv, bn = L.Conv2D(8, 1, name="twice"), L.BatchNormalization(name="bn")
    a = L.Conv2D(8, 1, name="a")(inputs)
    model = keras.Model(inputs, L.Conv2D(2, 1)(bn(conv(bn(conv(a))))))
    narrow = slim(model, {"a": [1, 4]})
    assert narrow.get_layer("twice").kernel.shape == (1, 1, 2, 2)
    np.testing.assert_array_equal(
        narrow.get_layer("twice").get_weights()[0][0, 0], conv.get_weights()[0][0, 0][np.ix_([1, 4], [1, 4])]
    )


def test_unknown_layers_are_named_and_can_be_taught():
    class Scale(L.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor", initializer="random_normal")

        def call(self, x):
            return x * self.factor

    inputs = keras.Input((4, 4, 3))
    x = Scale(name="mine")(L.Conv2D(8, 1, name="a")(inputs))
    model = keras.Model(inputs, L.Conv2D(2, 1)(x))
    with pytest.raises(ValueError, match="Layer 'mine' is a Scale"):
        slim(model, {"a": [0, 7]})
    register_rule(Scale, pointwise({"factor": (IN,)}))
    try:
        narrow = slim(model, {"a": [0, 7]})
    finally:
        del _RULES[Scale]
    factor = model.get_layer("mine").get_weights()[0]
    np.testing.assert_array_equal(narrow.get_layer("mine").get_weights()[0], factor[[0, 7]])
    assert isinstance(pointwise(), Rule)


@pytest.mark.parametrize(
    "wanted, message",
    [
        ({"nobody": [0]}, "Received: 'nobody'"),
        ({"end": [0]}, "Received: 'end'"),
        ({"projection": []}, r"keep between 1 and 16 channels.*Received: \[\]"),
        ({"projection": [16]}, r"Received: \[16\]"),
        ({"projection": [-1]}, r"Received: \[-1\]"),
        ({"head": [0]}, "Received: 'head', whose 5 channels"),
    ],
)
def test_requests_that_cannot_be_met(residual, wanted, message):
    with pytest.raises(ValueError, match=message):
        slim(residual, wanted)


def test_channels_first_is_refused():
    inputs = keras.Input((3, 4, 4))
    model = keras.Model(inputs, L.Conv2D(2, 1, data_format="channels_first", name="c")(inputs))
    with pytest.raises(ValueError, match="'c' expects data_format='channels_last'"):
        Channels(read_graph(model))


def between(function):
    """A layer or operator between two convolutions."""
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(8, 1, name="a")(inputs)
    return keras.Model(inputs, L.Conv2D(2, 1, name="b")(function(x)))


@pytest.mark.parametrize(
    "function",
    [
        keras.activations.glu,
        L.LayerNormalization(axis=[1, 2, 3]),
        lambda x: x * np.arange(8, dtype="float32"),
        lambda x: keras.ops.transpose(x, (0, 3, 2, 1)),
        lambda x: keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 1]]),
        lambda x: keras.ops.mean(x, axis=-1, keepdims=True),
        lambda x: keras.ops.reshape(x, (-1, 4, 8, 4)),
    ],
    ids=["glu", "normalisation", "constants", "transpose", "pad", "mean", "reshape"],
)
def test_what_is_said_of_all_channels_keeps_them(function):
    model = between(function)
    assert Channels(read_graph(model)).fixed("a")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(slim(model, {"a": range(8)})(x), model(x), atol=1e-6)


@pytest.mark.parametrize(
    "function, message",
    [
        (L.Dense(6, activation="glu", name="halves"), "Layer 'halves' has the activation 'glu'"),
        (
            lambda x: keras.ops.cumsum(x, axis=1),
            "Layer 'cumsum.*' is a Cumsum, and surgery does not know how channels pass",
        ),
        (lambda x: x + keras.ops.mean(x, axis=0, keepdims=True), "Layer 'mean.*' reduces over the batch"),
    ],
    ids=["glu", "cumsum", "batch"],
)
def test_operators_that_surgery_cannot_follow_are_named(function, message):
    with pytest.raises(ValueError, match=message):
        Channels(read_graph(between(function)))


def test_operators_of_your_own_can_be_taught():
    class Doubled(keras.Operation):
        def call(self, x):
            return 2 * x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = between(lambda x: Doubled(name="twice")(x))
    with pytest.raises(ValueError, match="Layer 'twice' is a Doubled"):
        slim(model, {"a": [0, 7]})
    register_rule(Doubled, pointwise(elementwise=True))
    try:
        assert slim(model, {"a": [0, 7]}).get_layer("b").kernel.shape == (1, 1, 2, 2)
    finally:
        del _RULES[Doubled]
