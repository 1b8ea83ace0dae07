"""Networks with gates: one choice is the narrow network, and costs are those of what comes out."""

import itertools

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, models, report, search
from tfjointrd.surgery import read_graph, slim
from tfjointrd.surgery.gated import GatedGraph, candidates_of

L = keras.layers
ALPHAS = (1, 2, 4)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def every_part():
    """Pre-activation, tied layers, a concatenation, squeeze-and-excitation, biases, a dense layer behind Flatten."""
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False, name="a")(inputs)))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="b")(x)))
    x = L.Add()([x, L.Conv2D(8, 3, padding="same", name="c")(y)])
    x = L.Activation("swish")(L.BatchNormalization()(x))
    x = L.Concatenate()([x, L.Conv2D(12, 1, name="d")(x)])
    x = L.PReLU()(L.BatchNormalization()(x))
    s = L.Conv2D(8, 1, activation="relu", name="squeeze")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, L.Conv2D(20, 1, activation="sigmoid", name="excite")(s)])
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False)(keras.ops.relu6(x + 3.0))
    x = L.SeparableConv2D(8, 3, name="separable", activation="sigmoid")(x)
    x = L.Dense(8, "relu", name="hidden")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(5, name="logits")(x), name="parts")


def grouped():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, groups=4, padding="same", name="grouped")(x)))
    x = L.Conv2DTranspose(8, 3, name="transposed")(x)
    x = L.LayerNormalization(name="norm")(L.Conv2D(8, 1, name="counted")(x))
    return keras.Model(inputs, L.Dense(3, name="logits")(L.GlobalMaxPooling2D()(x)), name="grouped")


NETWORKS = {
    "parts": every_part,
    "grouped": grouped,
    "resnet20": lambda: models.resnet20(input_shape=(16, 16, 3)),
    "resnet14A": lambda: models.cifar_resnet(14, input_shape=(16, 16, 3), shortcut="A"),
    "mobilenet_v2": lambda: keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4),
}


def searching(name, ties="shared", **options):
    keep = () if name in ("parts", "grouped") else None
    dan = search(NETWORKS[name](), ALPHAS, keep, ties=ties, round_to=1, gamma=0.0, **options)
    rng = np.random.default_rng(0)
    for variable in dan.network.weights:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "moving_mean", "bias", "alpha")):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return dan


@pytest.mark.parametrize(
    ("name", "ties"),
    [
        *itertools.product(["parts", "grouped", "resnet14A"], ["shared", "free"]),
        *(pytest.param("mobilenet_v2", ties, marks=pytest.mark.slow) for ties in ("shared", "free")),
        pytest.param("resnet20", "free", marks=pytest.mark.slow),
    ],
)
def test_a_choice_is_the_narrow_network(name, ties):
    """Values to 1e-5; multiply-accumulates and parameters exactly."""
    dan = searching(name, ties)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, *dan.network.inputs[0].shape[1:])).astype("float32")
    sizes = set()
    for _ in range(3):
        dan.gates.eta.assign(rng.normal(size=dan.gates.eta.shape))
        small, found = dan.small(), numpy(dan(x, training=False)["small"])
        np.testing.assert_allclose(numpy(small(x)), found, atol=1e-5 * max(1, np.abs(found).max()))
        costs, architecture = report.profile(small), dan.architecture()
        assert (costs.macs, costs.parameters) == (architecture["macs"], architecture["parameters"])
        for layer, width in architecture["widths"].items():
            assert small.get_layer(layer).output.shape[-1] == width
        sizes.add(costs.parameters)
    assert len(sizes) > 1


@pytest.mark.parametrize("ties", ["shared", "free"])
@pytest.mark.parametrize("name", ["parts", "grouped", "resnet20"])
def test_expected_costs_are_those_of_all_choices(name, ties):
    """n_f of Definition 3 with the widths of input and output, against enumerating every architecture."""
    dan = searching(name, ties)
    while dan.gates.rows > 9:  # 3^9 architectures are enough
        dan = search(NETWORKS[name](), ALPHAS, ["stem_*", "stage1_*", "stage2_*"], ties=ties, round_to=1, gamma=0.0)
    rng = np.random.default_rng(2)
    logits = rng.normal(size=dan.gates.eta.shape)
    dan.gates.eta.assign(logits)
    g = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = {"macs": 0.0, "parameters": 0.0}
    for choice in itertools.product(range(len(ALPHAS)), repeat=dan.gates.rows):
        probability = np.prod([g[row, j] for row, j in enumerate(choice)])
        choices = [min(choice[row] for row in rows) for rows in dan.gates.groups]
        for key in expected:
            expected[key] += probability * dan.costs[key].of_choices(choices)
    architecture = dan.architecture()
    assert architecture["expected_macs"] == pytest.approx(expected["macs"], rel=1e-5)
    assert architecture["expected_parameters"] == pytest.approx(expected["parameters"], rel=1e-5)
    share = float(numpy(dan.costs["macs"].share(dan.gates.probabilities())))
    assert share * architecture["full_macs"] == pytest.approx(expected["macs"], rel=1e-5)


@pytest.mark.parametrize("ties", ["shared", "free"])
def test_latencies_are_those_of_the_table(ties):
    """Of a made-up table, in which the parts of a whole can be told apart."""
    network = NETWORKS["resnet20"]()
    keep = ["stem_*", "stage1_*", "stage2_*"]
    wanted, _ = candidates_of(read_graph(network), ALPHAS, keep, 1, ties)
    gated, rng, table = GatedGraph(read_graph(network), wanted, ALPHAS, ties), np.random.default_rng(0), {}
    for call in gated.kernel_calls():
        ins, outs = ([len(kept[ref]) for kept in gated.candidates] for ref in (call.inputs[0], call.output))
        pairs = dict.fromkeys((ins[i], outs[j]) for i, j in gated.forms(call))
        table[call.layer] = [[*pair, float(rng.uniform())] for pair in pairs]
    dan = search(network, ALPHAS, keep, ties=ties, round_to=1, latency_table=table, gamma=0.0)
    logits = rng.normal(size=dan.gates.eta.shape)
    dan.gates.eta.assign(logits)
    small = dan.small()
    found = 0.0
    for layer, rows in table.items():
        call = small.get_layer(layer)
        width = call.input.shape[-1], call.output.shape[-1]
        assert width in {(ins, outs) for ins, outs, _ in rows}
        # No less than any narrower form of the layer: then the narrowest candidates are the cheapest.
        found += max(ms for ins, outs, ms in rows if ins <= width[0] and outs <= width[1])
    architecture = dan.architecture()
    assert architecture["latency_ms"] == pytest.approx(found)
    g, expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), 0.0
    for choice in itertools.product(range(len(ALPHAS)), repeat=dan.gates.rows):
        chosen = [min(choice[row] for row in rows) for rows in dan.gates.groups]
        probability = np.prod([g[row, j] for row, j in enumerate(choice)])
        expected += probability * dan.costs["latency_ms"].of_choices(chosen)
    assert architecture["expected_latency_ms"] == pytest.approx(expected, rel=1e-5)
    ends = [dan.costs["latency_ms"].of_choices([position] * len(dan.groups)) for position in (-1, 0)]
    assert ends[0] <= architecture["latency_ms"] <= ends[1]
    with pytest.raises(ValueError, match="Expected `latency_table` with all layers. Received: one without 'stage3"):
        search(network, ALPHAS, keep, latency_table={k: v for k, v in table.items() if not k.startswith("stage3")})
    broken = {**table, "stage3_block1_conv1": [[32, 64, 1.0]]}
    with pytest.raises(ValueError, match="with layer 'stage3_block1_conv1' at 32 input and 32 output channels"):
        search(network, ALPHAS, keep, round_to=1, latency_table=broken)


def test_width_that_costs_nothing_is_taken():
    """Layers that were measured to take as long at all widths, but for one."""
    network, keep = NETWORKS["resnet20"](), ["stem_*", "stage1_*", "stage2_*"]
    wanted, _ = candidates_of(read_graph(network), ALPHAS, keep, 1, "shared")
    gated, table = GatedGraph(read_graph(network), wanted, ALPHAS, "shared"), {}
    for call in gated.kernel_calls():
        ins, outs = ([len(kept[ref]) for kept in gated.candidates] for ref in (call.inputs[0], call.output))
        slow = call.layer == "stage3_block2_conv1"
        pairs = dict.fromkeys((ins[i], outs[j]) for i, j in gated.forms(call))
        table[call.layer] = [[*pair, pair[1] if slow else 1.0] for pair in pairs]
    whole = search(network, ALPHAS, keep, round_to=1, latency_table=table, gamma=0.0).costs["latency_ms"].full
    dan = search(network, ALPHAS, keep, round_to=1, latency_table=table, target_latency_ms=whole - 32)
    for logits in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0]):
        dan.gates.eta.assign(np.tile(logits, (len(dan.groups), 1)))
        alphas = dan.architecture()["alphas"]
        assert alphas.pop("stage3_block2_conv1") == 2 and set(alphas.values()) == {1}


def test_extreme_choices_cost_what_adjoined_networks_do():
    dan, network = searching("resnet20"), NETWORKS["resnet20"]()
    for position, alpha in enumerate(ALPHAS):
        choices = [position] * len(dan.groups)
        small = adjoin(network, alpha, round_to=1).small() if alpha > 1 else network
        costs = report.profile(small)
        assert dan.costs["macs"].of_choices(choices) == costs.macs
        assert dan.costs["parameters"].of_choices(choices) == costs.parameters


def test_tied_layers_share_a_gate():
    groups = {group.name: group.layers for group in searching("resnet20").groups}
    tied = ("stage2_block1_conv2", "stage2_block1_shortcut_conv", "stage2_block2_conv2", "stage2_block3_conv2")
    assert groups["stage2_block1_conv2"] == tied and groups["stage2_block1_conv1"] == ("stage2_block1_conv1",)
    assert not any(name.startswith(("stem", "stage1", "logits")) for name in groups)


def test_layers_that_follow_others_have_no_gate_of_their_own():
    """What multiplies a concatenation is as wide as its parts."""
    dan = searching("parts")
    assert [group.layers for group in dan.groups] == [
        ("a", "c"),
        ("b",),
        ("d",),
        ("squeeze",),
        ("separable",),
        ("hidden",),
    ]
    dan.gates.eta.assign(np.eye(3)[[1, 0, 2, 0, 0, 0]])
    widths = dan.architecture()["widths"]
    assert (widths["a"], widths["d"], widths["excite"]) == (4, 3, 7)


def test_channels_that_a_layer_normalisation_counts_stay():
    dan = searching("grouped")
    assert dan.kept_full["counted"] == "counted by 'norm'"
    assert "counted" not in dan.architecture()["widths"]


def test_widths_are_those_of_slim_and_of_adjoin():
    network = NETWORKS["resnet20"]()
    dan = search(network, ALPHAS, round_to=1, gamma=0.0)
    dan.gates.eta.assign(np.random.default_rng(3).normal(size=dan.gates.eta.shape))
    architecture = dan.architecture()
    widths = architecture["widths"]
    narrow = slim(network, {layer: range(width) for layer, width in widths.items()})
    pair = adjoin(network, widths=widths)
    for small in (narrow, pair.small(), dan.derive().small()):
        assert report.profile(small).macs == architecture["macs"]
    x = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(numpy(pair.small()(x)), numpy(narrow(x)), atol=1e-4)
    with pytest.raises(ValueError, match=r"Expected `widths\['nowhere'\]` to be a convolution or dense layer"):
        adjoin(network, widths={"nowhere": 3})
    with pytest.raises(
        ValueError, match=r"`widths\['stage2_block1_conv1'\]` to be a whole number from 1 to 32. Received: 33"
    ):
        adjoin(network, widths={"stage2_block1_conv1": 33})


@pytest.mark.parametrize(("alphas", "round_to"), [((2, 4), 1), ((1, 2, 4), 8), ((1.2, 2), 4)])
def test_widths_make_the_same_network_whatever_the_rounding(alphas, round_to):
    """Also of layers that are narrower in all candidates, or as wide in several."""
    inputs = x = keras.Input((12, 12, 3))
    for width in (10, 16, 20, 32):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same", name=f"c{width}")(x)))
    network = keras.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(x)))
    dan = search(network, alphas, (), round_to=round_to, gamma=0.0)
    dan.gates.eta.assign(np.random.default_rng(0).normal(size=dan.gates.eta.shape))
    architecture = dan.architecture()
    other = adjoin(network, widths=architecture["widths"]).small()
    assert report.profile(other).macs == architecture["macs"] == report.profile(dan.small()).macs
    widest = report.profile(network).macs if alphas[0] == 1 else None
    assert widest is None or dan.costs["macs"].of_choices([0] * len(dan.groups)) == widest


def test_budgets_where_candidates_cost_the_same():
    inputs = x = keras.Input((8, 8, 3))
    for name in "abc":
        x = L.ReLU()(L.Conv2D(16, 3, padding="same", name=name)(x))
    network = keras.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(x)))
    for alphas, target in (((1, 1.2, 2), 0.5), ((1, 2, 4), 1.0), ((1, 2, 4), 0.5)):
        dan = search(network, alphas, (), target_macs=target)
        for eta in np.random.default_rng(0).normal(size=(5, 3, 3)):
            dan.gates.eta.assign(eta)
            spent = dan.architecture()["macs"] / dan.architecture()["full_macs"]
            assert spent <= target and (target < 1 or spent == 1)
            smallest = dan.costs["macs"].of_choices([2] * 3) / dan.costs["macs"].full
            assert spent >= smallest


def test_names_and_sizes_that_users_have():
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU(name="gates")(L.Conv2D(8, 3, name="a")(inputs))
    network = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    dan = search(network, (1, 2), (), gamma=0.0, round_to=1)
    assert dan.network.get_layer("gates_") is dan.gates
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, name="a")(inputs)
    with pytest.raises(ValueError, match="Expected a network of known image size.*layer .input"):
        search(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x))), (1, 2), (), round_to=1)


def test_what_search_refuses():
    network = NETWORKS["resnet20"]()
    for alphas in ((), (4, 2), (1, 1), (0.5,)):
        with pytest.raises(ValueError, match="Expected `alphas` to be different numbers from 1 on in rising order"):
            search(network, alphas)
    with pytest.raises(ValueError, match="Expected layers with widths to choose .*Received: none"):
        search(network, (1, 2), keep=["*"])
    with pytest.raises(ValueError, match="Expected layers with widths to choose"):
        search(network, (2,), keep=())
    with pytest.raises(ValueError, match="alpha=128"):
        search(network, (1, 128), round_to=1)
    with pytest.raises(ValueError, match=r"to hold 1, since layer '\w+' is added to '\w+'.*ties='free'"):
        search(network, (2, 4), keep=["stage2_block1_conv2"], ties="free")
    with pytest.raises(ValueError, match="Expected `ties` to be one of"):
        search(network, ties="none")
    with pytest.raises(ValueError, match="Expected `model` not to be adjoined yet"):
        search(adjoin(network, 2))
