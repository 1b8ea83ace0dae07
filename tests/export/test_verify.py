"""Accuracy of files."""

import keras
import numpy as np
import pytest
from small_networks import pixels

from tfjointrd import export

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


@pytest.mark.parametrize("one_hot", [False, True])
def test_accuracy(one_hot, network, int8_file):
    classes = np.argmax(network(pixels(90)), -1)
    classes[:30] = (classes[:30] + 1) % 4
    labels = np.eye(4)[classes] if one_hot else classes
    in_batches = [(pixels(90)[start : start + 40], labels[start : start + 40]) for start in (0, 40, 80)]
    assert export.accuracy(int8_file.path, in_batches) == pytest.approx(2 / 3, abs=0.04)


def test_accuracy_needs_labels_and_images(int8_file):
    with pytest.raises(ValueError, match="without labels"):
        export.accuracy(int8_file.path, pixels())
    with pytest.raises(ValueError, match="Received: none"):
        export.accuracy(int8_file.path, [])


def test_images_of_another_shape(int8_file):
    with pytest.raises(
        ValueError, match=r"Expected `data` of shape \(count, 8, 8, 1\). Received: shape \(4, 8, 8, 3\)"
    ):
        export.accuracy(int8_file.path, (pixels(4, (8, 8, 3)), np.zeros(4)))


def test_images_of_another_range(int8_file):
    with pytest.raises(ValueError, match=r"range 0..255, as the first operators of .* Received: values up to [01]"):
        export.accuracy(int8_file.path, (pixels(4) / 255, np.zeros(4)))
