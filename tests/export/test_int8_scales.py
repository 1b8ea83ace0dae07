"""Scales of int8 files."""

import keras
import numpy as np
import pytest
from small_networks import pixels, with_random_statistics

from tfjointrd import export
from tfjointrd.export.int8_scales import with_usable_scales

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


def network_with_a_dead_block(kind, bias):
    """A residual block in which nothing gets through a ReLU, so that the block adds its last bias."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same")(layers.Rescaling(1 / 127.5, -1.0)(image))
    branches = []
    for branch in range(2 if kind == "concatenation" else 1):
        z = layers.Conv2D(8, 3, padding="same")(x)
        z = layers.Add()([x, z]) if kind == "addition" else z
        z = layers.ReLU()(layers.BatchNormalization(name=f"dead{branch}")(z))
        branches.append(layers.MaxPooling2D(1)(z))
    z = layers.Concatenate()(branches) if len(branches) > 1 else branches[0]
    after = layers.Conv2DTranspose if kind == "transposed" else layers.Conv2D
    x = layers.ReLU()(layers.Add()([x, after(8, 3, padding="same", name="after")(z)]))
    network = keras.Model(image, layers.Dense(4, name="scores")(layers.Flatten()(x)), name="with_a_dead_block")
    with_random_statistics(network)
    for branch in range(len(branches)):
        network.get_layer(f"dead{branch}").beta.assign([-50.0] * 8)
    network.get_layer("after").bias.assign(bias * np.linspace(-1, 1, 8))
    return network


@pytest.mark.parametrize("converter", ["tensorflow", "litert"])
@pytest.mark.parametrize(
    ("kind", "bias"),
    [
        *(("convolution", 1.0), ("addition", 0.0), ("concatenation", 1.0), ("transposed", 0.0)),
        *(
            pytest.param(kind, bias, marks=pytest.mark.slow)
            for kind, bias in (("convolution", 0.0), ("addition", 1.0), ("concatenation", 0.0), ("transposed", 1.0))
        ),
    ],
)
def test_dead_channels_leave_a_file_that_runs(kind, bias, converter, tmp_path, monkeypatch):
    converted = []  # is not run: XNNPACK refuses it, and some versions end the process
    monkeypatch.setattr(
        "tfjointrd.export.int8_scales.with_usable_scales", lambda c: converted.append(c) or with_usable_scales(c)
    )
    network, images = network_with_a_dead_block(kind, bias), pixels(200)
    report = export.tflite(network, tmp_path / "net.tflite", "int8", images, converter=converter)
    assert report.top1_agreement > 0.9 and report.max_difference < 0.1 * report.output_scale
    content = report.path.read_bytes()
    assert with_usable_scales(content) is content and (converted[0] != content or converter == "litert")


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_biases_of_channels_without_weights(quantization, tmp_path):
    """litert-quantizer gives such channels a scale of next to nothing, in which int32 holds no bias."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    network = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name="with_dead_channels")
    kernel, _ = network.get_layer("conv").get_weights()
    network.get_layer("conv").set_weights([kernel, np.array([1.0, -2.0, 0.5, 0.0])])
    options = {"quantization": quantization, "representative_data": pixels(100), "converter": "litert"}
    before = export.tflite(network, tmp_path / "net.tflite", **options)
    kernel[..., :2] = 0
    network.get_layer("conv").set_weights([kernel, np.array([1.0, -2.0, 0.5, 0.0])])
    report = export.tflite(network, tmp_path / "net.tflite", **options)
    assert report.max_difference < 0.05 * report.output_scale
    assert report.bytes <= before.bytes + 128


def test_usable_scales_are_left_alone(int8_file):
    content = int8_file.path.read_bytes()
    assert with_usable_scales(content) is content
