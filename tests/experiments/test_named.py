"""Recipes by name: what there is, what running one leaves, and what is refused."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from shallow import make_shallow, make_short

from tfjointrd import data, remove_shortcuts
from tfjointrd.experiments import METHODS, SCALES, Recipe, catalog, pruned_start, run_named
from tfjointrd.experiments import run_by_name as named
from tfjointrd.experiments.networks import build_network, network_of, own_networks
from tfjointrd.experiments.run_folder import finished_run
from tfjointrd.experiments.trainers import make_trainer


def test_names_say_what_they_are():
    recipe = catalog.get("an_resnet20_a2_cifar10", "paper", seed=4)
    assert (recipe.method, recipe.network, recipe.alpha, recipe.data) == ("adjoined", "resnet20", 2, "cifar10")
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.learning_rate) == (100, 32, "adam", 4e-3)
    recipe = catalog.get("jointrd_resnet56_cifar10", "paper")
    assert (recipe.epochs, recipe.milestones, recipe.learning_rate) == (200, (100, 150), 0.1)
    assert recipe.teacher == "resnet56_cifar10"
    names = set(catalog.names())
    for name in names:
        assert len(catalog.scales(name)) >= 2
        for scale in catalog.scales(name):
            recipe = catalog.get(name, scale)
            assert recipe.name == name and recipe.scale == scale and name.endswith(recipe.data)
            assert recipe.get("teacher") in (None, *names)
            assert recipe.network in (names if recipe.method.startswith("pruned") else own_networks())
            searched = f"search_{name.removeprefix('dan_')}"
            assert recipe.get("widths") in (None, "random", searched, searched.replace("imagenet2012", "imagenette"))
            assert recipe.get("widths") in (None, "random", *names)


def test_every_method_has_a_digits_recipe_and_every_network_a_recipe():
    methods = {catalog.get(name).method for name in catalog.names("*resnet20*_digits")}
    assert methods == set(METHODS) - {"transfer"}  # which has no name
    networks = {catalog.network_and_data(name)[0] for name in catalog.names() if not name.startswith("tune_")}
    others = {"resnet101", "resnet152", "xresnet34", "xresnet101", "xresnet152", "densenet169", "densenet201"}
    assert networks == set(own_networks()) - others  # which the papers do not train


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "digits", "imagenette", "imagenet2012"])
def test_one_table_has_one_setting(data):
    """At laptop scale, the methods of one network differ in nothing but the method."""
    differing = {"method", "name"}
    tables = {}
    for name in catalog.names(f"*_{data}"):
        if name.startswith("tune_"):
            continue
        fields = catalog.get(name, "laptop").as_dict()
        fields["network"], _ = catalog.network_and_data(name)
        kept = {key: value for key, value in fields.items() if key not in differing and key in Recipe().names()}
        tables.setdefault((fields["network"], fields["method"].startswith("pruned")), []).append(kept)
    for rows in tables.values():
        assert len(rows) >= 3 and all(row == rows[0] for row in rows)


def test_paper_scales_are_as_the_authors_have_them():
    """Initial weights and the term in the divergence; neither at the other scales."""
    for name in set(catalog.names()) - set(catalog.names("tune_*")) - set(catalog.names("pruned_*")):
        paper, laptop = catalog.get(name, "paper"), catalog.get(name, "laptop")
        adam = paper.optimizer == "adam"
        assert paper.initializer == ("lecun_normal" if adam else "fan_out"), name
        compared = paper.method in ("adjoined", "search") and paper.get("objective") != "slimmable"
        assert paper.get("kl_epsilon") == (1e-6 if adam and compared else None), name
        assert (laptop.initializer, laptop.get("kl_epsilon")) == ("he_normal", None)
    assert catalog.get("search_xresnet50_imagenette", "paper").gamma == 1.5e-10
    assert catalog.get("search_xresnet100_imagenette", "paper").gamma == 6.2e-13
    joint = {scale: catalog.get("jointrd_routing_joint_resnet20_cifar10", scale).path_scale for scale in catalog.SCALES}
    assert joint == {
        "smoke": "mean",
        "laptop": "sum",
        "study": "mean",
        "paper": "mean",
    }  # as the one in saved_models was trained
    own = catalog.get("jointrd_projections_resnet20_cifar10")
    assert own.feature_weight > 0
    assert (own.method, own.dirac, own.keep_projections) == ("jointrd", True, "downsampling")
    alone = catalog.get("feature_kd_dirac_projections_resnet20_cifar10")
    assert (alone.method, alone.dirac, alone.keep_projections) == ("distilled", True, "downsampling")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Boundary .* of the student has shape")
def test_every_digits_recipe_builds(tmp_path):
    info = data.info("digits")
    for name in catalog.names("*_digits"):
        recipe, kept = catalog.get(name, "smoke"), None
        if recipe.network in catalog.names():
            network = build_network(catalog.network_and_data(name)[0], info)
            (remove_shortcuts(network) if recipe.method == "pruned_jointrd" else network).save(tmp_path / "begun.keras")
            recipe = replace(recipe, network=str(tmp_path / "begun.keras"))
            kept = pruned_start.rank(recipe, network_of(recipe, info))["kept"]
        if recipe.get("teacher"):
            build_network(catalog.network_and_data(name)[0], info).save(tmp_path / "teacher.keras")
            recipe = replace(recipe, teacher=str(tmp_path / "teacher.keras"))
        if recipe.get("widths") in catalog.names():
            searched = make_trainer(catalog.get(recipe.widths, "smoke"), info)
            searched.small().save(tmp_path / "widths.keras")
            recipe = replace(recipe, widths=str(tmp_path / "widths.keras"))
        assert METHODS[recipe.method].networks(make_trainer(recipe, info, kept)), name


def test_unknown_names_and_scales():
    with pytest.raises(ValueError, match="Received: 'an_resnet20_cifar10'. Did you mean .*an_resnet20_a"):
        catalog.get("an_resnet20_cifar10")
    with pytest.raises(
        ValueError, match="one of smoke, laptop, study, paper for 'resnet20_digits'. Received: scale='huge'"
    ):
        catalog.get("resnet20_digits", "huge")
    with pytest.raises(ValueError, match="Received: 'resnet20_digits', which is registered"):
        catalog.register("resnet20_digits", dict.fromkeys(SCALES, {}))
    with pytest.raises(ValueError, match="for some of smoke, laptop, study, paper. Received: tiny"):
        catalog.register("new", {"tiny": {}})
    assert "new" not in catalog.names()


@pytest.mark.parametrize("seeds", [(0, 0), (), (-1,)])
def test_seeds_that_cannot_be(seeds, tmp_path):
    with pytest.raises(ValueError, match=r"Expected `seeds` from 0, each once. Received: seeds=\["):
        run_named("resnet20_digits", "smoke", tmp_path, seeds)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def shallow():
    """Networks of eight layers, three steps, and one `.tflite` file of each."""
    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)
        for name, form in (("resnet20_digits", "int8"), ("jointrd_resnet20_digits", "float32")):
            make_short(patch, name, formats=(form,))
        yield


@pytest.fixture(scope="module")
def out(shallow, tmp_path_factory):
    """JointRD and its teacher, two seeds."""
    out = tmp_path_factory.mktemp("runs")
    run_named("jointrd_resnet20_digits", "smoke", out, (1,), note="a test", verbose=0)
    return out


def test_the_teacher_is_trained_first(out):
    assert {path.name for path in out.iterdir()} == {"resnet20_digits", "jointrd_resnet20_digits"}
    folder = out / "jointrd_resnet20_digits"
    assert {"card.json", "model.keras", "model_float32.tflite", "seed1"} <= {path.name for path in folder.iterdir()}
    card = json.loads((folder / "card.json").read_text())
    note = "--note 'a test'"
    assert card["command"] == f"python -m tfjointrd run jointrd_resnet20_digits --scale smoke --seeds 1 {note}"
    assert card["recipe"]["teacher"] == "resnet20_digits"


def test_finished_returns_at_once_and_further_seeds_join(out, no_files):
    class Never(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("trained again")

    first = run_named("resnet20_digits", "smoke", out, (1,), callbacks=[Never()])
    both = run_named("resnet20_digits", "smoke", out, (2, 1), verbose=0)
    assert list(both.card["seeds"]) == ["1", "2"] and both.card["seeds"]["1"] == first.card["seeds"]["1"]
    assert "--seeds 1 2" in both.card["command"]
    values = [training["accuracy"]["model"]["keras"] for training in both.card["seeds"].values()]
    assert both.accuracy("model") == pytest.approx(sum(values) / 2)
    assert named.state("resnet20_digits", out) == "smoke: finished, seed 1, 2"
    train, test = data.load("digits", augment=False)
    np.savez(out / "other.npz", x_train=train.x // 2, y_train=train.y, x_test=test.x, y_test=test.y)
    with pytest.raises(ValueError, match="that other seeds of 'resnet20_digits' were trained on"):
        run_named("resnet20_digits", "smoke", out, (3,), data_file=out / "other.npz", callbacks=[Never()], verbose=0)
    (out / "other.npz").unlink()


def test_a_finished_student_needs_no_teacher(out, tmp_path):
    shutil.copytree(out / "jointrd_resnet20_digits", tmp_path / "jointrd_resnet20_digits")
    (tmp_path / "jointrd_resnet20_digits" / "card.json").unlink()
    run_named("jointrd_resnet20_digits", "smoke", tmp_path, (1,))
    assert [path.name for path in tmp_path.iterdir()] == ["jointrd_resnet20_digits"]


def test_another_scale_is_refused_and_nothing_lost(out):
    before = (out / "resnet20_digits" / "card.json").read_text()
    with pytest.raises(ValueError, match="card of resnet20_digits at scale laptop. Received: .*scale='smoke'"):
        run_named("resnet20_digits", "laptop", out)
    assert (out / "resnet20_digits" / "card.json").read_text() == before


def test_kept_without_the_seeds_folders(out, tmp_path, no_files):
    """As in saved_models: card and small files alone load, and teach."""
    for name in ("resnet20_digits", "jointrd_resnet20_digits"):
        shutil.copytree(out / name, tmp_path / name, ignore=shutil.ignore_patterns("seed*"))
    assert run_named("jointrd_resnet20_digits", "smoke", tmp_path, (1,)).networks["model"].count_params() > 0
    shutil.rmtree(tmp_path / "jointrd_resnet20_digits")
    again = run_named("jointrd_resnet20_digits", "smoke", tmp_path, (1,), verbose=0)
    assert again.card["seeds"]["1"]["history"][0]["loss"] > 0
    more = run_named("resnet20_digits", "smoke", tmp_path, (1, 5), verbose=0)
    assert not (more.folder / "seed1").exists()  # not trained again
    assert list(more.card["seeds"])[-1] == "5" and "1" in more.card["seeds"]
    assert more.path("model") == tmp_path / "resnet20_digits" / "model.keras"
    ours, theirs = (run.networks["model"].get_weights()[0] for run in (more, finished_run(out / "resnet20_digits")))
    np.testing.assert_array_equal(ours, theirs)  # still the first seed's


def test_large_networks_stay_with_their_seed(out, tmp_path, monkeypatch):
    shutil.copytree(out / "resnet20_digits", tmp_path / "resnet20_digits")
    for file in (tmp_path / "resnet20_digits").glob("*.*"):
        file.unlink()
    monkeypatch.setattr(named, "LARGEST_FILE", 200_000)
    again = run_named("resnet20_digits", "smoke", tmp_path, (1,), verbose=0)
    assert again.path("model") == tmp_path / "resnet20_digits" / "seed1" / "model.keras"
    assert {path.name for path in again.folder.glob("model*")} == {"model_int8.tflite"}
    shutil.rmtree(tmp_path / "resnet20_digits" / "seed1")
    with pytest.raises(FileNotFoundError, match="to hold model.keras, which its card lists"):
        run_named("resnet20_digits", "smoke", tmp_path, (1,))


def test_states(out, tmp_path):
    assert named.state("resnet20_digits", tmp_path) == ""
    training = tmp_path / "resnet20_digits" / "seed0"
    training.mkdir(parents=True)
    assert named.state("resnet20_digits", tmp_path) == "seed0 interrupted, no checkpoint"
    (training / "checkpoint_000002_00000005.npz").touch()
    with named.locked(training):
        assert named.state("resnet20_digits", tmp_path) == "seed0 running, 2 epochs"
    (tmp_path / "resnet20_digits" / "card.json").write_text("{}")
    assert named.state("resnet20_digits", tmp_path).startswith("card not usable: Expected a card of schema 1")
