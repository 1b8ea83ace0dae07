"""Recipes that prune: what they begin with and leave, that they go on after an interruption, and what they refuse."""

import json
import os
import signal

import keras
import numpy as np
import pytest

from tfjointrd import data, dirac, prune, remove_shortcuts, slim
from tfjointrd.data.batches import accuracy
from tfjointrd.experiments import (
    Interrupted,
    Recipe,
    catalog,
    prune_and_train,
    pruned_start,
    run,
    run_named,
    runner,
    settings,
)
from tfjointrd.experiments.run_folder import finished_run, load_data
from tfjointrd.experiments.trainers import make_trainer
from tfjointrd.surgery import prune_architecture
from tfjointrd.surgery.importance import importance_names
from tfjointrd.training import Distillation, JointRD, recalibrate_batchnorm

SMALL = {"method": "pruned", "round_to": 1, "epochs": 2, "images": 96, "batch_size": 32}
# A pruned student is not as wide as its teacher.
unlike = pytest.mark.filterwarnings("ignore:Boundary .* of the student has shape")


def residual(classes=10):
    """A network of two stages with a shortcut each, as if trained: its batch normalisations have seen something."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 16)(inputs)
    for stage in (1, 2):
        x = keras.layers.Conv2D(6 * stage, 3, strides=stage, padding="same", name=f"stage{stage}_first")(x)
        x = keras.layers.ReLU()(x)
        z = keras.layers.Conv2D(6 * stage, 3, padding="same", use_bias=False, name=f"stage{stage}_conv")(x)
        z = keras.layers.BatchNormalization(momentum=0.9, name=f"stage{stage}_bn")(z)
        x = keras.layers.ReLU(name=f"stage{stage}_end")(keras.layers.Add()([x, z]))
    model = keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x)), name="small")
    for variable in model.weights:
        variable.assign(
            rng.uniform(0, 1, variable.shape) if len(variable.shape) == 1 else rng.normal(0, 0.3, variable.shape)
        )
    return model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "small.keras"
    residual().save(path)
    return str(path)


class Press(keras.callbacks.Callback):
    """Ctrl-C in the middle of the second epoch; on JAX, where steps are taken together, at its beginning."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if epoch == 1 and keras.backend.backend() == "jax":
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 0):
            os.kill(os.getpid(), signal.SIGINT)


def same(ours, theirs):
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_pruning_goes_on(path, tmp_path, no_files, monkeypatch):
    """With the channels that it began with, by images of the training; and what it leaves."""
    recipe = Recipe(**SMALL, network=path, importance="taylor", target_macs=0.6)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(Interrupted, match="in epoch 2 of 2. The checkpoint of 1 finished epochs"):
        run(recipe, tmp_path / "parts", verbose=0, callbacks=[Press()])
    monkeypatch.setattr(pruned_start, "rank", None)  # is not called again
    parts = run(recipe, tmp_path / "parts", verbose=0)
    same(parts.networks["model"], whole.networks["model"])
    assert parts.card["seeds"]["0"]["history"] == whole.card["seeds"]["0"]["history"]
    read = [json.loads((tmp_path / name / "architecture.json").read_text()) for name in ("whole", "parts")]
    assert read[0] == read[1] and read[0]["importance"] == "taylor"

    unpruned, pruned, model = (whole.networks[name] for name in ("unpruned", "pruned", "model"))
    same(unpruned, residual())
    images = load_data(recipe, augment=False)
    batches = [images.train.unaugmented(shuffled=True).batch(position, 0) for position in range(3)]
    found = prune_architecture(residual(), "taylor", target_macs=0.6, round_to=1, data=batches)
    assert found["kept"] == read[0]["kept"]
    same(pruned, slim(unpruned, found["kept"]))
    entries = whole.card["networks"]
    assert entries["pruned"]["macs"] == entries["model"]["macs"] == found["macs"] <= 0.6 * entries["unpruned"]["macs"]
    for name, network in whole.networks.items():
        assert whole.accuracy(name) == pytest.approx(accuracy(network.predict_on_batch, images.scored), abs=1e-6)
    assert np.abs(model.get_weights()[0] - pruned.get_weights()[0]).max() > 1e-4


def test_gradually(path, tmp_path, no_files):
    """Channels go at the start of epochs; an interruption within one changes nothing of what follows."""
    own = {"method": "pruned_gradually", "epochs": 4, "importance": "taylor", "target_macs": 0.6}
    recipe = Recipe(**{**SMALL, **own}, network=path, regularizer="group", strength=1e-3)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(Interrupted, match="in epoch 2 of 4. The checkpoint of 1 finished epochs"):
        run(recipe, tmp_path / "parts", verbose=0, callbacks=[Press()])
    parts = run(recipe, tmp_path / "parts", verbose=0)
    assert list(whole.networks) == ["unpruned", "model"]
    same(parts.networks["model"], whole.networks["model"])
    history = whole.card["seeds"]["0"]["history"]
    assert parts.card["seeds"]["0"]["history"] == history
    left = [entry["left_macs"] for entry in history]
    assert left[0] == 1 > left[1] > left[2] == left[3]
    found = json.loads((tmp_path / "whole" / "architecture.json").read_text())
    assert whole.card["networks"]["model"]["macs"] == found["macs"] <= 0.6 * found["full_macs"]
    assert found["macs"] == pytest.approx(left[3] * found["full_macs"])
    same(whole.networks["unpruned"], residual())


def test_statistics_are_measured_after_few_steps(path, tmp_path, no_files, monkeypatch):
    """Three steps leave those of the unpruned network in place."""
    recipe = Recipe(**{**SMALL, "epochs": 1}, network=path)
    ours = run(recipe, tmp_path / "ours", verbose=0).networks["model"]
    monkeypatch.setattr(runner, "FOLLOWING", 0)
    lagging = run(recipe, tmp_path / "lagging", verbose=0).networks["model"]
    norm, expected = ours.get_layer("stage2_bn"), lagging.get_layer("stage2_bn")
    np.testing.assert_array_equal(norm.gamma, expected.gamma)  # the trainings are the same
    assert np.abs(np.array(norm.moving_mean) - np.array(expected.moving_mean)).max() > 0.1
    recalibrate_batchnorm(lagging, load_data(recipe).train)
    np.testing.assert_allclose(norm.moving_mean, expected.moving_mean, atol=1e-4)


def test_without_training(path, tmp_path, no_files):
    finished = prune_and_train(path, "digits", tmp_path, epochs=0, scope={"stage2_*": 0.5}, round_to=1, verbose=0)
    assert list(finished.networks) == ["unpruned", "model"] and finished.card["seeds"]["0"]["history"] == []
    same(finished.networks["model"], prune(residual(), scope={"stage2_*": 0.5}, round_to=1))
    assert finished_run(tmp_path).recipe.scope == ("stage2_*=0.5",)


def test_files_of_both(path, tmp_path):
    """The network as it was and the result are exported, what lies between is not."""
    finished = run(Recipe(**{**SMALL, "epochs": 1}, network=path, formats=["float32"]), tmp_path, verbose=0)
    entries = finished.card["networks"]
    assert {"unpruned_float32.tflite", "model_float32.tflite", "pruned.keras"} <= {
        file.name for file in tmp_path.iterdir()
    }
    assert (
        list(entries["pruned"]["files"]) == ["pruned.keras"]
        and "compare" in entries["pruned"]["not_exported"]["float32"]
    )
    assert set(finished.card["seeds"]["0"]["accuracy"]["model"]) == {"keras", "float32"}


@unlike
def test_teachers(path, tmp_path):
    """By default the unpruned network; of JointRD another one, through whose stages the pruned one is trained."""
    info, kept = data.info("digits"), prune_architecture(residual(), ratio=0.5, round_to=1)["kept"]
    distilled = make_trainer(Recipe(**{**SMALL, "method": "pruned_distilled"}, network=path, kd_weight=0.9), info, kept)
    assert type(distilled) is Distillation and [method.weight for method in distilled.methods] == [0.9]
    same(distilled.teacher, residual())
    assert distilled.student.count_params() < distilled.teacher.count_params()
    plain = tmp_path / "plain.keras"
    remove_shortcuts(residual()).save(plain)
    kept = prune_architecture(keras.models.load_model(plain), ratio=0.5, round_to=1)["kept"]
    recipe = Recipe(**{**SMALL, "method": "pruned_jointrd"}, network=plain, teacher=path, feature_weight=1e-3)
    joint = make_trainer(recipe, info, kept)
    assert type(joint) is JointRD and joint.boundaries == [("stage1_end", "stage1_end")]
    assert set(joint.boundary_connectors) == {"stage1_end"}  # the student's stage is narrower
    same(joint.teacher, residual())


def test_what_a_trained_network_is_made_to(tmp_path):
    """Frozen layers learn, and convolutions with an identity become ordinary ones, which can be pruned."""
    model = dirac(residual(), layers=["stage1_conv"])
    model.get_layer("stage2_conv").trainable = False
    model.save(tmp_path / "network.keras")
    recipe = Recipe(**SMALL, network=str(tmp_path / "network.keras"))
    train = load_data(recipe).train
    kept = pruned_start.kept_channels(recipe, train, tmp_path, verbose=False)["kept"]
    trainer = make_trainer(recipe, train.info, kept)
    assert "stage1_conv" in kept and type(trainer.get_layer("stage1_conv")) is keras.layers.Conv2D
    assert trainer.get_layer("stage2_conv").trainable


@unlike
def test_by_name(path, tmp_path, no_files, monkeypatch):
    """The network is trained first, and the teacher of the JointRD that it was trained by; seeds rank at random."""
    short = {**SMALL, "epochs": 1, "method": "standard", "data": "digits"}
    del short["round_to"]
    remove_shortcuts(residual()).save(tmp_path / "plain.keras")
    monkeypatch.setattr(catalog, "_RECIPES", dict(catalog._RECIPES))
    for name, own in {
        "resnet20_digits": {**short, "network": path},
        "jointrd_resnet20_digits": {**short, "network": str(tmp_path / "plain.keras")},
        "pruned_jointrd_resnet20_digits": {
            **catalog._RECIPES["pruned_jointrd_resnet20_digits"]["smoke"],
            **{"epochs": 1, "images": 96, "importance": "random"},
        },
    }.items():
        monkeypatch.setitem(catalog._RECIPES, name, {"smoke": {**own, "name": name, "scale": "smoke"}})
    out = tmp_path / "runs"
    finished = run_named("pruned_jointrd_resnet20_digits", "smoke", out, (1,), verbose=0)
    assert {folder.name for folder in out.iterdir()} == {
        *("resnet20_digits", "jointrd_resnet20_digits", "pruned_jointrd_resnet20_digits")
    }
    same(finished.networks["unpruned"], finished_run(out / "jointrd_resnet20_digits").networks["model"])
    assert (finished.folder / "architecture.json").is_file() and (finished.folder / "pruned.keras").is_file()
    kept = [pruned_start.rank(Recipe(**SMALL, network=path, importance="random", seed=s), residual()) for s in (0, 1)]
    assert kept[0]["kept"] != kept[1]["kept"] and kept[0]["importance"] == "random"


def test_what_has_a_name():
    names = catalog.names("pruned_*")
    assert set(settings.CRITERIA) == set(importance_names()) - {"l2"}
    assert {f"pruned_{name}_resnet56_cifar10" for name in settings.CRITERIA} <= set(names)
    for name in names:
        recipe = catalog.get(name, "paper")
        assert recipe.network in catalog.names() and recipe.budget()["target_macs"] == 0.476
        assert recipe.learning_rate < catalog.get(recipe.network, "paper").learning_rate
        before = catalog.get(recipe.network)
        laptop = catalog.get(name)
        assert laptop.epochs < before.epochs and laptop.learning_rate == pytest.approx(before.learning_rate / 10)
    assert catalog.get("pruned_gradually_resnet20_digits", "smoke").epochs == 2
    assert catalog.get("pruned_gradually_group_resnet56_cifar10").regularizer == "group"
    joint = catalog.get("pruned_jointrd_resnet56_cifar10")
    assert (joint.network, joint.teacher) == ("jointrd_resnet56_cifar10", "resnet56_cifar10")
    assert joint.feature_weight == catalog.get(joint.network).feature_weight
    assert catalog.network_and_data("pruned_jointrd_resnet18_imagenette") == ("resnet18", "imagenette")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"importance": "l9"}, "Expected `importance` to be one of .*'taylor'.* Received: importance='l9'"),
        ({"target_macs": 0.5, "ratio": 0.5}, "Expected one of `target_macs`.*Received: .*'ratio': 0.5"),
        ({"target_macs": 0.5, "scope": {"a": 0.5}}, "Expected one of `target_macs`.*scope={'a': 0.5}"),
        ({"scope": {"a": 1.5}}, r"Expected `scope\['a'\]`, .*Received: .*=1.5"),
        ({"scope": ("a=", "b=0.5")}, r"PATTERN=RATIO, e.g. 'stage1_\*=0.3'. Received: scope=\('a='"),
        ({"scope": "stage"}, "Expected `scope` to be one of .*Received: scope='stage'"),
        ({"target_latency_ms": 1.0}, "Expected `latency_table` and `target_latency_ms` together"),
        ({"ratio": 1.0}, "Expected `ratio` above 0 and below 1, or None. Received: ratio=1.0"),
        ({"round_to": 0}, "Expected `round_to` to be an integer from 1. Received: round_to=0"),
        ({"epochs": -1}, "Expected `epochs` to be an integer from 0. Received: epochs=-1"),
        ({"network": "resnet20_digits", "initializer": "fan_out"}, "Expected no `initializer`"),
        ({"kd_weight": 0.5}, "Expected `kd_weight` for method .*Received: method='pruned'"),
        ({"method": "pruned_gradually", "epochs": 1}, r"Expected more `epochs`: .*end=0.5 .*Received: epochs=1"),
        ({"method": "pruned_gradually", "begin": 0.6}, r"Expected `begin` below `end`. Received: begin=0.6, end=0.5"),
        ({"method": "pruned_distilled"}, "Expected `kd_weight` or `feature_weight` above 0"),
        ({"method": "pruned_jointrd", "teacher_mode": "joint"}, "'joint' with method 'jointrd'"),
        (
            {"method": "standard", "network": "resnet20", "target_macs": 0.5},
            "Expected `target_macs` for method 'pruned'",
        ),
    ],
)
def test_recipes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"method": "pruned", "network": "x.keras", **options})


def test_refused_before_anything_is_written(path, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="Expected `network` to be a .keras file. Received: network='resnet20'"):
        run(Recipe(method="pruned"), out, verbose=0)
    with pytest.raises(ValueError, match=r"Expected `target_macs` within what pruning reaches, from 0\.\d+ \("):
        prune_and_train(path, "nowhere.npz", out, target_macs=0.001)  # ahead of the images
    residual(classes=4).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="one output for each of the 10 classes of 'digits'.*shape \\(4,\\)"):
        prune_and_train(tmp_path / "other.keras", "digits", out, round_to=1, verbose=0)
    with pytest.raises(ValueError, match="a method that begins with a trained network. Received: method='narrow'"):
        prune_and_train(path, "digits", out, method="narrow")
    assert not out.exists()
