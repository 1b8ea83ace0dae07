"""Live activation memory of small networks, by hand. Unit: one feature map of 4x4x1 float32, 64 bytes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfjointrd import report

UNIT = 64


def convolution(channels, name):
    return layers.Conv2D(channels, 1, name=name)


def live(inputs, outputs):
    """Live units by layer name; operators by class name."""
    rows = report.profile(keras.Model(inputs, outputs)).layers
    return {row.name if not row.name.startswith("tf.") else row.class_name: row.live_bytes / UNIT for row in rows}


def test_a_chain_holds_input_and_output_of_the_running_layer():
    x = keras.Input((4, 4, 1), name="in")
    y = convolution(2, "c")(convolution(4, "b")(convolution(3, "a")(x)))
    assert live(x, y) == {"in": 1, "a": 1 + 3, "b": 3 + 4, "c": 4 + 2}


def test_a_shortcut_lives_until_it_is_added():
    x = keras.Input((4, 4, 1), name="in")
    a = convolution(3, "a")(x)
    c = convolution(3, "c")(convolution(1, "b")(a))
    y = convolution(1, "d")(layers.Add(name="add")([c, a]))
    assert live(x, y) == {"in": 1, "a": 4, "b": 3 + 1, "c": 3 + 1 + 3, "add": 3 + 3 + 3, "d": 3 + 1}


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(name="e"),
        layers.ReLU(name="e"),
        layers.Activation("silu", name="e"),
        layers.PReLU(name="e"),
        layers.Dropout(0.5, name="e"),
        layers.Rescaling(2.0, name="e"),
        layers.Reshape((16, 3), name="e"),
        layers.Flatten(name="e"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_elementwise_layers_and_reshapes_work_in_place(layer):
    x = keras.Input((4, 4, 1), name="in")
    y = layers.Dense(1, name="end")(layer(convolution(3, "a")(x)))
    assert live(x, y)["e"] == 3


def test_in_place_needs_an_input_that_nobody_takes_later():
    x = keras.Input((4, 4, 1), name="in")
    a = convolution(3, "a")(x)
    relu = layers.ReLU(name="relu")(a)
    y = layers.Add(name="add")([convolution(3, "b")(relu), a])
    assert live(x, y) == {"in": 1, "a": 4, "relu": 6, "b": 9, "add": 9}


def test_a_last_reader_may_overwrite():
    x = keras.Input((4, 4, 1), name="in")
    a = convolution(3, "a")(x)
    b = convolution(1, "b")(a)
    relu = layers.ReLU(name="relu")(a)
    y = layers.Concatenate(name="join")([b, relu])
    order = [row.name for row in report.profile(keras.Model(x, y)).layers]
    expected = {"b": 3 + 1, "relu": 1 + 3} if order.index("b") < order.index("relu") else {"relu": 6, "b": 7}
    result = live(x, y)
    assert {name: result[name] for name in expected} == expected


def test_outputs_are_never_overwritten():
    x = keras.Input((4, 4, 1), name="in")
    a = convolution(3, "a")(x)
    relu = layers.ReLU(name="relu")(a)
    b = convolution(1, "b")(relu)
    assert live(x, [a, b]) == {"in": 1, "a": 4, "relu": 6, "b": 7}
    assert live(x, [a, relu])["relu"] == 6


def test_all_inputs_are_there_from_the_start():
    x, z = keras.Input((4, 4, 1), name="x"), keras.Input((4, 4, 5), name="z")
    y = layers.Concatenate(name="join")([convolution(2, "a")(x), z])
    assert live([x, z], y) == {"x": 6, "a": 1 + 5 + 2, "z": 2 + 5, "join": 2 + 5 + 7}


def test_arithmetic_with_constants_works_in_place_and_between_tensors_not():
    x = keras.Input((4, 4, 1))
    a = convolution(3, "a")(x)
    rows = report.profile(keras.Model(x, convolution(1, "b")(ops.relu(a * 0.5 + 1.0)))).layers
    assert [row.live_bytes / UNIT for row in rows if row.class_name in ("Multiply", "Add", "Relu")] == [3, 3, 3]
    rows = report.profile(keras.Model(x, a + convolution(3, "b")(a))).layers
    assert [row.live_bytes / UNIT for row in rows if row.class_name == "Add"] == [9]


def test_a_constant_that_widens_the_tensor_does_not_work_in_place():
    x = keras.Input((4, 4, 1), name="in")
    y = ops.multiply(convolution(1, "a")(x), np.ones((1, 1, 1, 3), "float32"))
    row = report.profile(keras.Model(x, y)).layers[-1]
    assert (row.output_bytes / UNIT, row.live_bytes / UNIT) == (3, 1 + 3)


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "SeparableConv2D"])
def test_padding_in_a_convolution_makes_no_copy(kind):
    """Unpadded 4x4x3 lives until the convolution has run; 6x6 pixels never do."""
    x = keras.Input((4, 4, 1), name="in")
    pad = layers.ZeroPadding2D(1, name="pad")(convolution(3, "a")(x))
    arguments = {} if kind == "DepthwiseConv2D" else {"filters": 3}
    y = getattr(layers, kind)(kernel_size=3, name="b", **arguments)(pad)
    assert live(x, y) == {"in": 1, "a": 4, "pad": 3, "b": 3 + 3}


def test_padding_lives_as_long_as_its_last_reader_and_nobody_overwrites_it():
    x = keras.Input((4, 4, 1), name="in")
    a = convolution(3, "a")(x)
    pad = layers.ZeroPadding2D(1, name="pad")(a)
    relu = layers.ReLU(name="relu")(a)
    b, c = (layers.Conv2D(1, 3, name=name)(pad) for name in "bc")
    y = layers.Concatenate(name="join")([relu, b, c])
    found = live(x, y)
    assert found["join"] == 3 + 1 + 1 + 5
    assert max(found["b"], found["c"]) == 3 + 3 + 1 + 1  # both a and relu: the latter could not work in place


@pytest.mark.parametrize(
    "reader",
    [layers.MaxPooling2D(3, 1, name="b"), layers.Conv2D(3, 3, padding="same", name="b"), None],
    ids=["pooling", "same", "output"],
)
def test_padding_that_something_else_reads_is_a_copy(reader):
    x = keras.Input((4, 4, 1), name="in")
    pad = layers.ZeroPadding2D(1, name="pad")(convolution(3, "a")(x))
    found = live(x, pad if reader is None else reader(pad))
    assert found["pad"] == 3 + 3 * 36 / 16


def test_a_layer_called_twice_holds_two_outputs():
    x = keras.Input((4, 4, 1), name="in")
    shared = convolution(1, "shared")
    y = layers.Add(name="add")([shared(x), shared(layers.MaxPooling2D(1, name="pool")(x))])
    costs = report.profile(keras.Model(x, y))
    assert [row.name for row in costs.layers].count("shared") == 2
    assert {row.name: row.live_bytes / UNIT for row in costs.layers}["add"] == 3
    assert costs.parameters == 2  # shared weights count once
    assert costs.macs == 2 * 16
