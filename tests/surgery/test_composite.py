"""Layers that someone made of other layers: written out where nothing is lost, and else an error that says why."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from random_networks import randomise

from tfjointrd import adjoin, remove_shortcuts, report, slim
from tfjointrd.surgery import read_graph

SHAPE = (8, 8, 3)


class Gate(L.Layer):
    """A squeeze-and-excitation, of operators and layers."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.squeeze, self.excite = L.Conv2D(4, 1, activation="relu"), L.Conv2D(width, 1)

    def call(self, x):
        return x * ops.sigmoid(self.excite(self.squeeze(ops.mean(x, axis=(1, 2), keepdims=True))))


@keras.saving.register_keras_serializable("composite")
class Block(L.Layer):
    """A residual block with parts in lists, a network of its own, a block within, and a shortcut."""

    def __init__(self, width, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.convolutions = [L.Conv2D(width, 3, padding="same", use_bias=False) for _ in range(2)]
        self.normalizations = {"first": L.BatchNormalization(), "second": L.BatchNormalization()}
        self.mixing = keras.Sequential([L.Conv2D(width, 1), L.ReLU()])
        self.gate = Gate(width)
        self.unused = L.Dropout(rate) if rate else None

    def call(self, inputs, training=None):
        x = self.normalizations["first"](self.convolutions[0](inputs), training=training)
        x = self.mixing(ops.relu(x))
        x = self.gate(self.normalizations["second"](self.convolutions[1](x), training=training))
        return x + inputs if inputs.shape == x.shape else x

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Nest(keras.Model):
    """A network whose `call` is Python code, used as a layer."""

    def __init__(self):
        super().__init__()
        self.block = Block(16)

    def call(self, x):
        return self.block(x)


def network(*parts, shape=SHAPE):
    inputs = keras.Input(shape)
    x = L.Conv2D(16, 3, padding="same", name="stem")(inputs)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x)))


def outputs(model, **options):
    x = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype("float32")
    return keras.tree.map_structure(ops.convert_to_numpy, model(x, **options))


class Fuse(L.Layer):
    """A layer with two inputs, which it treats differently."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3)

    def call(self, x, skip):
        return self.dense(x) - skip


def test_tensors_by_keyword_keep_their_places():
    inputs = keras.Input(SHAPE)
    other = L.Dense(3)(inputs)
    for fused in (Fuse()(x=inputs, skip=other), Fuse()(skip=other, x=inputs), Fuse()(inputs, skip=other)):
        model = keras.Model(inputs, fused)
        np.testing.assert_allclose(outputs(read_graph(model).build()), outputs(model), atol=1e-5)


def test_blocks_are_written_out_in_all_that_reads_a_network():
    shared = Block(16, name="shared")
    model = randomise(network(Block(16, name="one"), shared, shared, Nest()))
    graph = read_graph(model)
    assert {spec.cls.__module__.partition(".")[0] for spec in graph.layers.values()} == {"keras"}
    names = ["one_convolutions_0", "one_normalizations_second", "one_gate_squeeze", "shared_mixing_conv2d"]
    assert set(names) <= graph.layers.keys() and "nest_block_gate_excite" in graph.layers
    assert len([call for call in graph.calls if call.layer == "shared_convolutions_1"]) == 2
    np.testing.assert_allclose(outputs(graph.build()), outputs(model), atol=1e-5)
    assert report.profile(model).parameters == model.count_params() and not report.profile(model).uncounted
    plain = remove_shortcuts(model)
    assert not any(type(operation).__name__ == "Add" for operation in plain.operations)

    pair = adjoin(model, alpha=2, keep=["stem"], round_to=1)
    trained, small = outputs(pair), pair.small()
    np.testing.assert_allclose(trained["full"], outputs(model), atol=1e-5)
    np.testing.assert_allclose(outputs(small), trained["small"], atol=1e-5)
    assert small.count_params() < model.count_params()
    assert all(type(layer).__module__.startswith("keras.") for layer in small.layers)


def test_names_do_not_depend_on_what_was_made_before():
    first = set(read_graph(network(Block(16, name="one"))).layers)
    L.Conv2D(3, 1), L.Conv2D(3, 1)
    second = set(read_graph(network(Block(16, name="one"))).layers)
    assert {n for n in first if n.startswith("one")} == {n for n in second if n.startswith("one")}


def test_a_pair_of_blocks_is_saved_and_read(tmp_path):
    pair = adjoin(randomise(network(Block(16, name="one"))), alpha=2, keep=["stem"], round_to=1)
    expected = outputs(pair)
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert again.kept_full == pair.kept_full
    np.testing.assert_allclose(outputs(again)["small"], expected["small"], atol=1e-6)


def test_layers_that_are_not_used_do_not_matter():
    """A dropout that is not called has a state of its own, which nobody reads."""
    assert "one" not in read_graph(network(Block(16, rate=0.5, name="one"))).layers


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = randomise(network(Block(16, name="one")))
    graph = read_graph(model)
    assert "one_gate_squeeze" in graph.layers
    np.testing.assert_allclose(outputs(graph.build()), outputs(model), atol=0.05)


# === What is not written out, and why ===


class Scaled(L.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.factor


class OnlyInTraining(L.Layer):
    def call(self, x, training=None):
        return ops.relu(x) if training else x


class Penalised(L.Layer):
    def call(self, x):
        self.add_loss(ops.mean(x))
        return x * 2


class AlwaysPenalised(L.Layer):
    def call(self, x):
        self.add_loss(ops.ones(()))
        return x * 2


class Noisy(L.Layer):
    def call(self, x):
        return x + keras.random.normal((1, 1, 1, 16))


class Counting(L.Layer):
    """What a backend's own functions make of a tensor is no layer."""

    def call(self, x):
        return x + np.asarray(x).sum()


class Pretending(L.Layer):
    """Symbolic tensors get another treatment than images."""

    def call(self, x):
        return x * 2 if isinstance(x, keras.KerasTensor) else x * 3


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Scaled, r"it has weights of its own \(factor\)"),
        (OnlyInTraining, "it does something else in training"),
        (Penalised, r"it cannot be called with symbolic tensors \(ValueError: `add_loss\(\)` can only.*"),
        (AlwaysPenalised, "it adds a loss"),
        (Noisy, "the layers that it calls compute something else"),
        (Pretending, "the layers that it calls compute something else"),
    ],
)
def test_what_would_be_lost_is_refused(cls, why):
    model = network(cls(name="mine"), L.Conv2D(4, 1))
    assert read_graph(model).layers["mine"].cls is cls  # which reports and JointRD take as it is
    with pytest.raises(ValueError, match=f"Layer 'mine' is a {cls.__name__}, .* replaced by .*: {why}. Add a rule"):
        slim(model, {"stem": [0, 1]})


def test_code_that_takes_no_symbolic_tensors_is_refused():
    class Plain(Counting):
        def compute_output_shape(self, shape):
            return shape

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    with pytest.raises(ValueError, match="Layer 'mine' is a Plain, .*cannot be called with symbolic tensors"):
        slim(network(Plain(name="mine")), {"stem": [0, 1]})


def test_unnamed_weights_are_known_by_their_attribute():
    """Keras numbers them through the process, so that those of a narrow copy have another name."""
    from tfjointrd.surgery import IN, pointwise, register_rule
    from tfjointrd.surgery.rules.rule import _RULES

    register_rule(Scaled, pointwise({"factor": (IN,)}))
    try:
        model = randomise(network(Scaled(name="mine"), L.Conv2D(4, 1)))
        pair = adjoin(model, 2, keep=(), round_to=1)
        np.testing.assert_allclose(outputs(pair.small()), outputs(pair)["small"], atol=1e-5)
        assert pair.small().get_layer("mine").factor.shape == (8,)
    finally:
        del _RULES[Scaled]
