"""Multiply-accumulates of single layers, counted a second time by the layers themselves.

With ones for weights and inputs and without padding, each multiply-accumulate adds exactly one to the sum of the
outputs.
"""

import keras
import numpy as np
import pytest
from keras import layers

import tfjointrd
from tfjointrd import report, surgery
from tfjointrd.surgery.macs import layer_macs
from tfjointrd.surgery.rules.counters import kernel_parameters

IMAGE, SIGNAL, VOLUME = (2, 11, 9, 6), (2, 11, 6), (2, 7, 8, 9, 2)


def in_network(layer, shape):
    """The layer's MACs as a one-layer network's profile has them."""
    inputs = keras.Input(batch_shape=shape)
    return report.profile(keras.Model(inputs, layer(inputs))).macs


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(5, 3), SIGNAL),
        (layers.Conv1D(4, 3, strides=2, groups=2), SIGNAL),
        (layers.Conv2D(5, (3, 2)), IMAGE),
        (layers.Conv2D(5, 3, strides=(2, 3)), IMAGE),
        (layers.Conv2D(5, 3, dilation_rate=2), IMAGE),
        (layers.Conv2D(9, 3, groups=3), IMAGE),
        (layers.Conv2D(6, 3, groups=6, use_bias=False), IMAGE),
        (layers.Conv3D(3, (2, 3, 1)), VOLUME),
        (layers.DepthwiseConv1D(3, depth_multiplier=2), SIGNAL),
        (layers.DepthwiseConv2D(3), IMAGE),
        (layers.DepthwiseConv2D(3, strides=2, depth_multiplier=3), IMAGE),
        (layers.Conv1DTranspose(4, 3, strides=2), SIGNAL),
        (layers.Conv2DTranspose(4, 3), IMAGE),
        (layers.Conv2DTranspose(4, 3, strides=2), IMAGE),
        (layers.Conv3DTranspose(4, 2, strides=2), VOLUME),
        (layers.Dense(7), (3, 6)),
        (layers.Dense(7, activation="relu"), IMAGE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else "x".join(map(str, value)),
)
def test_each_multiply_accumulate_adds_one(layer, shape):
    layer.build(shape)
    layer.set_weights([np.ones(w.shape) if "kernel" in w.name else np.zeros(w.shape) for w in layer.weights])
    assert in_network(layer, shape) == int(np.sum(layer(np.ones(shape, "float32"))))


def test_separable_convolutions_are_depthwise_and_pointwise():
    for separable, depthwise, pointwise, shape in (
        (layers.SeparableConv1D, layers.DepthwiseConv1D, layers.Conv1D, SIGNAL),
        (layers.SeparableConv2D, layers.DepthwiseConv2D, layers.Conv2D, IMAGE),
    ):
        first = depthwise(3, strides=2, depth_multiplier=2, padding="same")
        middle = first.compute_output_shape(shape)
        expected = in_network(first, shape) + in_network(pointwise(5, 1), middle)
        assert in_network(separable(5, 3, strides=2, depth_multiplier=2, padding="same"), shape) == expected


def test_padding_counts_like_any_position():
    assert in_network(layers.Conv2D(5, 3, padding="same"), IMAGE) == 2 * 11 * 9 * 9 * 6 * 5


@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_channels_first_counts_the_same(name):
    class_, shape = getattr(layers, name), (2, 6, 11, 9)
    layer = class_(5, 3, padding="same", data_format="channels_first")
    layer.build(shape)
    assert layer_macs(layer, [shape], [(2, 5, 11, 9)]) == 2 * 11 * 9 * 9 * 6 * 5


@pytest.mark.parametrize(
    "layer",
    [
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.PReLU(),
        layers.MaxPooling2D(),
        layers.ReLU(),
        layers.Rescaling(2.0),
        layers.RandomFlip(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_has_no_kernel_is_free(layer):
    assert in_network(layer, IMAGE) == 0


class Scale(layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=input_shape[-1:], name="scale")

    def call(self, inputs):
        return inputs * self.scale


def network_with(layer):
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layer, layers.Conv2D(2, 1)], name="custom")


@pytest.mark.parametrize(
    "layer",
    [Scale(name="mine"), layers.TimeDistributed(layers.Dense(2), name="mine")],
    ids=["Scale", "TimeDistributed"],
)
def test_a_layer_nobody_can_count_is_listed(layer):
    costs = report.profile(network_with(layer))
    assert costs.uncounted == ("mine",)
    (row,) = [row for row in costs.layers if row.name == "mine"]
    assert row.macs is None and row.parameters > 0
    assert costs.macs == sum(row.macs for row in costs.layers if row.name != "mine") > 0
    text = costs.table()
    assert "unknown" in next(line for line in text.splitlines() if line.startswith("mine"))
    assert "Not in MACs            mine" in text


def test_products_of_tensors_are_listed():
    inputs = keras.Input((4, 4))
    costs = report.profile(keras.Model(inputs, keras.ops.matmul(inputs, inputs)))
    assert len(costs.uncounted) == 1
    assert report.profile(keras.Model(inputs, layers.Dot(axes=1, name="dot")([inputs, inputs]))).uncounted == ("dot",)


def test_layers_on_several_paths_are_not_counted_as_one():
    pair = tfjointrd.adjoin(tfjointrd.models.resnet20(), 2)
    assert "stage3_block1_conv1" in report.profile(pair.network).uncounted


def test_layers_of_your_own_can_be_counted():
    class Counted(Scale):
        pass

    class Subclass(Counted):
        pass

    report.register_macs(Counted, lambda layer, input_shapes, output_shape: int(np.prod(output_shape)))
    costs = report.profile(network_with(Subclass(name="mine")), batch_size=3)
    assert costs.uncounted == ()
    assert [row.macs for row in costs.layers if row.name == "mine"] == [3 * 6 * 6 * 4]


def test_only_layer_classes_can_be_registered():
    for wrong in (int, layers.ReLU(), "Conv2D"):
        with pytest.raises(ValueError, match="`layer_class` to be a subclass of keras.Layer. Received: layer_class="):
            report.register_macs(wrong, lambda *arguments: 0)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantised_layers_cost_what_they_did(mode):
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(5)(layers.Dense(7)(x)))
    before = report.profile(model)
    model.quantize(mode)
    costs = report.profile(model)
    assert (costs.macs, costs.kernel_parameters) == (before.macs, before.kernel_parameters)
    added = sum(np.prod(w.shape) for w in model.weights if w.name not in ("kernel", "bias"))
    assert costs.parameters == before.parameters + added


def test_quantised_layers_within_layers():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(7)

        def call(self, x):
            return self.inner(x)

    block = Block()
    block(np.ones((1, 6)))
    block.inner.quantize("int4")
    assert kernel_parameters(block) == 42


def test_adapters_are_merged():
    dense = layers.Dense(7)
    dense.build((None, 6))
    dense.enable_lora(2)
    assert in_network(dense, (3, 6)) == 3 * 42


def test_functions_of_ones_own_are_not_free():
    """What a Lambda or a layer of one's own computes without weights is not known."""

    class Squared(keras.layers.Layer):
        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))

    class Gate(keras.layers.Layer):
        def call(self, x):
            return x * keras.ops.sigmoid(x)

    surgery.register_rule(Gate, surgery.pointwise(elementwise=True))  # is described
    inputs = keras.Input((8, 4))
    assert report.profile(keras.Model(inputs, Gate()(layers.Dense(4)(inputs)))).uncounted == ()
    for layer in (layers.Lambda(lambda x: keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))), Squared()):
        costs = report.profile(keras.Model(inputs, layer(layers.Dense(4)(inputs))))
        assert costs.macs == 8 * 16 and len(costs.uncounted) == 1
