"""Searches by recipe: what they leave, that they go on after an interruption, and networks of the widths found."""

import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
from shallow import change_smoke, make_shallow

from tfjointrd import data, report
from tfjointrd.experiments import Interrupted, Recipe, card, catalog, run, run_named
from tfjointrd.experiments.networks import build_network
from tfjointrd.experiments.run_folder import load_data
from tfjointrd.experiments.trainers import make_trainer
from tfjointrd.surgery.widths import widths_of
from tfjointrd.training import DAN, GateRecorder, recalibrate_batchnorm
from tfjointrd.training.callbacks.recorder import read
from tfjointrd.training.engines import distribute

SEARCH = {"method": "search", "batch_size": 120, "epochs": 3, "learning_rate": 0.05, "images": 480}


class Press(keras.callbacks.Callback):
    """Ctrl-C after a step."""

    def __init__(self, *when):
        super().__init__()
        self.when = when

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The whole search by name, at its smallest."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)
        patch.setattr(card, "forms", dict)
        for name in ("search_resnet20_a2_digits", "dan_resnet20_a2_digits"):
            change_smoke(patch, name, epochs=2, images=128, batch_size=64)
        run_named("dan_resnet20_a2_digits", "smoke", out, verbose=0)
    return out


def test_what_a_search_leaves(out):
    folder = out / "search_resnet20_a2_digits"
    architecture = json.loads((folder / "architecture.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    assert card["networks"]["small"]["macs"] == architecture["macs"]
    assert card["networks"]["full"]["macs"] == architecture["full_macs"]
    small = keras.saving.load_model(folder / "small.keras")
    assert {layer: small.get_layer(layer).filters for layer in architecture["widths"]} == architecture["widths"]
    normalization = small.get_layer("stage3_block1_bn2")
    variance = keras.ops.convert_to_numpy(normalization.moving_variance)
    recalibrate_batchnorm(small, load_data(Recipe(**card["recipe"]))[0])
    np.testing.assert_allclose(normalization.moving_variance, variance, rtol=1e-4)  # as it was already
    gates = read(folder / "gates.csv", GateRecorder.columns)
    assert {row["epoch"] for row in gates} == {0, 1, 2} and {row["alpha"] for row in gates} == {1, 2, 4}
    assert {row["group"] for row in gates} == set(architecture["alphas"])
    for group in architecture["alphas"]:
        assert sum(row["probability"] for row in gates if (row["epoch"], row["group"]) == (2, group)) == pytest.approx(
            1
        )


def test_the_network_of_the_widths_found(out):
    search, dan = (out / f"{name}_resnet20_a2_digits" for name in ("search", "dan"))
    found, trained = (json.loads((folder / "card.json").read_text())["networks"]["small"] for folder in (search, dan))
    assert trained["macs"] == found["macs"] and trained["parameters"] == found["parameters"]
    weights = [keras.saving.load_model(folder / "small.keras").get_weights()[0] for folder in (search, dan)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-3


@pytest.mark.parametrize("alpha", [2, 4])
def test_budgets_are_those_of_uniform_widths(alpha, monkeypatch):
    make_shallow(monkeypatch)
    info = data.info("digits")
    costs = {}
    for kind in ("narrow", "random", "search"):
        recipe = catalog.get(f"{kind}_resnet20_a{alpha}_digits")
        model = make_trainer(recipe, info)
        costs[kind] = report.profile(model if kind == "narrow" else model.small()).macs
    assert costs["search"] <= costs["narrow"] and 0.85 * costs["narrow"] < costs["random"] <= costs["narrow"]


def test_random_widths_differ_by_seed(monkeypatch):
    make_shallow(monkeypatch)
    info, network = data.info("digits"), build_network("resnet20", data.info("digits"))
    found = [
        widths_of(network, make_trainer(catalog.get("random_resnet20_a2_digits", seed=s), info).small()) for s in (0, 1)
    ]
    again = widths_of(network, make_trainer(catalog.get("random_resnet20_a2_digits", seed=1), info).small())
    assert found[0] != found[1] == again
    with pytest.raises(ValueError, match="Expected a narrow form of .*Received: '.*', which has no 'stem_conv'"):
        widths_of(network, keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3)]))


OPTIONS = {"held_out": 0.1, "ties": "free", "budget": "parameters", "target": 0.6, "gate_warmup": 0.0}


@pytest.mark.parametrize(  # OPTIONS: two batches are held out
    "options", [pytest.param({}, marks=pytest.mark.slow), OPTIONS], ids=["default", "options"]
)
def test_an_interrupted_search_goes_on(options, tmp_path, no_files):
    """Weights, noise, temperature and budget end as they do without the interruption, and so does the record."""

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    network = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    network.save(tmp_path / "network.keras")
    recipe = Recipe(**SEARCH, **options, network=str(tmp_path / "network.keras"))
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "parts", verbose=0, callbacks=[Press(1, 2)])
    parts = run(recipe, tmp_path / "parts", verbose=0)
    for name in ("full", "small"):
        for ours, theirs in zip(whole.networks[name].get_weights(), parts.networks[name].get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert whole.card["data"]["train_images"] == parts.card["data"]["train_images"] == 480  # those of the gates too
    for file in ("architecture.json", "gates.csv"):
        assert (tmp_path / "whole" / file).read_text() == (tmp_path / "parts" / file).read_text()
    gates = read(tmp_path / "whole" / "gates.csv", GateRecorder.columns)
    assert len({row["probability"] for row in gates if row["epoch"] == 3}) > 1
    architecture = json.loads((tmp_path / "whole" / "architecture.json").read_text())
    limit = "parameters" if options else "macs"
    assert architecture[limit] <= 0.6 * architecture[f"full_{limit}"]


def test_gates_learn_from_images_of_their_own(tmp_path, monkeypatch):
    """Of 1,437 images, the weights see 1,006 and the gates the others."""
    seen = {}

    def fit(self, x, held_out=None, **options):
        seen.update(weights=x, gates=held_out)
        raise KeyboardInterrupt

    monkeypatch.setattr(DAN, "fit", fit)
    with pytest.raises(Interrupted):
        run(Recipe(**{**SEARCH, "images": None}, held_out=0.3), tmp_path, verbose=0)
    rows = {name: set(pipeline.order(0).tolist()) for name, pipeline in seen.items()}
    assert {name: len(chosen) for name, chosen in rows.items()} == {"weights": 1006, "gates": 431}
    assert not rows["weights"] & rows["gates"]


def test_a_budget_in_milliseconds(tmp_path, no_files):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3)(keras.layers.Conv2D(16, 3)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    network.save(tmp_path / "network.keras")
    table = {"conv2d": [[1, 4, 1], [1, 8, 2], [1, 16, 3]], "dense": [[i, 10, 1] for i in (4, 8, 16)]}
    table["conv2d_1"] = [[i, j, i * j / 64] for i in (4, 8, 16) for j in (4, 8, 16)]
    names = [layer.name for layer in network.layers if layer.weights]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(dict(zip(names, (table["conv2d"], table["conv2d_1"], table["dense"]), strict=True))))
    options = {"network": str(tmp_path / "network.keras"), "latency_table": str(path), "budget": "latency_ms"}
    found = make_trainer(Recipe(method="search", **options, target=4), data.info("digits")).architecture()
    assert (found["full_latency_ms"], found["latency_ms"] <= 4) == (8, True)
    drawn = make_trainer(Recipe(method="adjoined", widths="random", **options, target=4), data.info("digits")).small()
    first, second = (drawn.get_layer(name).filters for name in names[:2])
    assert {4: 1, 8: 2, 16: 3}[first] + first * second / 64 + 1 <= 4
    with pytest.raises(FileNotFoundError, match="Expected `latency_table` to be a JSON file. Received: .*nowhere"):
        run(Recipe(method="search", **{**options, "latency_table": "nowhere"}, target=4), tmp_path / "a", verbose=0)
    recipe = Recipe(method="search", **{**options, "latency_table": path}, target=4, epochs=1, images=64, batch_size=32)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "b", verbose=0, callbacks=[Press(0, 0)])
    path.unlink()  # another table, or none, does not change a search that has begun
    assert run(recipe, tmp_path / "b", verbose=0).card["networks"]["small"]["macs"] > 0


def test_images_are_held_out_on_one_device(tmp_path):
    with pytest.raises(ValueError, match="Expected `held_out` for a training on one device.*held_out=0.3 and 2 dev"):
        run(Recipe(**SEARCH, held_out=0.3), tmp_path, verbose=0, group=distribute.Single(devices=2))
    with pytest.raises(ValueError, match="Expected `part` .*Received: part=0.0001 \\(`held_out` of the recipe\\)"):
        run(Recipe(**SEARCH, held_out=0.0001), tmp_path, verbose=0)
    assert not (tmp_path / "recipe.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": "flops"}, "Expected `budget` to be one of .*Received: budget='flops'"),
        ({"ties": "loose"}, "Expected `ties` to be one of .*Received: ties='loose'"),
        ({"target": 0}, "Expected `target` above 0, or None. Received: target=0"),
        ({"target": 0.5, "gamma": 1e-9}, "Expected either `gamma` or a budget. Received: gamma=1e-09"),
        ({"budget": "latency_ms", "target": 1}, "Expected `latency_table` and budget 'latency_ms' together"),
        ({"latency_table": "x.json"}, "Expected `latency_table` and budget .* Received: latency_table='x.json'"),
        ({"budget": "latency_ms", "latency_table": "x.json"}, "Expected `target` in milliseconds"),
        ({"gate_warmup": 1}, "Expected `gate_warmup` from 0 to below 1. Received: gate_warmup=1"),
        ({"held_out": -0.1}, "Expected `held_out` from 0 to below 1. Received: held_out=-0.1"),
        (
            {"held_out": 0.5, "method": "adjoined", "widths": "random"},
            "Expected `held_out` for method 'search' only. Received: method='adj",
        ),
        (
            {"target": 0.5, "method": "narrow"},
            "`target` for method 'adjoined' or 'search' only. Received: method='narrow'",
        ),
        ({"target": "0.5"}, "Expected `target` to be a number above 0, or None. Received: target='0.5'"),
        ({"gamma": True}, "Expected `gamma` to be a number from 0. Received: gamma=True"),
        (
            {"held_out": 0.5, "method": "adjoined"},
            "Expected `held_out` for method 'search' only. Received: method='adj",
        ),
    ],
)
def test_options_that_a_search_cannot_have(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"method": "search", **options})


def test_a_search_without_batch_normalisations(tmp_path, no_files):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in (4, 8):
        x = keras.layers.Conv2D(filters, 3, activation="relu")(x)
    network = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    network.save(tmp_path / "network.keras")
    recipe = Recipe(**{**SEARCH, "epochs": 1}, network=str(tmp_path / "network.keras"))
    finished = run(recipe, tmp_path / "run", verbose=0)
    assert set(finished.card["networks"]) == {"full", "small"}


def test_widths_that_are_not_there(out, tmp_path, monkeypatch):
    make_shallow(monkeypatch)
    with pytest.raises(FileNotFoundError, match="Expected `widths` to be a .keras file. Received: widths='nowhere'"):
        run(Recipe(method="adjoined", widths="nowhere"), tmp_path / "a", verbose=0)
    with pytest.raises(ValueError, match="Expected `widths` for method 'adjoined' only. Received: method='narrow'"):
        Recipe(method="narrow", widths="random")
    with pytest.raises(ValueError, match="Expected `alphas` to be different numbers .*Received: alphas=\\[2, 1\\]"):
        Recipe(method="search", alphas=(2, 1))
    with pytest.raises(ValueError, match="Expected `gamma` from 0. Received: gamma=-1"):
        Recipe(method="search", gamma=-1)
    shutil.copy(out / "search_resnet20_a2_digits" / "small.keras", tmp_path / "widths.keras")
    model = make_trainer(Recipe(method="adjoined", widths=str(tmp_path / "widths.keras")), data.info("digits"))
    found = json.loads((out / "search_resnet20_a2_digits" / "architecture.json").read_text())
    assert report.profile(model.small()).macs == found["macs"]
