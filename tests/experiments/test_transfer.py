"""Fine-tuning a trained network on other data."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from tfjointrd import JointRD, data, models, recalibrate_batchnorm, remove_shortcuts, transfer
from tfjointrd.experiments import Interrupted, Recipe, fine_tuning, run
from tfjointrd.experiments.run_folder import locked
from tfjointrd.experiments.trainers import make_trainer

QUICK = {"epochs": 2, "images": 48, "batch_size": 16, "verbose": 0}


def small(channels=3, size=12, classes=5):
    """A network that trains in no time, from raw pixels to logits."""
    return keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.Rescaling(1 / 128, -1.0),
            keras.layers.Conv2D(6, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of three colours, and the network that is to learn them."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 16), ("val", 6)):
        for place, name in enumerate(("blue", "green", "red")):
            (folder / "photographs" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(index).integers(0, 100, (20, 24, 3), dtype="uint8")
                pixels[..., place] += 120
                Image.fromarray(pixels).save(folder / "photographs" / split / name / f"{index}.png")
    small().save(folder / "small.keras")
    return folder


def test_data_sets_are_downloaded(monkeypatch):
    asked = []
    monkeypatch.setattr(data.loading, "load", lambda name, **options: asked.append((name, options)) or data.load())
    assert fine_tuning.image_size_for(small(1, 8), "beans") is None
    assert [(name, options["download"]) for name, options in asked] == [("beans", True)]


class Never(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise AssertionError("trained again")


def test_networks_of_other_than_squares(folder, tmp_path):
    network = keras.Sequential(
        [keras.Input((12, 16, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)], name="wide"
    )
    network.save(tmp_path / "wide.keras")
    with pytest.raises(ValueError, match="a network of square images, .* Received: 'wide' for 12x16"):
        transfer(tmp_path / "wide.keras", folder / "photographs", tmp_path / "out", **QUICK)


def test_photographs_come_in_the_size_of_the_network(folder, tmp_path):
    photographs, path = folder / "photographs", folder / "small.keras"
    out = tmp_path / "out"
    finished = transfer(path, photographs, out, learning_rate=0.3, **{**QUICK, "epochs": 4})
    network = finished.networks["model"]
    assert network.input_shape == (None, 12, 12, 3) and network.output_shape == (None, 3)
    assert finished.accuracy("model") > 0.9
    recipe = json.loads((out / "card.json").read_text())["recipe"]
    assert (recipe["method"], recipe["network"], recipe["image_size"]) == ("transfer", str(path), 12)
    assert {"model.keras", "model_float32.tflite", "model_int8.tflite"} <= {file.name for file in out.iterdir()}
    again = transfer(str(path), photographs, out, learning_rate=0.3, callbacks=[Never()], **{**QUICK, "epochs": 4})
    np.testing.assert_array_equal(again.networks["model"].get_weights()[0], network.get_weights()[0])


def test_training_begins_with_the_trained_weights(folder, tmp_path, no_files):
    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.kernel = self.model.get_layer("conv2d").get_weights()[0]

    network, look = small(), Look()
    network.layers[1].name = "conv2d"
    network.layers[1].trainable = False  # as it was while the head was trained; here all learn
    finished = transfer(
        network, folder / "photographs", tmp_path, callbacks=[look], image_size=16, **{**QUICK, "epochs": 1}
    )
    np.testing.assert_array_equal(look.kernel, network.layers[1].get_weights()[0])
    assert np.abs(finished.networks["model"].get_layer("conv2d").get_weights()[0] - look.kernel).max() > 1e-4


def test_a_model_is_kept_and_goes_on_after_an_interruption(folder, tmp_path, no_files):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    photographs, network = folder / "photographs", small()
    with pytest.raises(Interrupted, match="in epoch 2 of 2"):
        transfer(network, photographs, tmp_path / "stopped", callbacks=[Stop()], **QUICK)
    with pytest.raises(ValueError, match=r"Received: out='.*stopped', whose pretrained.keras has other weights"):
        transfer(small(), photographs, tmp_path / "stopped", **QUICK)
    resumed = transfer(network, photographs, tmp_path / "stopped", **QUICK)
    whole = transfer(network, photographs, tmp_path / "whole", **QUICK)
    for ours, theirs in zip(resumed.networks["model"].weights, whole.networks["model"].weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="holds a training with epochs=2"):
        transfer(network, photographs, tmp_path / "whole", **{**QUICK, "epochs": 3})


def test_grey_images_for_a_network_of_colours(tmp_path, no_files):
    finished = transfer(small(), "digits", tmp_path, **{**QUICK, "epochs": 1})
    assert finished.networks["model"].input_shape == (None, 8, 8, 1)
    assert finished.recipe.image_size is None and finished.recipe.batch_size == 16


def test_a_network_that_cannot_take_the_images(folder, tmp_path):
    network = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(5),
        ]
    )
    with pytest.raises(ValueError, match="(?s)convolutional up to a global pooling.*hidden"):
        transfer(network, folder / "photographs", tmp_path, image_size=20, **QUICK)


def test_the_name_of_a_finished_recipe(tmp_path, no_files):
    runs = tmp_path / "runs"
    with pytest.raises(FileNotFoundError, match="`python -m tfjointrd run resnet20_digits --out .*runs` trains it"):
        transfer("resnet20_digits", "digits", tmp_path / "out", runs=runs)
    small(channels=1, size=8, classes=10).save(tmp_path / "small.keras")
    run(Recipe(network=str(tmp_path / "small.keras"), epochs=1, images=32), runs / "resnet20_digits", verbose=0)
    finished = transfer("resnet20_digits", "digits", tmp_path / "out", runs=runs, **{**QUICK, "epochs": 1})
    assert finished.recipe.network == str(runs / "resnet20_digits" / "model.keras")


def test_a_recipe_of_several_networks(tmp_path, monkeypatch):
    card = {"networks": {"full": {}, "small": {}}, "seeds": {"0": {}}}
    monkeypatch.setattr("tfjointrd.experiments.card.read", lambda folder: card)
    with pytest.raises(ValueError, match="one of the recipe's networks .full, small, in .*an_resnet20_a2_digits"):
        transfer("an_resnet20_a2_digits", "digits", tmp_path)


def test_a_model_that_is_not_functional(tmp_path):
    with pytest.raises(ValueError, match="Expected `model` to be a functional keras.Model"):
        transfer(JointRD(remove_shortcuts(models.resnet20()), models.resnet20()), "digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model, error, message",
    [
        ("resnet20", ValueError, "Received: model='resnet20'"),
        ("nowhere.keras", FileNotFoundError, "Received: model='nowhere.keras'"),
    ],
)
def test_networks_that_are_not_there(model, error, message, tmp_path):
    with pytest.raises(error, match=message):
        transfer(model, "digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_needs_a_file():
    with pytest.raises(ValueError, match="keras file of a trained network.* Received: network='resnet20'"):
        Recipe(method="transfer")


def test_the_trained_resnets_of_this_package(tmp_path):
    """The recipe builds what `transfer` promises, for a network with shortcuts."""
    path = tmp_path / "resnet8.keras"
    models.cifar_resnet(8, num_classes=10).save(path)
    recipe = Recipe(method="transfer", network=str(path), data="digits")
    model = make_trainer(recipe, data.info("digits"))
    assert model.input_shape == (None, 8, 8, 1) and model.output_shape == (None, 10)


def test_the_range_of_pixels(folder, tmp_path, no_files):
    """A network that takes -1..1, as those of `keras.applications` do, is told apart and gets a layer for it."""
    photographs = folder / "photographs"
    whole = small()
    bare = keras.Sequential([keras.Input((12, 12, 3)), *whole.layers[1:]], name="bare")
    with pytest.warns(UserWarning, match="'bare' gets pixels from .* nor its statistics say .* `pixel_range`, one of"):
        transfer(bare, photographs, tmp_path / "unknown", **{**QUICK, "epochs": 1})
    train, _ = data.load(str(photographs), batch_size=16, image_size=12, augment=False)
    recalibrate_batchnorm(whole, train)  # as if it were trained on such photographs
    with pytest.raises(ValueError, match="Expected `pixel_range`, since 'bare' gets .* fits pixel_range='-1..1' best"):
        transfer(bare, photographs, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()
    finished = transfer(bare, photographs, tmp_path / "out", pixel_range="-1..1", **{**QUICK, "epochs": 1})
    assert finished.networks["model"].layers[1].get_config()["scale"] == pytest.approx(1 / 127.5)
    assert finished.card["recipe"]["pixel_range"] == "-1..1"
    transfer(bare, photographs, tmp_path / "out", callbacks=[Never()], pixel_range="-1..1", **{**QUICK, "epochs": 1})


def test_nothing_is_written_where_another_process_trains(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError, match="another process has locked"):
        transfer(small(), "digits", tmp_path, **QUICK)
    assert not (tmp_path / "pretrained.keras").exists()
