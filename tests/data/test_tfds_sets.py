"""Sets of tensorflow-datasets: real ones, small, written by the tests."""

import os

import keras
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from etils import epath

from tfjointrd.data import ArrayPipeline, StreamPipeline, info, load, tfds_sets
from tfjointrd.data.arrays import channel_statistics

PHOTOGRAPHS = 60


class TinyPhotographs(tfds.core.GeneratorBasedBuilder):
    """Images of many sizes, each of one grey level that is its number."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = os.path.dirname(__file__)

    def _info(self):
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "validation": self._generate_examples(100)}

    def _generate_examples(self, start):
        for number in range(start, start + PHOTOGRAPHS):
            image = np.full((10 + number % 5, 12, 3), number, "uint8")
            yield number, {"file_name": str(number), "image": image, "label": number % 2}


class TinyDrawings(tfds.core.GeneratorBasedBuilder):
    """Grey images of one size, without any for validation."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = os.path.dirname(__file__)

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(4, 6, 1)),
            "kind": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("picture", "kind")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(50):
            yield number, {"picture": np.full((4, 6, 1), number, "uint8"), "kind": number % 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name in ("tiny_photographs", "tiny_drawings"):
        builder = tfds.builder(name, data_dir=folder)
        # Several files, so that their order matters.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
    return folder


def numbers(pipeline, epoch):
    """Which images an epoch holds, in its order."""
    found = []
    for position in range(len(pipeline)):
        images, labels = pipeline.batch(position, epoch)
        values = images[:, 0, 0, 0].astype(int)
        assert (images == images[:, :1, :1, :1]).all()
        np.testing.assert_array_equal(values % 2, labels)
        found += values.tolist()
    return found


def test_photographs_are_streamed(data_dir):
    train, validation = load("tiny_photographs", batch_size=16, image_size=8, data_dir=data_dir)
    assert isinstance(train, StreamPipeline) and isinstance(validation, StreamPipeline)
    assert train.info.class_names == ("even", "odd") and train.info.input_shape == (8, 8, 3)
    assert (train.info.train_size, train.info.validation_size) == (60, 60)
    images, labels = train[0]
    assert images.shape == (16, 8, 8, 3) and images.dtype == "float32" and labels.dtype == "int32"
    assert [len(labels) for _, labels in train] == [16, 16, 16, 12]
    assert info("tiny_photographs", data_dir=data_dir).input_shape == (224, 224, 3)


def test_streamed_epochs_hold_every_image_once_in_an_order_of_seed_and_epoch(data_dir):
    def make(seed):
        return load("tiny_photographs", batch_size=16, image_size=8, data_dir=data_dir, seed=seed)

    train, validation = make(1)
    epochs = [numbers(train, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    keras.utils.set_random_seed(99)  # sets TensorFlow's global seed too
    assert numbers(make(1)[0], 2) == epochs[2]
    assert numbers(make(2)[0], 2) != epochs[2]
    assert numbers(validation, 0) == numbers(validation, 1)
    assert sorted(numbers(validation, 0)) == list(range(100, 160))


def test_streamed_batches_can_be_had_in_any_order(data_dir):
    train, _ = load("tiny_photographs", batch_size=16, image_size=8, data_dir=data_dir)
    in_sequence = [train.batch(position, 1) for position in range(4)]
    for position in (2, 0, 3, 1):
        images, labels = train.batch(position, 1)
        np.testing.assert_array_equal(images, in_sequence[position][0])
        np.testing.assert_array_equal(labels, in_sequence[position][1])


def test_copies_of_a_streamed_set_have_readers_of_their_own(data_dir):
    options = {"batch_size": 16, "image_size": 8, "data_dir": data_dir}
    train, as_they_are = load("tiny_photographs", **options)[0], load("tiny_photographs", **options, augment=False)[0]
    train.batch(0, 1)
    plain = train.unaugmented(shuffled=True)
    for position in range(2):
        for ours, theirs in zip(plain.batch(position, 1), as_they_are.batch(position, 1), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert numbers(train.copy(), 2) == numbers(train, 2)


def test_shuffling_keeps_few_examples():
    handed_out = 0

    def examples():
        for number in range(1000):
            assert number - handed_out <= 50
            yield number

    found = []
    for number in tfds_sets.shuffled(examples(), 50, np.random.default_rng(0)):
        handed_out += 1
        found.append(number)
    assert sorted(found) == list(range(1000)) and found != sorted(found)


def test_fit_takes_streamed_pipelines(data_dir):
    train, validation = load("tiny_photographs", batch_size=16, image_size=8, data_dir=data_dir)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(1e-7), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(train, validation_data=validation, epochs=2, verbose=0)
    assert train.epoch == 2


def test_images_of_one_size_are_read_into_memory(data_dir):
    train, validation = load("tiny_drawings", data_dir=data_dir, validation_split=0.2)
    assert isinstance(train, ArrayPipeline)
    assert train.x.shape == (40, 4, 6, 1) and validation.x.shape == (10, 4, 6, 1)
    pixels = np.concatenate([train.x, validation.x])[:, 0, 0, 0]
    assert sorted(pixels.tolist()) == list(range(50))
    np.testing.assert_array_equal(train.x[:, 0, 0, 0] % 3, train.y)
    np.testing.assert_allclose(train.info.mean[0], train.x.mean())
    assert train.info.num_classes == 3
    assert (train.padding, train.flip) == (0, False)


def test_images_of_one_size_that_take_too_much_memory_are_streamed(data_dir, monkeypatch):
    monkeypatch.setattr(tfds_sets, "MEMORY_LIMIT", 50 * 4 * 6 - 1)
    train, _ = load("tiny_drawings", data_dir=data_dir, image_size=5)
    assert isinstance(train, StreamPipeline)
    assert train[0][0].shape == (45, 5, 5, 1)
    assert len(train.info.mean) == 1


def test_cifar100_is_downloaded_and_augmented(tmp_path, monkeypatch):
    source = tmp_path / "source" / "cifar-100-binary"
    source.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (30, 2 + 3072), dtype="uint8")
    records[:, 0] %= 20
    records[:, 1] = 99 - np.arange(30)
    for split in ("train", "test"):
        records.tofile(source / f"{split}.bin")
    for kind, count in (("fine", 100), ("coarse", 20)):
        (source / f"{kind}_label_names.txt").write_text("\n".join(f"{kind}{i}" for i in range(count)))
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda *_: epath.Path(tmp_path / "source")
    )

    train, validation = load("cifar100", batch_size=16, data_dir=tmp_path / "tfds")
    assert train.x.shape == validation.x.shape == (30, 32, 32, 3)
    assert sorted(train.y) == list(range(70, 100))
    for image, label in zip(validation.x, validation.y, strict=True):
        np.testing.assert_array_equal(image.transpose(2, 0, 1).ravel(), records[99 - label, 2:])
    assert train.info.class_names[:2] == ("fine0", "fine1") and train.info.train_size == 30
    assert (train.padding, train.flip) == (4, True)
    again, _ = load("cifar100", data_dir=tmp_path / "tfds", download=False, augment=False)
    assert (again.padding, again.flip) == (0, False)


@pytest.mark.parametrize(
    ("name", "nearest"), [("cifar11", "cifar10"), ("CIFAR-10", "cifar10"), ("fashion mnist", "fashion_mnist")]
)
def test_unknown_name_lists_the_names_and_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"digits, cifar10, cifar100.*Did you mean '{nearest}'. Received: name="):
        load(name)


def test_nearest_name_may_be_one_of_tensorflow_datasets():
    with pytest.raises(ValueError, match="Did you mean 'eurosat'"):
        info("eurosatt")


@pytest.mark.parametrize("name", ["no_such_thing_at_all", "pictures/of/nothing", "", "huggingface:mnist"])
def test_unknown_name_that_resembles_none(name):
    with pytest.raises(ValueError, match=f"has none of this name. Received: name='{name}'"):
        load(name)


def test_unknown_variant():
    with pytest.raises(ValueError, match="Received: name='imagenette/9px'"):
        load("imagenette/9px")


def test_set_without_one_label_an_image():
    with pytest.raises(ValueError, match="images with one label each. Received: name='imdb_reviews'"):
        load("imdb_reviews")


def test_absent_set_is_not_downloaded_against_the_users_will(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"'cifar100' in {tmp_path}.*TFDS_DATA_DIR, or allow the download"):
        load("cifar100", data_dir=tmp_path, download=False)
    assert not list(tmp_path.iterdir())


def test_absent_set_without_a_network(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", refuse)
    with pytest.raises(FileNotFoundError, match="could not be downloaded. .*TFDS_DATA_DIR. Reason: no network"):
        load("cifar100", data_dir=tmp_path)


def test_set_that_has_to_be_prepared_by_hand(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)'imagenet2012'.*ILSVRC2012_img_train.tar"):
        load("imagenet2012", data_dir=tmp_path)


@pytest.mark.data("cifar10")
def test_cifar10():
    train, validation = load("cifar10", download=False)
    assert train.x.shape == (50000, 32, 32, 3) and validation.x.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(train.y), [5000] * 10)
    mean, std = channel_statistics(train.x)
    np.testing.assert_allclose(mean + std, train.info.mean + train.info.std, atol=1)


@pytest.mark.data("fashion_mnist")
def test_fashion_mnist():
    train, _ = load("fashion_mnist", download=False)
    assert train.x.shape == (60000, 28, 28, 1)
    mean, std = channel_statistics(train.x)
    np.testing.assert_allclose(mean + std, train.info.mean + train.info.std, atol=0.01)
