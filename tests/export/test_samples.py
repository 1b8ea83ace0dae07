"""Images to calibrate files on."""

import os

import keras
import numpy as np
import pytest
from small_networks import pixels

from tfjointrd import data, export
from tfjointrd.export.samples import SAMPLE_SIZE, sample

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return pixels(20), np.zeros(20)


def tf_dataset(with_labels):
    import tensorflow as tf

    images = pixels(100).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(100)) if with_labels else images)
    return dataset.repeat().batch(16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pixels(100),
        lambda: (pixels(100), np.zeros(100)),
        lambda: [pixels(60), pixels(40)],
        lambda: (batch for batch in [(pixels(100), np.zeros(100), np.ones(100))]),
        Batches,
        lambda: tf_dataset(with_labels=True),
        lambda: tf_dataset(with_labels=False),
        lambda: data.load("digits", batch_size=32)[0],
        lambda: lambda: ([image[None]] for image in pixels(100)),
    ],
    ids=["array", "arrays", "list", "generator", "PyDataset", "tf.data", "tf.data images", "pipeline", "TFLite"],
)
def test_kinds_of_representative_data(make, network, tmp_path):
    report = export.tflite(network, tmp_path / "tiny.tflite", "int8", make())
    assert report.images >= 50
    assert report.input_quantization == (1.0, 0)


def test_calibration_sees_images_from_all_over_an_array(network):
    images = np.broadcast_to(np.arange(1000, dtype="float32").reshape(-1, 1, 1, 1), (1000, 8, 8, 1))
    taken = sample(images, network)[:, 0, 0, 0]
    assert len(taken) == SAMPLE_SIZE
    assert (taken[0], taken[-1]) == (0, 999)
    assert np.diff(taken).max() <= 5


def test_representative_data_is_not_changed(network, tmp_path):
    images = pixels().astype("float32").clip(3, 250)
    before = images.copy()
    export.tflite(network, tmp_path / "tiny.tflite", "int8", images)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "representative_data.*Received: None"),
        (pixels(20, (8, 8, 3)), r"shape \(count, 8, 8, 1\).*Received: shape \(20, 8, 8, 3\)"),
        (pixels(20)[0], r"Received: shape \(8, 8, 1\)"),
        ([], "hold images. Received: none"),
        (np.full((20, 8, 8, 1), np.nan), "finite values"),
        (np.zeros((20, 8, 8, 1)), "varied"),
        (pixels(20) / 255, r"pixels from 0 to 255.*Received: values from 0 to 1"),
    ],
)
def test_unfit_representative_data(images, message, network, tmp_path, monkeypatch):
    monkeypatch.setattr("tfjointrd.export.source.Source.convert", lambda *_: pytest.fail("converted first"))
    with pytest.raises(ValueError, match=message):
        export.tflite(network, tmp_path / "tiny.tflite", "int8", images)
    assert os.listdir(tmp_path) == []


def test_pixels_are_expected_behind_augmentation_too(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.RandomFlip(), inner, keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="pixels from 0 to 255, as layer 'rescaling.*' of .* rescales them"):
        export.tflite(network, tmp_path / "tiny.tflite", "int8", pixels(20) / 255)


def test_images_that_are_no_numbers(network, tmp_path):
    with pytest.raises(ValueError, match="to hold numbers. Received: dtype <U1"):
        export.tflite(network, tmp_path / "tiny.tflite", "int8", np.full((20, 8, 8, 1), "a"))
