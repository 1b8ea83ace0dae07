"""Trainings that are interrupted go on; finished ones are loaded; foreign folders are left alone."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import filelock
import keras
import numpy as np
import pytest

from tfjointrd import data
from tfjointrd.experiments import Interrupted, Recipe, run
from tfjointrd.experiments import card as cards
from tfjointrd.experiments import run_folder as folders
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.run_folder import finished_run
from tfjointrd.experiments.table import markdown, measure, measure_run
from tfjointrd.training import GradientRecorder
from tfjointrd.training.callbacks.recorder import read

SMALL = {"batch_size": 240, "epochs": 3, "learning_rate": 0.05}


def saved_network(path, *widths):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters in widths:
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))).save(path)
    return str(path)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return saved_network(tmp_path_factory.mktemp("networks") / "small.keras", 8, 16)


@pytest.fixture
def small(network, no_files):
    return {"network": network, **SMALL}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Of a network whose weights take more room in a file than its graph."""
    folder = tmp_path_factory.mktemp("runs") / "adjoined"
    keras.utils.set_random_seed(5)  # the recipe's own seed counts
    network = saved_network(tmp_path_factory.mktemp("networks") / "wide.keras", 32, 64)
    recipe = Recipe(method="adjoined", network=network, **SMALL)
    return run(recipe, folder, verbose=0, note="a test", command="make")


class Press(keras.callbacks.Callback):
    """Sends this process a signal after a step of an epoch, as Ctrl-C or a shutdown do."""

    def __init__(self, epoch, step=2, number=signal.SIGINT):
        super().__init__()
        self.epoch, self.step, self.number = epoch, step, number

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == self.step:
            os.kill(os.getpid(), self.number)


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise AssertionError("trained again")


def names(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_card_and_files(finished):
    card = json.loads((finished.folder / "card.json").read_text())
    assert card == finished.card and card["command"] == "make" and card["data"]["note"] == "a test"
    assert set(card["networks"]) == {"full", "small"} and list(card["seeds"]) == ["0"]
    seed = card["seeds"]["0"]
    assert len(seed["history"]) == 3 and seed["seconds"] > 0 and "seed" not in card["recipe"]
    keras_accuracy = seed["accuracy"]["small"]["keras"]
    assert seed["history"][-1]["val_small_accuracy"] == pytest.approx(keras_accuracy, abs=1e-6)
    assert finished.accuracy("small") == keras_accuracy
    assert card["networks"]["small"]["macs"] < card["networks"]["full"]["macs"]
    files = {"small.keras", "small_float32.tflite", "small_int8.tflite", "full.keras", "full_float32.tflite"}
    assert files <= names(finished.folder) and {"card.json", "recipe.json"} <= names(finished.folder)
    for network in card["networks"].values():
        for file, size in network["files"].items():
            assert (finished.folder / file).stat().st_size == size
    assert not list(finished.folder.glob("*checkpoint*"))


def test_a_finished_training_is_loaded(finished):
    again = run(finished.recipe, finished.folder, verbose=0, callbacks=[Never()])
    assert again.card == finished.card and again.recipe == finished.recipe
    for ours, theirs in zip(again.networks["small"].weights, finished.networks["small"].weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_of_an_epoch(small, tmp_path, number):
    whole = run(Recipe(**small), tmp_path / "whole", verbose=0)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="in epoch 2 of 3. The checkpoint of 1 finished epochs and 4 steps"):
        run(Recipe(**small), tmp_path / "parts", verbose=0, callbacks=[Press(1, number=number)])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert Checkpoints(tmp_path / "parts").newest_name() == (1, 4)
    parts = run(Recipe(**small), tmp_path / "parts", verbose=0)
    assert parts.card["seeds"]["0"]["history"] == whole.card["seeds"]["0"]["history"]
    for ours, theirs in zip(parts.networks["model"].weights, whole.networks["model"].weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


@pytest.fixture(scope="module")
def jointrd(tmp_path_factory):
    """A JointRD recipe of a teacher with one residual block."""
    path = tmp_path_factory.mktemp("networks") / "teacher.keras"
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for stage in (1, 2):
        x = keras.layers.ReLU()(keras.layers.Conv2D(4 * stage, 3, strides=stage, padding="same")(x))
        z = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Conv2D(4 * stage, 3, padding="same")(x))
        x = keras.layers.ReLU(name=f"stage{stage}_end")(keras.layers.Add()([x, z]))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))).save(path)
    return Recipe(method="jointrd", network=str(path), teacher=str(path), **SMALL)


def test_gradients_are_recorded_over_an_interruption(jointrd, tmp_path, no_files):
    jointrd = replace(jointrd, batch_size=480, epochs=2)
    run(jointrd, tmp_path / "whole", verbose=0)
    whole = read(tmp_path / "whole" / "gradients.csv", GradientRecorder.columns)
    assert [(row["epoch"], row["step"]) for row in whole[::2]] == [(0, 0), (1, 3), (2, 6)]
    assert all(row["teacher_norm"] > 0 for row in whole[::2])
    with pytest.raises(Interrupted):
        run(jointrd, tmp_path / "parts", verbose=0, callbacks=[Press(1, step=0)])
    assert [row["epoch"] for row in read(tmp_path / "parts" / "gradients.csv", GradientRecorder.columns)[::2]] == [0, 1]
    run(jointrd, tmp_path / "parts", verbose=0)
    assert read(tmp_path / "parts" / "gradients.csv", GradientRecorder.columns) == whole


def test_stopped_without_mercy(small, tmp_path):
    class Hard(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="in epoch 1 of 3. There is no checkpoint yet. The same command starts again"):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Hard()])
    assert names(tmp_path) == {"recipe.json"}


def test_a_torn_checkpoint_gives_way_to_the_one_before(small, tmp_path, capsys):
    whole = run(Recipe(**small), tmp_path / "whole", verbose=0)
    folder = tmp_path / "torn"
    with pytest.raises(Interrupted):
        run(Recipe(**small), folder, verbose=0, callbacks=[Press(2)])
    newest = max(folder.glob("checkpoint_*.npz"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    torn = run(Recipe(**small), folder, verbose=0)
    assert "Skipped a checkpoint that cannot be read" in capsys.readouterr().out
    assert torn.card["seeds"]["0"]["history"] == whole.card["seeds"]["0"]["history"]


def test_operations_repeat_unless_they_need_not(small, tmp_path, monkeypatch):
    import tensorflow as tf

    called = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: called.append(True))
    recipe = Recipe(**{**small, "epochs": 1})
    run(recipe, tmp_path / "free", verbose=0, deterministic=False)
    assert not called
    run(recipe, tmp_path / "repeatable", verbose=0)
    assert called


def test_torn_checkpoints_make_room_for_new_ones(small, tmp_path):
    with pytest.raises(Interrupted):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Press(2)])
    torn = list(tmp_path.glob("checkpoint_*.npz"))
    for path in torn:
        path.write_bytes(b"torn")
    with pytest.raises(Interrupted, match="The checkpoint"):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Press(0)])
    assert Checkpoints(tmp_path).newest().position == 4 and not any(path.exists() for path in torn)


def test_a_torn_checkpoint_is_written_again_under_its_name(small, tmp_path):
    with pytest.raises(Interrupted):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Press(2)])
    (torn,) = tmp_path.glob("checkpoint_000002_00000000.npz")
    for path in tmp_path.glob("checkpoint_*.npz"):
        path.write_bytes(b"torn")
    with pytest.raises(Interrupted):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Press(2, step=0)])
    assert torn.stat().st_size > 100 and len(list(tmp_path.glob("checkpoint_*.npz"))) == 2


def test_a_folder_for_tensorboard_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="a folder for TensorBoard that can be written. Received: tensorboard='.*board'"):
        run(Recipe(**small), tmp_path / "run", verbose=0, tensorboard=tmp_path / "file" / "board")
    assert names(tmp_path / "run") == {"recipe.json"}


def test_tensorboard_on_a_full_disk_costs_no_training(small, tmp_path, monkeypatch):
    import tensorflow as tf

    class Full:
        """Can be opened, as on a disk that runs full later."""

        flushed = 0

        def flush(self):
            self.flushed += 1
            if self.flushed > 1:
                raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

        close = flush

        def as_default(self):
            return contextlib.nullcontext()

    monkeypatch.setattr(tf.summary, "create_file_writer", lambda folder: Full())
    recipe = Recipe(**{**small, "epochs": 1})
    with (
        pytest.warns(UserWarning, match="files of epoch 1 could not be written to '.*board': No space left"),
        pytest.warns(UserWarning, match="The last of TensorBoard's files could not be written"),
    ):
        run(recipe, tmp_path / "run", verbose=0, tensorboard=tmp_path / "board")
    assert (tmp_path / "run" / "card.json").is_file()


def test_networks_of_a_training_are_known_by_their_weights(small, tmp_path):
    """So a folder may be moved with them, and a file may not change."""
    first, moved = tmp_path / "first", tmp_path / "moved"
    first.mkdir()
    network = shutil.copy(small["network"], first / "small.keras")
    with pytest.raises(Interrupted):
        run(Recipe(**{**small, "network": str(network)}), first / "run", verbose=0, callbacks=[Press(0)])
    first.rename(moved)
    recipe = Recipe(**{**small, "network": str(moved / "small.keras")})
    finished = run(recipe, moved / "run", verbose=0)
    assert finished.card["recipe"]["network"] == str(moved / "small.keras")
    run(recipe, moved / "run", verbose=0, callbacks=[Never()])
    saved_network(moved / "small.keras", 8, 16)
    with pytest.raises(ValueError, match=r"network='.*moved/small.keras', which has changed since"):
        run(recipe, moved / "run", verbose=0)


def test_seeds_of_a_recipe_see_the_same_images(small, tmp_path):
    with pytest.raises(
        ValueError, match="that other seeds of .* fingerprint=abc. Received: 'digits' with fingerprint="
    ):
        run(Recipe(**small), tmp_path, verbose=0, fingerprint="abc")
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_of_another_network(small, finished, tmp_path):
    with pytest.raises(Interrupted):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Press(1)])
    (tmp_path / "recipe.json").unlink()
    before = names(tmp_path)
    with pytest.raises(ValueError, match="Expected a checkpoint of resnet20, with .* model variables. Received: .*npz"):
        run(Recipe(**{**small, "network": "resnet20"}), tmp_path, verbose=0)
    assert names(tmp_path) == before


def test_a_checkpoint_with_other_images(small, tmp_path):
    """As when files were added to a folder, or lost, between two sessions: another order, and other steps."""

    def write(count):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (count, 8, 8, 1), dtype="uint8"), np.arange(count) % 10
        np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])

    write(100)
    recipe, folder = Recipe(**{**small, "data": str(tmp_path / "set.npz"), "batch_size": 20}), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(recipe, folder, verbose=0, callbacks=[Press(1)])
    before = names(folder)
    write(80)
    with pytest.raises(
        ValueError, match="that the training in .* began with, 100 images. Received: '.*set.npz' with 80 images"
    ):
        run(recipe, folder, verbose=0)
    assert names(folder) == before
    write(100)
    assert len(run(recipe, folder, verbose=0).card["seeds"]["0"]["history"]) == 3


def test_a_folder_of_another_recipe_is_left_alone(finished):
    before = sorted(finished.folder.iterdir())
    with pytest.raises(ValueError, match="holds a training with alpha=2"):
        run(replace(finished.recipe, alpha=4), finished.folder)
    assert sorted(finished.folder.iterdir()) == before


def test_more_epochs_are_another_training_and_how_to_go_on_is_said(finished, tmp_path):
    longer = replace(finished.recipe, epochs=5)
    with pytest.raises(
        ValueError,
        match="holds a training with epochs=3. A training does not .* Train for 5 epochs in a new folder, "
        f"or from the weights that it has: method='adjoined', network='{finished.folder}/full.keras', on a new sched",
    ):
        run(longer, finished.folder)
    (tmp_path / "recipe.json").write_text((finished.folder / "recipe.json").read_text())
    with pytest.raises(ValueError, match="in a new folder.$"):
        run(longer, tmp_path)
    with pytest.raises(ValueError, match="with epochs=3, alpha=2.$"):
        run(replace(longer, alpha=4), finished.folder)


def test_a_folder_with_a_card_alone_is_still_one_of_its_recipe(finished, tmp_path):
    (tmp_path / "card.json").write_text((finished.folder / "card.json").read_text())
    with pytest.raises(ValueError, match="Expected a card of the same recipe. Received: .*method='adjoined'"):
        run(Recipe(**SMALL), tmp_path)
    with pytest.raises(ValueError, match="holds a training with seed=0"):
        run(replace(finished.recipe, seed=1), tmp_path)
    assert names(tmp_path) == {"card.json"}


def test_callbacks_may_not_end_the_training(small, tmp_path):
    """A card says that all epochs were trained."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with pytest.raises(RuntimeError, match="callbacks that do not end the training. Stopped in epoch 3 of 3. The chec"):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Stop()])
    assert not (tmp_path / "card.json").exists()
    assert len(run(Recipe(**small), tmp_path, verbose=0).card["seeds"]["0"]["history"]) == 3


def test_a_metric_that_is_not_a_number_is_none_in_the_card(small, tmp_path):
    """Which is JSON, as NaN is not."""

    class Odd(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.model.metrics[0].total.assign(np.nan)

    trained = run(Recipe(**small), tmp_path, verbose=0, callbacks=[Odd()])
    last = trained.card["seeds"]["0"]["history"][-1]
    assert last["val_loss"] is None and last["loss"] > 0
    assert finished_run(tmp_path).card == trained.card


def test_a_folder_of_another_version_is_left_alone(small, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(Recipe(**small).as_dict()))
    with pytest.raises(ValueError, match=r"that this version of tfjointrd wrote \(schema 1\). Received: .*None"):
        run(Recipe(**small), tmp_path)
    assert names(tmp_path) == {"recipe.json"}


def test_two_runners_on_one_folder(small, tmp_path):
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="Received: folder='.*', which another process has locked"):
            run(Recipe(**small), tmp_path, verbose=0)
    finally:
        other.kill()  # a lock ends with its process, however that ends
        other.communicate()
    with filelock.FileLock(tmp_path / ".lock", timeout=5):
        assert names(tmp_path) == set()


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


def test_a_network_that_ends_in_a_sigmoid(tmp_path):
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "sigmoid")])
    network.save(tmp_path / "network.keras")
    with pytest.raises(ValueError, match="whose outputs are logits or a softmax .* ends in a sigmoid"):
        run(Recipe(network=str(tmp_path / "network.keras")), tmp_path / "run", verbose=0)


def test_networks_of_a_machine_without_tensorflow_load_without_their_data(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished.folder, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    for name, entry in card["networks"].items():
        entry["files"] = {f"{name}.keras": entry["files"][f"{name}.keras"]}
        entry["not_exported"] = dict.fromkeys(cards.forms(), "trained on the backend jax")
    (tmp_path / "run" / "card.json").write_text(json.dumps(card))

    def missing(*_, **__):
        raise FileNotFoundError("no data here")

    monkeypatch.setattr(folders, "load_data", missing)
    assert run(finished.recipe, tmp_path / "run").networks["small"].count_params() > 0
    assert "The networks were not exported: no data here" in capsys.readouterr().out


def test_a_finished_training_says_so(finished, capsys):
    run(finished.recipe, finished.folder, note="another")
    said = capsys.readouterr().out
    assert "holds this training, finished on 20" in said and "Its card keeps its own note." in said
    run(finished.recipe, finished.folder, verbose=0)
    assert capsys.readouterr().out == ""


def test_what_a_missing_package_prevented_is_done_later(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    entry = card["networks"]["small"]
    (tmp_path / "run" / "small_int8.tflite").unlink()
    del entry["files"]["small_int8.tflite"], card["seeds"]["0"]["accuracy"]["small"]["int8"]
    entry["not_exported"] = {"int8": "a package is missing: No module named 'ai_edge_litert'", "float16": "too large"}
    (tmp_path / "run" / "card.json").write_text(json.dumps(card))
    entry = run(finished.recipe, tmp_path / "run", verbose=0).card["networks"]["small"]
    assert entry["not_exported"] == {"float16": "too large"} and entry["files"]["small_int8.tflite"] > 0
    assert (tmp_path / "run" / "small_int8.tflite").is_file()


def test_milestones_behind_the_last_epoch_are_refused(tmp_path):
    recipe = Recipe(milestones=(60, 80), schedule="steps", epochs=50)  # as an older card may have it
    with pytest.raises(ValueError, match=r"a milestone below `epochs`, .* Received: milestones=\(60, 80\), epochs=50"):
        run(recipe, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused(tmp_path):
    x, y = np.zeros((20, 8, 8, 1), "uint8"), np.zeros(20, "int64")
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="two classes or more. Received: '.*one.npz' with one"):
        run(Recipe(data=str(tmp_path / "one.npz"), epochs=1), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_mistyped_network_leaves_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="resnet2O"):
        run(Recipe(network="resnet2O", epochs=1), tmp_path / "new" / "run", verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_nan_stops_with_a_message_and_a_checkpoint(small, tmp_path):
    class Explode(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if len(self.model.history.epoch) == 1 and batch == 2:
                self.model.layers[-1].bias.assign(np.full(10, np.nan))

    with pytest.raises(ArithmeticError, match="loss became nan at step 3. Stopped in epoch 2 of 3. .* Lower `learning"):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Explode()])
    checkpoint = Checkpoints(tmp_path).newest()
    assert (checkpoint.epoch, checkpoint.position) == (1, 0)
    assert all(np.isfinite(value).all() for value in checkpoint.variables["model"])


def test_weights_that_are_not_finite_are_not_kept(small, tmp_path):
    """The last step of an epoch can break the weights without having shown in the loss yet."""

    class Explode(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == self.params["steps"] - 1:
                self.model.layers[-1].bias.assign(np.full(10, np.inf))

    with pytest.raises(
        ArithmeticError, match="Weights became infinite or NaN. Stopped in epoch 1 of 3. There is no checkpoint yet"
    ):
        run(Recipe(**small), tmp_path, verbose=0, callbacks=[Explode()])
    assert Checkpoints(tmp_path).newest() is None


def test_unreadable_data_end_with_a_message_and_a_checkpoint(small, tmp_path, monkeypatch):
    batch = data.ArrayPipeline.batch
    broken = {"now": True}

    def read(self, position, epoch=None):
        if broken["now"] and self.training and (self.epoch if epoch is None else epoch) == 1 and position == 4:
            raise OSError("the disk is gone")
        return batch(self, position, epoch)

    monkeypatch.setattr(data.ArrayPipeline, "batch", read)
    message = (
        "Data of 'digits' could not be read: OSError: the disk is gone. Stopped in epoch 2 of 3. The checkpoint of 1"
    )
    with pytest.raises(RuntimeError, match=message):
        run(Recipe(**small), tmp_path / "parts", verbose=0)
    broken["now"] = False
    parts = run(Recipe(**small), tmp_path / "parts", verbose=0)
    whole = run(Recipe(**small), tmp_path / "whole", verbose=0)
    assert parts.card["seeds"]["0"]["history"] == whole.card["seeds"]["0"]["history"]


def test_a_full_disk_ends_with_a_message_and_the_checkpoint_before(small, tmp_path):
    """The largest file that this process may write stands in for the disk's end."""

    class Fill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="No checkpoint could be written .* Kept: that of 2 epochs and 0 steps. Make"):
            run(Recipe(**small), tmp_path, verbose=0, callbacks=[Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert Checkpoints(tmp_path).newest().epoch == 2 and not list(tmp_path.glob("*.part*"))
    assert len(run(Recipe(**small), tmp_path, verbose=0).card["seeds"]["0"]["history"]) == 3


def test_table_of_cards(finished):
    row = measure("AN small", finished, "small")
    assert row.accuracy_float32 == pytest.approx(row.accuracy, abs=0.003)
    assert row.forms == ["float32", "int8"] and row.bytes_int8 < row.bytes_float32 / 2
    assert row.parameters == finished.networks["small"].count_params()
    rows = measure_run(finished)
    assert [r.name for r in rows] == ["adjoined full", "adjoined small"] and rows[1].accuracy == row.accuracy
    lines = markdown([row, row]).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    card = json.loads(json.dumps(finished.card))  # of an int8 file that was refused
    del card["networks"]["small"]["files"]["small_int8.tflite"], card["seeds"]["0"]["accuracy"]["small"]["int8"]
    partial = markdown([measure("AN small", replace(finished, card=card), "small")]).splitlines()[2].split("|")
    assert [partial[place].strip() for place in (4, 9, 11)] == ["—"] * 3 and "—" not in partial[3] + partial[8]
    assert f"{100 * row.accuracy:.2f}" in lines[2] and f"{row.parameters:,}" in lines[2]


def test_a_training_goes_on_with_the_images_in_their_order_only(small, tmp_path):
    train, validation = data.load("digits", augment=False)
    files = [tmp_path / "one.npz", tmp_path / "other.npz"]
    for file, order in zip(files, (np.arange(1437), np.arange(1437)[::-1]), strict=True):
        np.savez(file, x_train=train.x[order], y_train=train.y[order], x_test=validation.x, y_test=validation.y)
    with pytest.raises(Interrupted):
        run(Recipe(**small), tmp_path / "run", verbose=0, data_file=files[0], callbacks=[Press(1)])
    with pytest.raises(ValueError, match="began with, in their order. Received: other ones, or 'digits' read from"):
        run(Recipe(**small), tmp_path / "run", verbose=0, data_file=files[1])
    run(Recipe(**small), tmp_path / "run", verbose=0, data_file=files[0])


# === What settings are chosen on, and what is scored ===


def test_test_images_are_scored_once_and_validation_images_are_held_out(small, tmp_path):
    recipe = Recipe(**small, held_out_for_validation=0.25)
    finished = run(recipe, tmp_path / "test", verbose=0)
    card, images = finished.card, folders.load_data(recipe, augment=False)
    assert (card["data"]["chosen_on"], card["data"]["scored_on"]) == ("held_out", "test")
    assert (card["data"]["train_images"], card["data"]["validation_images"]) == (1437 - 359, 360)
    assert card["data"]["fingerprint"] == images.train.info.fingerprint
    seed, network = card["seeds"]["0"], finished.networks["model"]
    assert seed["accuracy"]["model"]["keras"] == cards.accuracy(network, images.scored)
    last = seed["history"][-1]["val_accuracy"]
    assert last == pytest.approx(cards.accuracy(network, images.validation), abs=1e-6)
    assert (images.validation.size, images.scored.size) == (359, 360)

    tuning = run(replace(recipe, scored_on="held_out"), tmp_path / "held_out", verbose=0)
    assert tuning.card["data"]["scored_on"] == "held_out"
    assert tuning.card["seeds"]["0"]["accuracy"]["model"]["keras"] == pytest.approx(last, abs=1e-6)
    assert tuning.card["seeds"]["0"]["history"] == seed["history"]
    assert seed["source"] == cards.source() and len(cards.source()) == 32


def test_parts_that_cannot_be_held_out_for_validation():
    for part, kind in ((1, ""), (-0.1, ""), (True, "to be a number "), ("a tenth", "to be a number ")):
        with pytest.raises(ValueError, match=f"`held_out_for_validation` {kind}from 0 to below 1. Received"):
            Recipe(held_out_for_validation=part)
    with pytest.raises(
        ValueError, match="above 0, to score on these images. .* held_out_for_validation=0.0, scored_on"
    ):
        Recipe(scored_on="held_out")
    with pytest.raises(ValueError, match="`scored_on` to be one of"):
        Recipe(scored_on="train")
    with pytest.raises(
        ValueError, match=r"an image in each of the two parts .* \(`held_out_for_validation` of the rec"
    ):
        folders.load_data(Recipe(held_out_for_validation=1e-6))


def test_a_training_reads_its_set_from_a_file_and_once(small, tmp_path, monkeypatch):
    train, validation = data.load("digits", augment=False)
    file = tmp_path / "digits.npz"
    np.savez(file, x_train=train.x, y_train=train.y, x_test=validation.x, y_test=validation.y)
    load, loaded = data.load, []
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    from_file = run(Recipe(**small), tmp_path / "file", verbose=0, data_file=file)
    assert len(loaded) == 1  # the card is of the same images
    own = run(Recipe(**small), tmp_path / "own", verbose=0)
    assert from_file.card["data"] == own.card["data"]
    assert from_file.card["seeds"]["0"]["history"] == own.card["seeds"]["0"]["history"]
