"""Pruned networks: at the budget, by rank, and the function of the masked full network."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from random_networks import check_close, values
from test_gated import every_part, grouped

from tfjointrd import adjoin, dirac, models, prune, report, search, slim, sort_channels
from tfjointrd.surgery import Channels, channel_importance, kept_cost, prune_architecture, read_graph, tied_sets
from tfjointrd.surgery.importance import importance_names
from tfjointrd.surgery.tied_sets import TiedSets

L = keras.layers


def masked(model, kept):
    """The full network with every channel that is not kept set to zero behind every layer."""
    graph = read_graph(model)
    positions = Channels(graph).keep(kept)

    def apply(call, *args, **kwargs):
        found = keras.tree.flatten(graph.sources[call.layer](*args, **kwargs))
        for place, ref in enumerate(graph.outputs_of(call)):
            mask = np.zeros(graph.shapes[ref][-1], "float32")
            mask[positions[ref]] = 1
            found[place] = found[place] * mask
        return found if len(found) > 1 else found[0]

    return replace(graph).assemble(apply, graph.sources)


def resnet8(randomise=None, **options):
    model = models.cifar_resnet(8, num_classes=4, input_shape=(8, 8, 3), **options)
    return randomise(model) if randomise else model


def images(model, count=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *model.input_shape[1:])).astype("float32")


NETWORKS = {"resnet8": resnet8, "resnet8A": lambda: resnet8(shortcut="A"), "parts": every_part, "grouped": grouped}


@pytest.mark.parametrize("name", NETWORKS)
def test_sorted_networks_are_the_same_function(name, randomised):
    model = randomised(NETWORKS[name]())
    found = sort_channels(model, "l1")
    check_close(values(found, images(model)), values(model, images(model)))
    assert [layer.name for layer in found.layers] == [layer.name for layer in model.layers]
    before, after = (channel_importance(network, "l1") for network in (model, found))
    moved = 0
    for tied in tied_sets(model):
        if tied.stays is None:
            order = before[tied.name] if tied.in_order else np.sort(before[tied.name])[::-1]
            np.testing.assert_allclose(after[tied.name], order, rtol=1e-5)
            moved += not np.array_equal(order, before[tied.name])
    assert moved > 1


def test_what_keeps_the_order_of_channels():
    """Shortcuts of type A and Dirac convolutions go by place; whole groups move; softmax and outputs fix theirs."""
    held = {tied.name: tied.in_order for tied in tied_sets(resnet8(shortcut="A"))}
    assert "matches channels by their place" in held["stem_conv"] and held["stage1_block1_conv1"] is None
    identities = tied_sets(dirac(resnet8()))
    assert any(tied.in_order for tied in identities)
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(8, 1, name="shuffled")(inputs)
    x = L.Reshape((4, 4, 8))(L.Permute((1, 2, 4, 3))(L.Reshape((4, 4, 2, 4))(x)))
    x = L.Conv2D(8, 3, groups=4, name="grouped")(x)
    x = L.Conv2D(4, 1, activation="softmax", name="attention")(L.Conv2D(6, 1, name="free")(x))
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(x)))
    sets = {tied.name: tied for tied in tied_sets(model)}
    assert "needs them all" in sets["shuffled"].stays
    assert "makes them" in sets["grouped"].stays
    assert sets["attention"].stays == "softmax of 'attention'" and sets["head"].stays == "the network's output"
    assert sets["free"].stays is sets["free"].in_order is None
    whole = next(tied for tied in tied_sets(grouped()) if "grouped" in tied.layers)
    assert (len(whole), whole.channels, whole.layers) == (4, 2, ("first", "grouped"))
    found = sort_channels(model)
    check_close(values(found, images(model)), values(model, images(model)))
    kernels = [network.get_layer("shuffled").get_weights()[0] for network in (found, model)]
    np.testing.assert_array_equal(*kernels)


def test_channels_that_go_by_place_go_from_the_last(randomised):
    model = resnet8(randomised, shortcut="A")
    kept = prune_architecture(model, "l1", ratio=0.5, scope="layer")["kept"]
    assert kept["stem_conv"] == list(range(8))
    best = np.argsort(-channel_importance(model, "l1")["stage1_block1_conv1"])[:8]
    assert kept["stage1_block1_conv1"] == sorted(best.tolist()) != list(range(8))
    identities = dirac(resnet8(randomised))
    prune(identities, ratio=0.5, scope="layer")  # `slim` refuses other channels than the first ones there


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_is_masking(name, scope, randomised):
    model = randomised(NETWORKS[name]())
    keep = ["counted"] if name == "grouped" else ()  # by a layer normalisation, which zeros count for
    architecture = prune_architecture(model, "l1", target_parameters=0.7, scope=scope, round_to=2, keep=keep)
    small = slim(model, architecture["kept"])
    check_close(values(small, images(model)), values(masked(model, architecture["kept"]), images(model)))
    assert all(type(layer).__module__.startswith(("keras.", "tfjointrd.layers.fit")) for layer in small.layers)


@pytest.mark.parametrize(
    ("name", "argument"), [*((name, "target_macs") for name in NETWORKS), ("parts", "target_parameters")]
)
def test_budgets_are_kept_to_and_used_up(name, argument, randomised):
    """Costs are those that `report.profile` counts, and nothing could be a step wider."""
    model, cost = randomised(NETWORKS[name]()), argument.removeprefix("target_")
    options = {argument: 0.6, "round_to": 2}
    architecture = prune_architecture(model, **options)
    profile, full = report.profile(prune(model, **options)), report.profile(model)
    assert (profile.macs, profile.parameters) == (architecture["macs"], architecture["parameters"])
    assert (full.macs, full.parameters) == (architecture["full_macs"], architecture["full_parameters"])
    assert architecture[cost] <= 0.6 * architecture[f"full_{cost}"]
    assert json.loads(json.dumps(architecture)) == architecture
    kept = architecture["kept"]
    for tied in [tied for tied in tied_sets(model) if set(tied.layers) <= kept.keys()][:3]:
        step = range(max(1, 2 // tied.channels) * tied.channels)
        wider = dict(kept)
        for layer in tied.layers:
            missing = sorted(set(range(architecture["full_widths"][layer])) - set(kept[layer]))
            wider[layer] = sorted([*kept[layer], *missing[: len(step)]])
        if len(tied.layers) == 1 or tied.channels == 1:
            assert getattr(report.profile(slim(model, wider)), cost) > 0.6 * architecture[f"full_{cost}"]
    whole = prune_architecture(model, **{**options, argument: architecture[f"full_{cost}"]})  # a number, not a part
    assert whole["kept"] == {} and set(whole["kept_full"].values()) >= {"the network's output"}


def chain(widths=(6, 5)):
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(widths[0], 3, padding="same", name="a", activation="relu")(inputs)
    x = L.Conv2D(widths[1], 3, padding="same", name="b", activation="relu")(x)
    return keras.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x)), name="chain")


def test_the_lowest_of_all_layers_go_first():
    model = chain()
    scores = {"a": [0.1, 0.9, 0.3, 0.8, 0.05, 0.7], "b": [0.2, 0.4, 0.6, 0.5, 0.35]}
    rank = sorted((score, name, j) for name, row in scores.items() for j, score in enumerate(row))
    whole = report.profile(model).macs
    for target in (0.8, 0.6, 0.4):
        left, count = {name: list(range(len(row))) for name, row in scores.items()}, 0
        while report.profile(slim(model, left)).macs > target * whole:
            _, name, j = rank[count]
            left[name].remove(j)
            count += 1
        found = prune_architecture(model, scores, target_macs=target, round_to=1)["kept"]
        assert all(set(left[name]) <= set(found.get(name, left[name])) for name in left)
        for name, kept in found.items():  # what came back for the room that was left is the best of what went
            back = sorted(set(kept) - set(left[name]), key=lambda j: -scores[name][j])
            gone = sorted((j for _, other, j in rank[:count] if other == name), key=lambda j: -scores[name][j])
            assert back == gone[: len(back)]


def test_parts_of_channels():
    model = chain((16, 32))
    for ratio, widths in ((0.25, {"a": 12, "b": 24}), (0.5, {"a": 8, "b": 16}), (0.6, {"a": 6, "b": 12})):
        assert prune_architecture(model, ratio=ratio, scope="layer", round_to=1)["widths"] == widths
    assert prune_architecture(model, ratio=0.2, scope="layer")["widths"] == {"b": 24}  # 12.8 is nearer to 16 than to 8
    scores = {"a": np.arange(16) + 100.0, "b": np.arange(32.0)}
    found = prune_architecture(model, scores, ratio=0.5, round_to=4)
    assert found["kept"] == {"b": list(range(24, 32))} and found["kept_full"]["a"] == "ranks above what was dropped"
    assert prune_architecture(model, scores, ratio=0.5, min_channels=12)["widths"] == {"b": 16}
    found = prune_architecture(model, scope={"*": 0.25, "b": 0.5}, round_to=1)
    assert found["widths"] == {"a": 12, "b": 16}
    found = prune_architecture(model, scope={"b": 0.5})
    assert found["widths"] == {"b": 16} and list(found["kept_full"]) == ["a", "head"]
    assert prune_architecture(model, ratio=0.5, scope="layer", keep=["b"])["kept_full"]["b"] == "named in `keep`"
    assert prune(model, ratio=0.5, name="narrow").name == "narrow" and prune(model, ratio=0.5).name == "chain"


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_milliseconds_are_those_of_the_search(scope):
    """At measured widths the table says the same to both; between them it is interpolated."""
    model = resnet8()
    dan = search(model, (1, 2, 4), (), gamma=0.0)
    rng, table = np.random.default_rng(0), {}
    for call in dan._surgery.kernel_calls():
        widths = [[len(kept[ref]) for kept in dan._surgery.candidates] for ref in (call.inputs[0], call.output)]
        pairs = {(widths[0][i], widths[1][j]) for i, j in dan._surgery.forms(call)}
        table[call.layer] = [[*pair, float(pair[0] * pair[1] + rng.uniform())] for pair in sorted(pairs)]
    dan = search(model, (1, 2, 4), (), target_latency_ms=1e4, latency_table=table)
    full = dan.costs["latency_ms"].of_choices([0] * len(dan.groups))
    half = dan.costs["latency_ms"].of_choices([1] * len(dan.groups))
    options = {"latency_table": table, "scope": scope, "importance": "random"}
    found = prune_architecture(model, target_latency_ms=full * 0.7, **options)
    assert found["full_latency_ms"] == pytest.approx(full) and found["latency_ms"] <= full * 0.7
    found = prune_architecture(model, ratio=0.5, latency_table=table, scope="layer")
    assert found["latency_ms"] == pytest.approx(half)
    assert found["widths"] == dan.widths_of([1] * len(dan.groups))
    with pytest.raises(ValueError, match="from 0.0.*Received: target_latency_ms=1.0"):
        prune_architecture(model, target_latency_ms=1.0, **options)
    with pytest.raises(ValueError, match="one without 'logits'"):
        prune_architecture(model, target_latency_ms=1.0, latency_table={**table, "logits": []})


def test_kept_positions_are_widths_of_adjoined_networks(randomised):
    model = resnet8(randomised)
    architecture = prune_architecture(model, "l2", target_macs=0.4)
    small = slim(model, architecture["kept"])
    adjoined = adjoin(model, widths=architecture["kept"])
    check_close(values(adjoined.small(), images(model)), values(small, images(model)))
    prefix = adjoin(model, widths=architecture["widths"]).small()
    assert prefix.count_params() == small.count_params()
    assert np.abs(values(prefix, images(model))[0] - values(small, images(model))[0]).max() > 1e-3
    again = keras.models.Sequential([keras.Input(model.input_shape[1:]), small])
    assert again.count_params() == architecture["parameters"]
    assert len(report.width_figure(architecture).patches) == 2 * len(architecture["widths"])


@pytest.mark.parametrize("make", [adjoin, search])
def test_order_is_sorting_first(make, randomised):
    model = resnet8(randomised)
    options = {"alphas": (1, 2), "gamma": 0.0} if make is search else {}
    found = make(model, order="l1", **options)
    best_first = sort_channels(model, "l1")
    expected = make(best_first, **options)
    for key, ours in found(images(model), training=False).items():
        check_close([ours], [expected(images(model), training=False)[key]])
    check_close(values(found.full(), images(model)), values(model, images(model)))
    with pytest.raises(ValueError, match="Received: 'best'"):
        make(model, order="best", **options)
    if make is adjoin:
        with pytest.raises(ValueError, match="Received: positions, and order='l1'"):
            adjoin(model, widths={"stage1_block1_conv1": [1, 2]}, order="l1")


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"stage1_block1_conv1": [0, 0]}, "different positions below 16"),
        ({"stage1_block1_conv1": [16]}, r"Received: \[16\]"),
        ({"stage1_block1_conv1": []}, r"Received: \[\]"),
        ({"nothing": [1]}, r"`widths\['nothing'\]` to be a convolution or dense layer"),
        ({"stage1_block1_conv1": "all"}, "Received: 'all'"),
    ],
)
def test_positions_that_do_not_exist(widths, message):
    with pytest.raises(ValueError, match=message):
        adjoin(resnet8(), widths=widths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected one of `target_macs`.*Received: none of them"),
        ({"target_macs": 0.5, "ratio": 0.5}, r"Received: \{'target_macs': 0.5, 'ratio': 0.5\}"),
        ({"ratio": 0.5, "scope": {"a": 0.5}}, r"Received: \{'ratio': 0.5\}, scope=\{'a': 0.5\}"),
        ({"target_macs": 0.001}, r"within what pruning reaches, from 0\.\d+ \([\d,]+\) to 1.0000"),
        ({"target_macs": 1e9}, "Received: target_macs=1000000000.0"),
        ({"target_macs": float("nan")}, "target_macs=nan"),
        ({"target_parameters": "half"}, "target_parameters='half'"),
        ({"target_latency_ms": 1.0}, "latency_table=None"),
        ({"ratio": 0}, "between 0 and 1. Received: ratio=0"),
        ({"ratio": 1.0}, "ratio=1.0"),
        ({"ratio": True}, "ratio=True"),
        ({"scope": {"a": 1.5}}, r"scope\['a'\]=1.5"),
        ({"scope": {"nothing": 0.5}}, "Received: 'nothing', no match"),
        (
            {"scope": {"head": 0.5}},
            r"Received: 'head', whose channels all have to stay: 'head' \(the network's output\)",
        ),
        ({"ratio": 0.5, "scope": "local"}, "scope='local'"),
        ({"ratio": 0.5, "round_to": 0}, "round_to=0"),
        ({"ratio": 0.5, "min_channels": 1.5}, "min_channels=1.5"),
        ({"ratio": 0.5, "min_channels": 0}, "min_channels=0"),
        ({"scope": {}}, r"scope=\{\}"),
        ({"ratio": 0.5, "keep": ["nothing"]}, "Received: 'nothing', no match"),
        (
            {"ratio": 0.5, "keep": ["a"], "round_to": 64},
            r"Received: none: 'a' \(named in `keep`\); 'b' \(32 channels, the fewest that may be left\); "
            r"'head' \(the network's output\)",
        ),
        ({"ratio": 0.5, "importance": "gamma"}, "finds nothing to score"),
        ({"ratio": 0.5, "importance": "taylor"}, "Expected `data`"),
        ({"ratio": 0.5, "importance": "taylor", "data": np.zeros((1, 4, 4, 3))}, "with labels"),
    ],
)
def test_requests_that_cannot_be_met(options, message):
    with pytest.raises(ValueError, match=message):
        prune(chain((16, 32)), **options)


def test_budgets_are_looked_at_before_scores_are_computed():
    def slow(slices):
        raise AssertionError("scores were computed")

    for options in ({"target_macs": 0.001}, {"scope": {"head": 0.5}}, {"ratio": 2}):
        with pytest.raises(ValueError):
            prune(chain(), slow, **options)


def test_layers_without_scores_stay_full():
    """Budgets are of what is left to prune."""
    inputs = keras.Input((4, 4, 3))
    x = L.BatchNormalization()(L.Conv2D(16, 1, name="normalized")(inputs))
    x = L.Conv2D(32, 1, name="bare")(x)
    model = keras.Model(inputs, L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x)))
    model.layers[2].gamma.assign(np.arange(16.0))
    found = prune_architecture(model, "gamma", ratio=0.5)
    assert found["kept"] == {"normalized": list(range(8, 16))}
    assert found["kept_full"]["bare"] == "importance 'gamma' says nothing of it"
    with pytest.raises(ValueError, match="from 0.5.* to 1.0000"):
        prune(model, "gamma", target_macs=0.3)
    assert prune(model, "l2", target_macs=0.3).get_layer("bare").filters < 32


def test_networks_in_which_nothing_can_be_pruned():
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match=r"none: 'only' \(the network's output\)"):
        prune(keras.Model(inputs, L.Dense(4, name="only")(inputs)), ratio=0.5)
    with pytest.raises(ValueError, match="it has no convolution or dense layer"):
        prune(keras.Model(inputs, L.ReLU()(inputs)), ratio=0.5)


def test_data_come_in_any_form(randomised):
    """Batches, and functions that return them, as everywhere in the package; a nested network as Keras' tutorials."""
    inner = keras.Input((8, 8, 3))
    base = keras.Model(inner, L.BatchNormalization()(L.Conv2D(16, 3, name="inner")(inner)))
    inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.ReLU()(base(L.Rescaling(1 / 255)(inputs))))
    model = randomised(keras.Model(inputs, L.Dense(3, activation="softmax", name="head")(x)))
    x, y = images(model, 8), np.arange(8) % 3
    base.trainable = False
    forms = [(x, y), [(x[:4], y[:4]), (x[4:], y[4:])], lambda: iter([(x[:4], y[:4]), (x[4:], y[4:])])]
    for importance in ("taylor", "hrank", "nisp"):
        found = [prune(model, importance, ratio=0.5, data=form) for form in forms[1:]]
        assert found[0].get_layer("inner").filters == 8
        check_close(values(found[0], x), values(found[1], x))
    assert set(importance_names()) >= {"l1", "l2", "gamma", "fpgm", "lamp", "taylor", "hrank", "nisp", "random"}


def test_costs_count_kernels_as_profiles_do():
    """What an adapted layer keeps beside its kernel is none of it; the layer stays full."""
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.Conv2D(16, 3, name="first")(inputs))
    x = L.GlobalAveragePooling2D()(L.ReLU()(L.Conv2D(16, 3, name="second")(x)))
    model = keras.Model(inputs, L.Dense(4, name="logits")(x))
    model.get_layer("logits").enable_lora(2)
    graph = read_graph(model)
    sets, cost = TiedSets(Channels(graph)), report.profile(model)
    full = [len(tied) for tied in sets]
    assert kept_cost.macs(sets)(full) == pytest.approx(cost.macs)
    assert kept_cost.parameters(sets)(full) == pytest.approx(cost.parameters)
