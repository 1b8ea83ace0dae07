"""A folder of images as a data set."""

import keras
import numpy as np
import pytest
from PIL import Image

from tfjointrd.data import info, load

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write(folder, counts, size=(20, 16), suffix="png"):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, COLOURS.get(name)).save(folder / name / f"{index}.{suffix}")


@pytest.fixture
def split_folder(tmp_path):
    write(tmp_path / "train", {"red": 7, "blue": 5, "green": 6})
    write(tmp_path / "val", {"red": 2, "blue": 3, "green": 2})
    return tmp_path


def test_labels_are_those_of_the_class_folders(split_folder):
    train, validation = load(split_folder, batch_size=4, image_size=8)
    assert train.info.class_names == ("blue", "green", "red") and train.info.num_classes == 3
    assert (train.info.train_size, train.info.validation_size) == (18, 7)
    for pipeline, size in ((train, 18), (validation, 7)):
        batches = list(pipeline)
        assert sum(len(labels) for _, labels in batches) == size
        for images, labels in batches:
            assert images.shape == (len(labels), 8, 8, 3) and images.dtype == "float32" and labels.dtype == "int32"
            assert (images.min(), images.max()) == (0, 255)
            for image, label in zip(images, labels, strict=True):
                assert tuple(image[4, 4]) == COLOURS[train.info.class_names[label]]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "test"])
def test_names_of_the_validation_folder(tmp_path, name):
    write(tmp_path / "train", {"a": 2, "b": 2}, suffix="jpg")
    write(tmp_path / name, {"b": 3}, suffix="JPEG")
    train, validation = load(tmp_path, image_size=8)
    assert len(train.paths) == 4
    np.testing.assert_array_equal(validation.labels, [1, 1, 1])


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_validation_folder_a_part_of_each_class_is_kept(tmp_path, below):
    write(tmp_path / below, {"red": 20, "blue": 10})
    train, validation = load(tmp_path, validation_split=0.2, image_size=8, seed=1)
    again, _ = load(tmp_path, validation_split=0.2, image_size=8, seed=2)
    np.testing.assert_array_equal(np.bincount(train.labels), [8, 16])
    np.testing.assert_array_equal(np.bincount(validation.labels), [2, 4])
    assert not set(train.paths) & set(validation.paths)
    assert train.paths == again.paths


def test_training_images_are_cropped_anew_each_epoch_and_validation_images_are_not(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype="uint8")
    for folder in ("train/a", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / folder / "0.png")
    train, validation = load(tmp_path, image_size=16)
    plain, _ = load(tmp_path, image_size=16, augment=False)
    again, _ = load(tmp_path, image_size=16)
    first, second = train.batch(0, epoch=0)[0], train.batch(0, epoch=1)[0]
    assert np.abs(first - second).mean() > 10
    np.testing.assert_array_equal(again.batch(0, epoch=1)[0], second)
    np.testing.assert_array_equal(validation.batch(0, epoch=0)[0], validation.batch(0, epoch=1)[0])
    np.testing.assert_array_equal(plain.batch(0, epoch=1)[0], validation.batch(0)[0])


def test_fit_takes_both_pipelines(split_folder):
    train, validation = load(split_folder, batch_size=8, image_size=8)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-7), loss, metrics=["accuracy"])
    history = model.fit(train, validation_data=validation, epochs=3, verbose=0).history
    assert train.epoch == 3
    assert history["val_accuracy"][-1] == 1.0


def test_info_opens_the_folder(split_folder):
    assert info(split_folder).input_shape == (224, 224, 3)
    assert info(split_folder, image_size=32).input_shape == (32, 32, 3)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, {"bus": 4, "car": 4, "train": 4})
    assert info(tmp_path, image_size=8).class_names == ("bus", "car", "train")


def test_hidden_folders_are_no_classes(split_folder):
    (split_folder / "train" / ".cache").mkdir()
    assert load(split_folder)[0].info.num_classes == 3


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "pictures/"])
def test_missing_folder(name):
    with pytest.raises(FileNotFoundError, match="Expected a folder of images. Received: .*, which does not exist"):
        load(name)


def test_folder_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one folder per class.*Received: no class folders"):
        load(tmp_path)
    write(tmp_path, {"full": 3, "empty": 0})
    with pytest.raises(FileNotFoundError, match=r"Received: without images: empty"):
        load(tmp_path)


def test_validation_class_that_training_has_not(split_folder):
    write(split_folder / "val", {"violet": 1})
    with pytest.raises(ValueError, match=r"Expected the classes of .*train. Received: violet in .*val"):
        load(split_folder)


def test_too_few_images_to_split(tmp_path):
    write(tmp_path, {"red": 5, "blue": 1})
    with pytest.raises(ValueError, match=r"enough images in .*blue.*Received: 1 with validation_split=0.1"):
        load(tmp_path)


def test_borrowed_augmentation_is_for_sets_in_memory(split_folder):
    with pytest.raises(ValueError, match="`augment` to be True or False.*Received: augment='cifar10'"):
        load(split_folder, augment="cifar10")


def test_the_kept_part_stays_when_images_come_or_go(tmp_path):
    write(tmp_path, {"red": 40, "blue": 30})
    before = set(load(tmp_path, validation_split=0.2, image_size=8)[1].paths)
    (tmp_path / "red" / "7.png").unlink()
    write(tmp_path / "more", {"blue": 1})
    (tmp_path / "more" / "blue" / "0.png").rename(tmp_path / "blue" / "new.png")
    (tmp_path / "more" / "blue").rmdir()
    (tmp_path / "more").rmdir()
    after = set(load(tmp_path, validation_split=0.2, image_size=8)[1].paths)
    assert len(before - after) <= 2 and len(after - before) <= 2 and len(after) == 14


def test_what_is_no_image_is_left_out_and_said(tmp_path):
    write(tmp_path, {"red": 4, "blue": 4})
    (tmp_path / "red" / "._0.png").touch()  # macOS
    load(tmp_path, image_size=8)  # a warning would be an error
    (tmp_path / "red" / "5.heic").touch()
    (tmp_path / "red" / "deeper.png").mkdir()
    with pytest.warns(UserWarning, match=r"red holds 2 entries that are left out, as '5.heic'") as caught:
        train, validation = load(tmp_path, image_size=8)
    assert caught[0].filename == __file__
    assert len(train.paths) + len(validation.paths) == 8


@pytest.mark.parametrize("parts", [("train", "test"), ("train",), ("test", "train", "val")])
def test_parts_without_classes(tmp_path, parts):
    """Labels are elsewhere, in a table perhaps. The parts would become classes."""
    write(tmp_path, dict.fromkeys(parts, 3))
    with pytest.raises(ValueError, match=f"a folder for each class within {' and '.join(sorted(parts))}, the parts of"):
        load(tmp_path)


def test_classes_that_a_part_has_no_image_of(tmp_path):
    write(tmp_path / "train", {"red": 12, "blue": 12, "green": 1})
    write(tmp_path / "val", {"red": 2, "blue": 3, "green": 2})
    train, _ = load(tmp_path, image_size=8)
    with pytest.warns(UserWarning, match="has no image of 1 of 3 classes: green. Accuracies there do not tell"):
        train.hold_out(0.5, by_content=True)
