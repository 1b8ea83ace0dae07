"""ImageNet and Imagenette: what their recipes say, and that they train from files in the form of the real sets."""

import io
import tarfile

import keras
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image

from tfjointrd import models
from tfjointrd.data import StreamPipeline, load
from tfjointrd.experiments import Interrupted, catalog, run_named

SYNSETS = ("n01440764", "n02102040", "n03888257")  # tench, English springer, parachute


def test_paper_settings():
    recipe = catalog.get("jointrd_resnet50_imagenet2012", "paper")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (120, 512, 0.2, 1e-4)
    assert (recipe.optimizer, recipe.schedule, recipe.milestones) == ("sgd", "steps", (30, 60, 90))
    assert (recipe.tail_floor, recipe.tail_fade * recipe.epochs, recipe.tail_schedule) == (5e-3, 60, "cosine")
    assert (recipe.feature_weight, recipe.image_size, recipe.dirac) == (1e-4, 224, True)
    assert recipe.teacher == "resnet50_imagenet2012" and recipe.images is None
    assert catalog.get("kd_dirac_resnet50_imagenet2012", "paper").feature_weight == 0
    narrow = catalog.get("an_resnet18_a4_imagenette", "paper")
    assert (narrow.epochs, narrow.batch_size, narrow.optimizer, narrow.learning_rate) == (100, 200, "adam", 4e-3)


def test_a_method_comes_before_the_settings_of_its_scale():
    recipe = catalog.get("jointrd_routing_to_zero_resnet18_imagenette", "paper")
    assert (recipe.tail_floor, recipe.tail_fade) == (0.0, 0.5)
    assert catalog.get("jointrd_resnet20_cifar10", "paper").feature_weight == 1e-3
    assert catalog.get("jointrd_resnet18_imagenette", "laptop").feature_weight == 1e-3


def prefixes(network, data):
    """What comes before the network in the names of recipes of networks without shortcuts."""
    found = {name.removesuffix(f"_{network}_{data}") for name in catalog.names(f"*_{network}_{data}")}
    return {name for name in found if not name.startswith("pruned")} - {"feature_kd_residual", "standard"}


def test_every_way_has_a_recipe_for_photographs():
    for network in ("resnet18", "resnet34", "resnet50"):
        assert prefixes(network, "imagenette") == set(catalog.PLAIN)
        assert prefixes(network, "imagenet2012") == {*catalog.MAIN, "kd"}
    limited = {name: catalog.get(name, "laptop").images for name in catalog.names("*_imagenet2012")}
    assert set(limited.values()) == {9469}


def jpeg(number, place):
    pixels = np.random.default_rng(number).integers(0, 100, (40, 48, 3), dtype="uint8")
    pixels[..., place] += 120
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def imagenette(tmp_path_factory):
    """A folder of prepared sets with a few images in Imagenette's own form."""
    source, prepared = (tmp_path_factory.mktemp(name) for name in ("source", "prepared"))
    for split, count in (("train", 20), ("val", 6)):
        for place, synset in enumerate(SYNSETS):
            folder = source / "imagenette2-320" / split / synset
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{split}_{synset}_{number}.JPEG").write_bytes(jpeg(number, place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "head", lambda *_, **__: None)
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda *_: str(source))
        load("imagenette", data_dir=prepared)
    return prepared


@pytest.fixture
def small_networks(monkeypatch, tmp_path):
    """The recipes of ResNet-18 with a network of seven layers in its place."""
    path = tmp_path / "small.keras"
    models.cifar_resnet(8, num_classes=10, input_shape=(32, 32, 3)).save(path)
    for name in ("resnet18_imagenette", "jointrd_resnet18_imagenette"):
        changed = {**catalog._RECIPES[name]["smoke"], "network": str(path), "images": 32}
        monkeypatch.setitem(catalog._RECIPES, name, {**catalog._RECIPES[name], "smoke": changed})


def test_teacher_and_student_train_from_the_files(imagenette, tmp_path, small_networks, monkeypatch, no_files):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 3:  # in the second epoch
                raise KeyboardInterrupt

    monkeypatch.setenv("TFDS_DATA_DIR", str(imagenette))
    name, teacher = "jointrd_resnet18_imagenette", "resnet18_imagenette"
    whole = run_named(name, "smoke", tmp_path / "whole", verbose=0)
    network = whole.networks["model"]
    assert network.input_shape == (None, 32, 32, 3) and network.output_shape == (None, 10)
    assert whole.card["recipe"]["image_size"] == 32 and whole.card["recipe"]["teacher"] == teacher
    assert (whole.card["data"]["train_images"], whole.card["data"]["validation_images"]) == (32, 18)
    assert (tmp_path / "whole" / teacher / "card.json").is_file()

    with pytest.raises(Interrupted, match="in epoch 2 of 2"):
        run_named(teacher, "smoke", tmp_path / "stopped", verbose=0, callbacks=[Stop()], minutes=0)
    resumed = run_named(teacher, "smoke", tmp_path / "stopped", verbose=0)
    uninterrupted = run_named(teacher, "smoke", tmp_path / "whole")
    for ours, theirs in zip(*(run.networks["model"].weights for run in (resumed, uninterrupted)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jointrd_resnet18_imagenette", "an_resnet18_a4_imagenette"])
def test_smoke_recipes_as_they_are(imagenette, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(imagenette))
    finished = run_named(name, "smoke", tmp_path, verbose=0)
    assert all(network.output_shape == (None, 10) for network in finished.networks.values())
    assert not any("not_exported" in entry for entry in finished.card["networks"].values())


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_imagenet_as_it_is_prepared_by_hand(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as train:
        for place, synset in enumerate(SYNSETS):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as images:
                for number in range(4):
                    add(images, f"{synset}_{number}.JPEG", jpeg(number, place))
            add(train, f"{synset}.tar", content.getvalue())
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as validation:
        for number in range(1, 6):
            add(validation, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(number, 0))
    train, validation = load("imagenet2012", batch_size=8, image_size=16, data_dir=tmp_path)
    assert isinstance(train, StreamPipeline) and (train.size, validation.size) == (12, 5)
    assert train.info.num_classes == 1000 and train.info.input_shape == (16, 16, 3)
    images, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    assert images.shape == (12, 16, 16, 3) and sorted(labels) == [0] * 4 + [217] * 4 + [701] * 4
    brightest = images.mean(axis=(1, 2)).argmax(axis=-1)
    np.testing.assert_array_equal(brightest, [{0: 0, 217: 1, 701: 2}[label] for label in labels])
