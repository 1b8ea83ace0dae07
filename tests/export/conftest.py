"""A small network, and its int8 file."""

import keras
import pytest
from small_networks import pixels, small_network

from tfjointrd import export


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return small_network()


@pytest.fixture(scope="module")
def int8_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "tiny.tflite"
    return export.tflite(network, path, quantization="int8", representative_data=pixels(200))
