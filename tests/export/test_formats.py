"""Number formats: both converters, formats by layer, and files made from files."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from jax_process import JAX
from small_networks import pixels, with_random_statistics

from tfjointrd import export, report
from tfjointrd.export import quantize
from tfjointrd.export.file_graph import in_integers

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")

# Format -> number formats of the weights and the output of the convolution, largest difference of outputs.
FORMATS = {
    "float16": ("float16", "float32", 1e-3),
    "dynamic": ("int8", "float32", 0.02),
    "int8": ("int8", "int8", 0.05),
    "int16x8": ("int8", "int16", 0.05),
    "int4": ("int4", "float32", 0.2),
}
CASES = [(name, converter) for name in FORMATS for converter in quantize.registered()[name]]


def wide_network():
    """Weights enough for TensorFlow's converter to quantize them, which leaves fewer than 1024 in float."""
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(48, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(3, activation="relu6", name="depthwise")(x)
    x = keras.layers.Dense(6, name="scores")(keras.layers.Flatten()(x))
    network = with_random_statistics(keras.Model(image, x, name="wide_1"))
    scores = network(pixels(200, (8, 8, 3)))
    network.layers[-1].bias.assign(-np.mean(scores, axis=0))  # so that it names all classes
    return network


@pytest.fixture(scope="module")
def wide():
    keras.utils.set_random_seed(1)
    return wide_network()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What all files of the network share."""
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def images():
    return pixels(64, (8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def float_file(wide, saved, images):
    return export.tflite(wide, saved / "wide.tflite", representative_data=images, saved_model=saved)


def formats_of(path):
    """Kind of operator -> number formats of weights and output."""
    return {kind: (weights, output) for kind, weights, output in report.file_profile(path).operators}


@pytest.mark.parametrize(("name", "converter"), CASES)
def test_formats(name, converter, wide, saved, images, float_file, tmp_path):
    weights, output, difference = FORMATS[name]
    path = tmp_path / "wide.tflite"
    written = export.tflite(wide, path, name, images, converter=converter, min_agreement=0.5, saved_model=saved)
    assert written.quantization == name and f"{name} (" in str(written)
    assert written.max_difference <= difference * written.output_scale and written.bytes < 0.9 * float_file.bytes
    integers = name == "int8"
    input_type = ("uint8", (1.0, 0)) if integers else ("float32", (0.0, 0))
    assert (written.input_type, written.input_quantization) == input_type
    found = report.quantization_error(path, wide, images[:4])
    convolution = next(one for one in found.layers if one.operator == "CONV_2D")
    assert (convolution.weights.lower(), convolution.activations.lower()) == (weights, output)
    assert weights in report.file_profile(path).weight_bytes and formats_of(path)["CONV_2D"] == (weights, output)


def test_ends_of_int16(wide, saved, images, tmp_path):
    for converter in ("tensorflow", "litert"):
        types = {"input_type": "int16", "output_type": "int16", "converter": converter}
        written = export.tflite(wide, tmp_path / "a.tflite", "int16x8", images, saved_model=saved, **types)
        assert (written.input_type, written.output_type) == ("int16", "int16") and written.top1_agreement > 0.9


def test_ends_of_int8_by_litert(wide, saved, images, tmp_path):
    types = {"input_type": "int8", "output_type": "int8", "converter": "litert"}
    written = export.tflite(wide, tmp_path / "a.tflite", "int8", images, saved_model=saved, **types)
    assert (written.input_type, written.output_type) == ("int8", "int8") and written.input_quantization == (1.0, -128)


def test_formats_by_layer(wide, saved, images, tmp_path):
    """Patterns of layers; the last one that matches counts, and what is fused follows any of its layers."""
    choice = {"*": "int8", "*conv": "dynamic", "depth*": None, "scores": "int4"}
    written = export.tflite(wide, tmp_path / "a.tflite", choice, images, saved_model=saved, min_agreement=0.5)
    found = formats_of(written.path)
    assert found["CONV_2D"] == ("int8", "float32") and found["DEPTHWISE_CONV_2D"] == ("float32", "float32")
    assert found["FULLY_CONNECTED"] == ("int4", "float32") and found["MUL"] == ("int8", "int8")
    assert written.input_type == "uint8" and "'scores' in int4" in str(written)
    nothing = export.tflite(wide, tmp_path / "b.tflite", {"*": None}, images, saved_model=saved)
    assert nothing.max_difference < 1e-5 * nothing.output_scale
    only = export.tflite(wide, tmp_path / "c.tflite", {"conv": "int8"}, images, saved_model=saved)
    assert formats_of(only.path)["FULLY_CONNECTED"] == ("float32", "float32")


def test_litert_quantizer_is_named_where_it_lacks(wide, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(ImportError, match=r"pip install 'tfjointrd\[phones\]'"):
        export.tflite(wide, tmp_path / "a.tflite", "int4", saved_model=saved)
    assert os.listdir(tmp_path) == []


def test_static_files_compute_in_integers_where_one_converter_can(images, tmp_path):
    """litert-quantizer leaves a LeakyReLU in float, TensorFlow's converter does not."""
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.LeakyReLU()(keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image)))
    network = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    whole = {}
    for converter in (None, "litert", "tensorflow"):
        options = {"converter": converter, "saved_model": tmp_path / "saved", "min_agreement": 0.5}
        path = export.tflite(network, tmp_path / "a.tflite", "int8", images, **options).path
        whole[converter] = in_integers(path.read_bytes())
    assert whole == {None: True, "litert": False, "tensorflow": True}


# === From float32 files ===


def test_files_from_files(wide, saved, float_file, images, tmp_path):
    static = export.quantize_file(float_file.path, tmp_path / "a.tflite", "int8", images)
    assert static.input_quantization == (1.0, 0) and static.top1_agreement > 0.9 and static.output_scale > 0
    by_layer = export.quantize_file(float_file.path, tmp_path / "b.tflite", {"*": "dynamic", "scores": "float32"})
    assert formats_of(by_layer.path)["FULLY_CONNECTED"] == ("float32", "float32")
    with pytest.raises(ValueError, match="in float32, from which.*which holds numbers in INT8, UINT8"):
        export.quantize_file(static.path, tmp_path / "c.tflite", "int4")
    with pytest.raises(ValueError, match="which holds numbers in INT8"):
        export.quantize_file(by_layer.path, tmp_path / "c.tflite", "int4")
    half = export.tflite(wide, tmp_path / "half.tflite", "float16", saved_model=saved).path
    with pytest.raises(ValueError, match="holds numbers in FLOAT16"):
        export.quantize_file(half, tmp_path / "c.tflite", "dynamic")
    with pytest.raises(ValueError, match=r"calibrate int16x8 \(static.*Received: None"):
        export.quantize_file(float_file.path, tmp_path / "c.tflite", "int16x8")
    with pytest.raises(ValueError, match="pixels from 0 to 255, as the file rescales them. Received: values from 0.0"):
        export.quantize_file(float_file.path, tmp_path / "c.tflite", "int8", images / 255)
    with pytest.raises(ValueError, match="'dense', no match"):
        export.quantize_file(float_file.path, tmp_path / "c.tflite", {"dense": "int4"})
    with pytest.raises(FileNotFoundError, match="missing.tflite"):
        export.quantize_file(tmp_path / "missing.tflite", tmp_path / "c.tflite", "int4")
    nameless = tmp_path / "nameless.tflite"
    function = tf.function(lambda x: wide(x, training=False)).get_concrete_function(tf.TensorSpec((1, 8, 8, 3)))
    nameless.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    with pytest.raises(ValueError, match="`float32_file` to have a signature.*nameless.tflite' without one"):
        export.quantize_file(nameless, tmp_path / "c.tflite", "int8", images)
    assert not (tmp_path / "c.tflite").exists()
    assert export.quantize_file(nameless, tmp_path / "c.tflite", "dynamic").top1_agreement > 0.9


def test_files_from_files_without_tensorflow(float_file, tmp_path):
    pytest.importorskip("jax")
    code = f"""
import sys
sys.modules["tensorflow"] = None
import numpy as np
from tfjointrd import export
images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3))
written = export.quantize_file({str(float_file.path)!r}, "int8.tflite", "int8", images)
print(written.input_type, written.top1_agreement > 0.9)
"""
    environment = os.environ | JAX | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["uint8", "True"], run.stderr


# === Accuracy ===


def test_files_that_lose_accuracy_are_refused(wide, saved, tmp_path):
    """The message names the layers that err most; a file with these in float is taken."""
    images = pixels(400, (8, 8, 3)).astype("float32")
    validation = [(images[:300], np.argmax(wide(images[:300]), -1)), (images[300:], np.argmax(wide(images[300:]), -1))]
    options = {"validation": iter(validation), "saved_model": saved, "min_agreement": 0.0}
    message = "at most 0.5 percentage.*int4 .*100.00 % became.*layers that err most"
    with pytest.raises(ValueError, match=message) as raised:
        export.tflite(wide, tmp_path / "a.tflite", "int4", max_accuracy_drop=0.5, **options)
    assert os.listdir(tmp_path) == [] and {"relu", "scores"} < set(re.findall("'([a-z]+)'", str(raised.value)))
    taken = {"*": "int4", "relu": "float32", "depthwise": "float32", "scores": "float32"}
    options["validation"] = iter(validation)
    export.tflite(wide, tmp_path / "a.tflite", taken, max_accuracy_drop=0.5, **options)
    with pytest.raises(ValueError, match="`validation` to hold batches"):
        export.tflite(wide, tmp_path / "b.tflite", max_accuracy_drop=0.5, validation=images, saved_model=saved)
