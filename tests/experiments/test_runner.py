"""Trainings that are interrupted go on; finished ones are loaded; foreign folders are left alone."""

import json

import keras
import numpy as np
import pytest

from tfjointrd.experiments import Interrupted, Recipe, run
from tfjointrd.experiments.runner import finished_run
from tfjointrd.experiments.table import markdown, measure, measure_run

SMALL = {"network": "resnet20", "batch_size": 240, "epochs": 3, "learning_rate": 0.05}


class StopIn(keras.callbacks.Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "adjoined"
    keras.utils.set_random_seed(5)  # the recipe's own seed counts
    return run(Recipe(method="adjoined", **SMALL), folder, verbose=0, note="a test")


def test_card_and_files(finished):
    card = json.loads((finished.folder / "card.json").read_text())
    assert card == finished.card
    assert set(card["networks"]) == {"full", "small"} and card["note"] == "a test"
    assert len(card["history"]) == 3 and card["seconds"] > 0
    assert card["history"][-1]["val_small_accuracy"] == pytest.approx(card["networks"]["small"]["accuracy"], abs=1e-6)
    assert card["networks"]["small"]["macs"] < card["networks"]["full"]["macs"]
    assert {path.name for path in finished.folder.iterdir()} == {
        "card.json",
        "recipe.json",
        "full.keras",
        "small.keras",
    }


def test_a_finished_training_is_loaded(finished):
    class Never(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("trained again")

    again = run(finished.recipe, finished.folder, verbose=0, callbacks=[Never()])
    assert again.card == finished.card
    for ours, theirs in zip(again.networks["small"].weights, finished.networks["small"].weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


def test_an_interrupted_training_goes_on(finished, tmp_path):
    """Stopped in the second and again in the third epoch, it sees the same batches and ends close to the other."""
    for epoch in (1, 2):
        with pytest.raises(Interrupted, match=f"Stopped in epoch {epoch + 1} of 3. .*{epoch} finished epochs"):
            run(finished.recipe, tmp_path, verbose=0, callbacks=[StopIn(epoch)])
        assert (tmp_path / f"checkpoint_{epoch}.keras").exists()
    again = run(finished.recipe, tmp_path, verbose=0)
    for ours, theirs in zip(again.card["history"], finished.card["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
    assert not list(tmp_path.glob("checkpoint*"))


def test_stopped_before_the_first_checkpoint(tmp_path):
    recipe = Recipe(**SMALL)
    with pytest.raises(Interrupted, match="checkpoint of 0 finished epochs"):
        run(recipe, tmp_path, verbose=0, callbacks=[StopIn(0)])
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json"}


def test_a_folder_of_another_recipe_is_left_alone(finished):
    before = sorted(finished.folder.iterdir())
    with pytest.raises(ValueError, match="holds a training with alpha=2"):
        run(Recipe(method="adjoined", **{**SMALL}, alpha=4), finished.folder)
    assert sorted(finished.folder.iterdir()) == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="Expected a folder that can be written"):
        run(Recipe(**SMALL), tmp_path / "file" / "below")


def test_a_teacher_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="Received: teacher='nowhere.keras'"):
        run(Recipe(method="jointrd", teacher="nowhere.keras"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(FileNotFoundError, match="Expected a folder with a finished training"):
        finished_run(tmp_path)


def test_a_mistyped_recipe_leaves_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="resnet2O"):
        run(Recipe(network="resnet2O", epochs=1), tmp_path, verbose=0)
    assert not list(tmp_path.iterdir())


def test_nan_stops_with_a_message(tmp_path):
    with pytest.raises(ArithmeticError, match="became NaN .* Lower `learning_rate`"):
        run(Recipe(**{**SMALL, "learning_rate": 1e30}), tmp_path, verbose=0)


def test_table_of_files(finished):
    from tfjointrd import data

    train, validation = data.load("digits", augment=False)
    row = measure("AN small", finished, "small", train, validation)
    assert row.accuracy_float32 == pytest.approx(row.accuracy, abs=0.003)
    assert row.bytes_int8 < row.bytes_float32 / 2
    assert row.parameters == finished.networks["small"].count_params()
    rows = measure_run(finished)
    assert [r.name for r in rows] == ["adjoined full", "adjoined small"] and rows[1].accuracy == row.accuracy
    lines = markdown([row, row]).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert f"{100 * row.accuracy:.2f}" in lines[2] and f"{row.parameters:,}" in lines[2]
