import json
import re
import subprocess
import sys

import keras
import pytest
from shallow import make_shallow, make_short

from tfjointrd import export, models
from tfjointrd.__main__ import main
from tfjointrd.experiments import card, catalog, recipes
from tfjointrd.experiments.checkpoint_callback import CheckpointCallback
from tfjointrd.export import quantize


def test_help_in_a_process_of_its_own():
    command = [sys.executable, "-m", "tfjointrd", "train", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: python -m tfjointrd train" in result.stdout
    assert re.search("  jointrd +the plain network, taught through", result.stdout)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["export"],
        ["report"],
        ["demo"],
        ["run"],
        ["recipes"],
        ["benchmark"],
        ["train"],
        ["prune"],
        ["page"],
        ["tables"],
    ],
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "usage: python -m tfjointrd" in printed
    assert ("--quiet" in printed) == bool(command) and "{None" not in printed


def scalars(folder):
    """Tag -> step -> value of TensorBoard's files in a folder."""
    import tensorflow as tf

    found = {}
    for record in tf.data.TFRecordDataset([str(path) for path in folder.glob("events.out.tfevents.*")]):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_train_export_report(tmp_path, capsys, monkeypatch):
    make_shallow(monkeypatch)
    out = tmp_path / "run"
    arguments = ["train", "--method", "narrow", "--epochs", "2", "--batch-size", "480", "--out", str(out)]
    assert main([*arguments, "--tensorboard", str(tmp_path / "board")]) == 0
    printed = capsys.readouterr().out
    assert f"Training resnet20, method narrow on digits: 2 epochs of 3 steps, in {out}" in printed
    assert re.search(r"Epochs done: 1/2, \d+ s left", printed)
    assert "Writing and measuring network model, 1 of 1 ..." in printed and "model.keras: accuracy" in printed
    card = json.loads((out / "card.json").read_text())
    assert card["recipe"]["method"] == "narrow" and card["data"]["name"] == "digits"
    assert card["command"].startswith("python -m tfjointrd train --method narrow --epochs 2")
    history = card["seeds"]["0"]["history"]
    for part, before in (("train", ""), ("validation", "val_")):
        written = scalars(tmp_path / "board" / part)
        for name in ("loss", "accuracy"):
            assert written[f"epoch_{name}"] == pytest.approx({i: history[i][before + name] for i in (0, 1)}, rel=1e-5)
    assert set(scalars(tmp_path / "board" / "train")["epoch_learning_rate"]) == {0, 1}
    network = str(out / "model.keras")
    assert main(["export", network, "--quantization", "int8", "--data", "digits"]) == 0
    assert (out / "model_int8.tflite").exists() and "accuracy of the file on digits" in capsys.readouterr().out
    assert main(["export", network]) == 0
    assert (out / "model.tflite").exists()
    assert main(["report", network]) == 0
    assert "stage3_block1_conv2" in capsys.readouterr().out
    assert main(["report", "resnet20", "--data", "imagenette", "--image-size", "64"]) == 0
    assert "64x64x16" in capsys.readouterr().out


def test_benchmark(tmp_path, capsys):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3)(keras.layers.Conv2D(8, 3)(image))
    network = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    network.save(tmp_path / "net.keras")
    file = str(export.tflite(network, tmp_path / "net.tflite").path)
    assert main(["benchmark", file, file, "--runs", "3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}  ") and "3 runs, 1.00 times as fast as the first" in first
    assert second.startswith(f"{file}  ") and "ms median" in second
    table = tmp_path / "layers" / "table.json"
    network = str(tmp_path / "net.keras")
    arguments = ["benchmark", network, "--layers", str(table), "--runs", "1", "--alphas", "1", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"timing layers: 2/3, \d+ s left, .*timing layers: 3/3, .*\n", printed)
    assert f"{table}: 3 layers, " in printed
    assert [len(rows) for rows in json.loads(table.read_text()).values()] == [2, 4, 2]
    assert main(["benchmark", network, network, "--layers", str(table)]) == 1
    assert "Expected one network with `--layers`. Received: " in capsys.readouterr().err


@pytest.fixture
def no_files(monkeypatch):
    """Trainings leave no `.tflite` files; `test_train_export_report` has them."""
    monkeypatch.setattr(card, "forms", dict)


def test_run_by_name(tmp_path, capsys, monkeypatch, no_files):
    make_shallow(monkeypatch)
    make_short(monkeypatch, "narrow_resnet20_a4_digits")
    arguments = ["run", "narrow_resnet20_a4_digits", "--scale", "smoke", "--out", str(tmp_path)]
    assert main(arguments) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{tmp_path / 'narrow_resnet20_a4_digits' / 'model.keras'}: accuracy")
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [line]  # nothing was trained again
    for pattern in ("narrow_*_digits", "*"):
        assert main(["recipes", pattern, "--out", str(tmp_path)]) == 0
        listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "finished" in line)
        assert listed == {"narrow_resnet20_a4_digits": "smoke: finished, seed 0"}


def test_many_recipes_are_grouped(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes"]) == 0
    grouped = capsys.readouterr().out
    count = len(catalog.names())
    assert count > 500 and grouped.startswith(f"{count} recipes") and len(grouped.splitlines()) < 40
    counts = dict(re.findall(r"(\w+) \((\d+)\)", next(line for line in grouped.splitlines() if "digits  " in line)))
    assert counts == {name: str(len(catalog.names(f"*{name}*_digits"))) for name in ("resnet20", "resnet56")}
    assert re.search(r"METHOD_NETWORK\{_a2,_a4,_a8\}_DATA\n +.*\bnarrow\b", grouped)
    (example,) = re.findall('recipes "(.*)"` lists', grouped)
    assert main(["recipes", example]) == 0
    assert capsys.readouterr().out.split() == catalog.names(example)
    assert main(["recipes", "--all"]) == 0
    assert capsys.readouterr().out.split() == catalog.names()
    assert main(["recipes", "--quiet"]) == 0
    assert grouped.startswith(capsys.readouterr().out.rstrip("\n")) and "--all" in grouped


def test_transfer(tmp_path, capsys, no_files):
    network, out = tmp_path / "trained.keras", tmp_path / "out"
    models.cifar_resnet(8, num_classes=4, input_shape=(8, 8, 3)).save(network)
    arguments = ["train", "--method", "transfer", "--network", str(network), "--epochs", "1", "--images", "128"]
    assert main([*arguments, "--out", str(out), "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{out / 'model.keras'}: accuracy")
    card = json.loads((out / "card.json").read_text())
    assert card["command"].startswith("python -m tfjointrd train --method transfer")
    assert (card["recipe"]["learning_rate"], card["recipe"]["batch_size"]) == (0.02, 64)


@pytest.fixture
def narrow(tmp_path):
    """A network for digits that trains in no time."""
    path = tmp_path / "narrow.keras"
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, name="first")(keras.layers.Rescaling(1 / 16)(image))
    x = keras.layers.Conv2D(12, 3, activation="relu", name="second")(keras.layers.ReLU()(x))
    keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)), name="narrow").save(path)
    return str(path)


def cells(printed):
    """The cells of the table that was printed last."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]


def test_prune(narrow, tmp_path, capsys):
    """Prunes, trains on and exports; stopped and called again, it goes on; before and after are in one table."""

    def stop(saver, epoch, logs=None):
        if epoch:
            raise KeyboardInterrupt

    out = tmp_path / "small"
    command = ["prune", narrow, "--target-macs", "0.5", "--round-to", "2", "--data", "digits", "--epochs", "2"]
    command += ["--images", "64", "--batch-size", "16", "--formats", "float32", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_epoch_begin", stop)
        assert main(command) == 130
    error = capsys.readouterr().err
    assert "Stopped in epoch 2 of 2. The checkpoint of 1 finished epochs is in" in error
    assert f"Continue with: python -m tfjointrd prune {narrow} --target-macs 0.5" in error
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "epochs of 4 steps, of which 1 are done" in printed and "Writing and measuring network model, 3 of 3" in printed
    )
    assert "Epoch 2/2" in printed and "━" not in printed  # a line an epoch where there is no terminal
    head, _, *rows = cells(printed)
    assert [row[0] for row in rows] == ["unpruned", "pruned", "pruned and fine-tuned"]
    before, between, after = (dict(zip(head, row, strict=True)) for row in rows)
    card = json.loads((out / "card.json").read_text())
    assert card["command"] == " ".join(["python -m tfjointrd", *command])
    assert card["recipe"]["learning_rate"] == 0.01 and len(card["seeds"]["0"]["history"]) == 2
    kib = card["networks"]["model"]["files"]["model_float32.tflite"] / 1024
    assert after["float32 (KiB)"] == f"{kib:.0f}" and float(before["float32 (KiB)"]) > kib
    assert after["Keras %"] == f"{100 * card['seeds']['0']['accuracy']['model']['keras']:.2f}"
    assert float(after["float32 (ms)"]) > 0 and between["float32 (ms)"] == "—"
    assert after["parameters"] == between["parameters"] != before["parameters"]
    assert main([*command, "--quiet"]) == 0
    assert [row[:6] for row in cells(capsys.readouterr().out)[2:]] == [row[:6] for row in rows]


def test_prune_without_images(narrow, tmp_path, capsys):
    out = tmp_path / "small"
    command = ["prune", narrow, "--ratio", "0.5", "--round-to", "2", "--epochs", "0", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Writing network model ..." in printed
    head, _, *rows = cells(printed)
    assert [row[:2] for row in rows] == [["unpruned", "—"], ["pruned", "—"]] and "int8 %" not in head
    files = {"architecture.json", "model.keras", "model_float32.tflite", "unpruned.keras", "unpruned_float32.tflite"}
    assert {path.name for path in out.iterdir()} == {".lock", "recipe.json", *files}
    kept = json.loads((out / "architecture.json").read_text())["widths"]
    assert kept and keras.models.load_model(out / "model.keras").get_layer("second").filters == kept["second"]
    (out / "model.keras").unlink()  # as if it had been stopped
    assert main(command) == 0 and (out / "model.keras").is_file()
    assert main([*command, "--ratio", "0.3"]) == 1
    assert "which holds a training with ratio=0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected `--data`, the images to train on and to measure accuracy with, or `--epochs 0`"),
        (["--epochs", "0", "--target-macs", "1e-3"], "Expected `target_macs` within what pruning reaches, from 0."),
        (["--data", "nowhere.npz", "--target-macs", "1e-3"], "Expected `target_macs` within what pruning reaches"),
        (["--epochs", "0", "--importance", "taylor"], "Expected `data` for importance 'taylor'"),
        (["--epochs", "0", "--formats", "float32", "int8"], "Expected `data` for the formats int8"),
        (
            ["--epochs", "0", "--method", "pruned_jointrd"],
            "Expected `--data` for method 'pruned_jointrd', which trains",
        ),
        (["--epochs", "0", "--target-macs", "0.5", "--ratio", "0.5"], "Expected one of `target_macs`"),
        (["--epochs", "0", "--scope", "third=0.5"], "third"),
        (["--epochs", "0", "--note", "mine"], "Expected `--data` with --note, since without it nothing is trained"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--data", "digits", "--teacher", "x.keras"], "Expected `teacher` for method"),
    ],
)
def test_prune_refuses_before_it_writes(arguments, message, narrow, tmp_path, capsys):
    assert main(["prune", narrow, "--round-to", "2", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_prune_leaves_other_folders_alone(narrow, tmp_path, capsys):
    assert main(["prune", narrow, "--epochs", "0", "--out", str(tmp_path)]) == 1
    assert "a new or empty folder, or that of the same command. Received: out=" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"narrow.keras"}
    assert main(["prune", "no.keras", "--epochs", "0", "--out", str(tmp_path / "out")]) == 1
    assert "Received: model='no.keras'" in capsys.readouterr().err


def test_every_field_of_a_recipe_is_an_option(monkeypatch):
    """All but the augmentation and what registered recipes are called; without options, the defaults."""

    import tfjointrd.__main__ as command_line
    from tfjointrd.experiments import Recipe

    class Stop(Exception):
        pass

    def stop(recipe, out, **_):
        raise Stop(recipe)

    monkeypatch.setattr("tfjointrd.experiments.run", stop)
    with pytest.raises(Stop) as stopped:
        main(["train", "--out", "x"])
    assert stopped.value.args == (Recipe(),)
    actions = command_line._parser()._subparsers._group_actions[0].choices["train"]._actions
    assert recipes.all_fields().keys() - {action.dest for action in actions} == {"augment", "name", "scale"}
    given = [
        "--method",
        "jointrd",
        "--teacher-mode",
        "joint",
        "--dirac",
        "--keep-projections",
        "--tail-schedule",
        "linear",
    ]
    given += ["--path-scale", "mean", "--kd-weight", "0.5", "--temperature", "2", "--feature-weight", "1e-3"]
    with pytest.raises(Stop) as stopped:
        main(["train", "--out", "x", *given, "--image-size", "64", "--initializer", "fan_out"])
    (recipe,) = stopped.value.args
    assert recipe.initializer == "fan_out"
    assert (recipe.teacher_mode, recipe.dirac, recipe.keep_projections) == ("joint", True, True)
    assert (recipe.tail_schedule, recipe.path_scale, recipe.image_size) == ("linear", "mean", 64)
    assert (recipe.kd_weight, recipe.temperature, recipe.feature_weight) == (0.5, 2.0, 1e-3)
    with pytest.raises(Stop) as stopped:
        main(["train", "--out", "x", "--method", "adjoined", "--kl-epsilon", "1e-6"])
    assert stopped.value.args[0].kl_epsilon == 1e-6


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--out", "x", "--method", "transfer"], "Received: model='resnet20'"),
        (["train", "--out", "x", "--method", "transfer", "--network", "no.keras"], "Received: model='no.keras'"),
        (["train", "--out", "x", "--method", "magic"], "Received: method='magic'"),
        (["train", "--out", "x", "--data", "cifer10"], "cifar10"),
        (["train", "--out", "x", "--network", "resnet21"], "resnet20"),
        (["train", "--out", "x", "--method", "adjoined", "--alpha", "0"], "Received: alpha=0"),
        (["run", "resnet21_digits"], "resnet20_digits"),
        (["run", "resnet20_digits", "--seeds", "1", "1"], "Received: seeds=[1, 1]"),
        (["recipes", "resnet21*"], "Received: pattern='resnet21*'"),
        (["export", "nowhere.keras"], "Received: network='nowhere.keras'"),
        (["export", "nowhere.keras", "--quantization", "int8"], "nowhere.keras"),
        (["report", "nowhere.keras"], "nowhere.keras"),
        (["benchmark", "nowhere.tflite"], "nowhere.tflite"),
        (["train", "--out", "x", "--method", "search", "--target", "2e9"], "Received: target_macs=2"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "x").exists()


def test_a_layer_class_that_nobody_knows_is_one_line(tmp_path, capsys):
    @keras.saving.register_keras_serializable(package="test")
    class Passing(keras.layers.Layer):
        def call(self, x):
            return x

    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((4,)), Passing(), keras.layers.Dense(2)]).save(path)
    del keras.saving.get_custom_objects()["test>Passing"]
    assert main(["report", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Expected a .keras file of layers that Keras knows") and "own.keras" in error


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", interrupted)
    arguments = ["train", "--out", str(tmp_path / "a run"), "--epochs", "2"]
    assert main(arguments) == 130
    error = capsys.readouterr().err
    assert "Stopped in epoch 1 of 2" in error
    assert f"Continue with: python -m tfjointrd train --out '{tmp_path / 'a run'}' --epochs 2" in error


def test_int8_needs_images(tmp_path, capsys):
    path = tmp_path / "net.keras"
    models.resnet20(input_shape=(8, 8, 1)).save(path)
    assert main(["export", str(path), "--quantization", "int8"]) == 1
    assert "representative_data" in capsys.readouterr().err


def test_export_in_every_format(tmp_path, capsys):
    """From a network and from a float32 file, by layer, with a limit; and what `report` says of such files."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.ReLU()(keras.layers.Conv2D(8, 3, name="conv")(keras.layers.Rescaling(1 / 16)(image)))
    network = keras.Model(image, keras.layers.Dense(10, name="scores")(keras.layers.Flatten()(x)), name="net")
    path, file = tmp_path / "net.keras", tmp_path / "net.tflite"
    network.save(path)
    assert main(["export", str(path)]) == 0 and file.is_file()
    for name in list(quantize.arguments())[1:]:
        assert main(["export", str(file), "--quantization", name, "--data", "digits"]) == 0
        assert (tmp_path / f"net_{name}.tflite").stat().st_size < file.stat().st_size
    assert capsys.readouterr().out.count("accuracy of the file on digits") == 5
    mixed = ["--quantization", "int8", "--layers", "sco*=float32", "--data", "digits", "--max-accuracy-drop", "50"]
    assert main(["export", str(path), *mixed]) == 0
    assert main(["report", str(tmp_path / "net_mixed.tflite"), str(tmp_path / "net_int4.tflite")]) == 0
    out = capsys.readouterr().out
    assert "FULLY_CONNECTED  float32" in out and "in int4" in out and "CONV_2D          int8" in out
    figure = str(tmp_path / "errors.png")
    against = ["--against", str(path), "--data", "digits", "--figure", figure]
    assert main(["report", str(tmp_path / "net_int8.tflite"), *against]) == 0
    assert "own error %" in capsys.readouterr().out and (tmp_path / "errors.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "net.tflite"], "`--quantization`"),
        (["export", "net.tflite", "--quantization", "int8", "--converter", "tensorflow"], "need the .keras network"),
        (["export", "net.keras", "--layers", "scores"], "PATTERN=FORMAT, e.g. 'stem_*=float32'. Received: scores"),
        (["export", "net.keras", "--max-accuracy-drop", "1"], "`--data` with `--max-accuracy-drop`"),
        (["report", "net.keras", "--against", "net.keras"], ".tflite files with `--against`"),
        (["report", "a.tflite", "b.tflite", "--figure", "a.png"], "one .tflite file and `--against`"),
        (["report", "a.tflite", "resnet20"], "either networks, .tflite files or folders"),
    ],
)
def test_unfit_options_of_files(arguments, message, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
