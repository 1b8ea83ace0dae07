"""What surgery, reports and trainings do with a layer, held against the table."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from layer_cases import BUILT, CHANNELS, LAYERS, RNG, Case, apply, marked, name_of

from tfjointrd import report, slim
from tfjointrd.export.samples import sample
from tfjointrd.layers import FitChannels
from tfjointrd.surgery import Channels, pointwise, read_graph, register_rule
from tfjointrd.surgery.gated import GatedGraph
from tfjointrd.surgery.output_activation import final_activation
from tfjointrd.surgery.rules import describe, rule_for
from tfjointrd.surgery.rules.activations import LIKE_RELU
from tfjointrd.surgery.rules.rule import _RULES
from tfjointrd.training.distillers import last_map


def floats(x):
    """Truth values as numbers, which layers take."""
    return ops.cast(x, "float32") if x.dtype == "bool" else x


def chain(function):
    """The layer or operator between two convolutions, and its name."""
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(CHANNELS, 1, name="first", bias_initializer="random_normal")(inputs)
    y = floats(function(x))
    flat = y if len(y.shape) == 4 else L.Reshape((1, -1, y.shape[-1]) if len(y.shape) > 2 else (1, 1, y.shape[-1]))(y)
    return keras.Model(inputs, L.Dense(2, name="last")(L.Conv2D(3, 1, name="second")(flat)))


def narrow_copies_compute_the_same(case):
    """Of channels that are dropped where they are zero, only a normalisation that counts channels takes note."""
    rule, count = case.rule, case.count
    if len(case.shape) != 3 or rule.channels is None or case.shape[-1] != CHANNELS or rule.producer:
        return
    model = chain(lambda x: apply(case.key)[0](*[x] * count))
    for variable in model.weights:
        variable.assign(RNG.uniform(0.5, 1.5, variable.shape))
    graph = read_graph(model)
    channels, kept = Channels(graph), [0, 2, 3]
    if channels.fixed("first") or case.key is FitChannels:  # which refuses to lose a channel between others
        return
    first = model.get_layer("first")
    for variable in first.weights:
        value = ops.convert_to_numpy(variable.value).copy()
        value[..., 1] = 0
        variable.assign(value)
    narrow = slim(model, {"first": kept})
    ref = next(call.inputs[0] for call in graph.calls if call.layer == "second")
    places = channels.keep({"first": kept})[ref]
    if graph.layers[ref.layer].cls is L.Reshape and len(places) == graph.shapes[ref][-1]:
        return
    x = RNG.uniform(0.1, 1, (2, 6, 6, 3)).astype("float32")
    full, small = (
        ops.convert_to_numpy(keras.Model(net.input, net.get_layer("second").input)(x)) for net in (model, narrow)
    )
    same = np.allclose(full[..., places], small, atol=1e-5)
    assert same == (rule.normalizes != "channels")
    assert len(places) < graph.shapes[ref][-1]


def live_memory_agrees(case):
    if len(case.shape) != 3 or case.count == 2 or case.shape[-1] != CHANNELS:
        return
    model = chain(apply(case.key)[0])
    rows = report.profile(model).layers
    place = next(i for i, row in enumerate(rows) if row.name == "first") + 1
    if case.key == "Squeeze":
        place += 1
    before, row = rows[place - 1].output_bytes, rows[place]
    in_place = bool(case.rule.in_place) and row.output_bytes == before
    in_place |= case.key is keras.layers.ZeroPadding2D  # which the convolution behind it does itself
    assert row.live_bytes == (before if in_place else before + row.output_bytes)


def searches_agree(case):
    """Gates scale channels behind what does not keep zeros."""
    if len(case.shape) != 3 or case.rule.channels is None or case.shape[-1] != CHANNELS or case.rule.producer:
        return
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(CHANNELS, 1, name="first")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(floats(apply(case.key)[0](*[x] * case.count)))))
    graph = read_graph(model)
    if Channels(graph).fixed("first"):
        return
    full = {layer: list(range(Channels(graph).width(layer))) for layer in Channels(graph).producers()}
    gated = GatedGraph(graph, [full, {**full, "first": [0, 1]}], (1, 2))
    call = next(call for call in graph.calls if call.layer == "first")
    behind = graph.consumers()[call.output][0]
    own = case.key is FitChannels  # whose channels are its own
    if case.rule.keeps_zeros is not None and case.key != "Squeeze" and not own:
        assert gated._keeps_zero(behind) == case.rule.keeps_zeros


def features_and_probabilities_agree(case):
    if case.count == 2 or case.shape[-1] != CHANNELS or len(case.shape) != 3 or case.rule.activation is None:
        return
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(CHANNELS, 1, name="last_convolution")(inputs)
    network = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(apply(case.key)[0](x))))
    assert (last_map(read_graph(network)).layer == "last_convolution") == (case.rule.activation in LIKE_RELU)
    y = L.Dense(CHANNELS)(L.Flatten()(inputs))
    if case.key != L.PReLU:
        ends = final_activation(keras.Model(inputs, L.Identity()(apply(case.key)[0](y))))
        known = {"softmax": "softmax", **dict.fromkeys(("sigmoid", "hard_sigmoid", "sparse_sigmoid"), "sigmoid")}
        assert ends == known.get(case.rule.activation)


def samples_agree(case):
    """Images from 0 to 1 are refused where a network rescales pixels, whatever keeps their range stands ahead."""
    if isinstance(case.key, str) or len(case.shape) != 3 or not case.rule.keeps_range or case.rule.pools:
        return
    layer = LAYERS.get(case.key.__name__, case.key)()
    inputs = keras.Input((6, 6, 3))
    if case.key.__name__ in ("Reshape", "FitChannels"):
        return
    model = keras.Model(inputs, L.Rescaling(1 / 255)(layer(inputs)))
    with pytest.raises(ValueError, match="Expected `representative_data` to hold pixels from 0 to 255"):
        sample(RNG.uniform(size=(4, 6, 6, 3)), model)


CHECKS = [
    narrow_copies_compute_the_same,
    live_memory_agrees,
    searches_agree,
    features_and_probabilities_agree,
    samples_agree,
]


@pytest.mark.parametrize("key", marked(BUILT), ids=name_of)
def test_readers_agree_with_the_table(key):
    case = Case(key)
    for check in CHECKS:
        check(case)


def test_user_classes_are_taught_all_at_once():
    """A rule for one class teaches surgery, reports and trainings; subclasses inherit traits but no channels."""

    class Star(L.Layer):
        def call(self, x):
            return ops.relu(x) ** 2 * 0.5

    class Sun(Star):
        pass

    register_rule(Star, pointwise(elementwise=True, in_place=True, activation="relu", keeps_zeros=True))
    try:
        model = chain(Sun(name="sun"))
        graph = read_graph(model)
        found = describe(graph.layers["sun"])
        assert found.activation == "relu" and found.in_place and found.keeps_zeros
        with pytest.raises(ValueError, match="Layer 'sun' is a Sun, and surgery does not know how channels pass"):
            rule_for("sun", graph.layers["sun"])
        report.register_macs(Star, lambda layer, inputs, output: 7)
        register_rule(Star, pointwise(in_place=False))
        rows = {row.name: row for row in report.profile(model).layers}
        assert rows["sun"].macs == 7 and rows["sun"].live_bytes == 2 * rows["sun"].output_bytes
    finally:
        del _RULES[Star]
    with pytest.raises(ValueError, match="Expected `layer_class` to be a subclass of keras.Layer"):
        register_rule(int, pointwise())
