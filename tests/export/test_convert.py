import contextlib
import io
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from jax_process import JAX
from keras import ops
from small_networks import pixels, small_network, with_random_statistics

from tfjointrd import export, models, training
from tfjointrd.export import convert
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.source import Source, in_float32

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


def operators(path):
    """The names of the operators in a file, read with the converter's own tool."""
    import tensorflow as tf

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        tf.lite.experimental.Analyzer.analyze(model_path=str(path))
    return set(re.findall(r"Op#\d+ (\w+)\(", printed.getvalue()))


# === What is written ===


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_float32(activation, tmp_path):
    model = small_network(activation)
    report = export.tflite(model, tmp_path / "tiny.tflite")
    assert report.path == tmp_path / "tiny.tflite"
    assert report.bytes == report.path.stat().st_size
    assert (report.quantization, report.input_type, report.output_type) == (None, "float32", "float32")
    assert report.input_shape == (1, 8, 8, 1)
    assert report.max_difference <= 1e-5 * report.output_scale
    assert report.top1_agreement == 1.0
    np.testing.assert_allclose(TFLiteModel(report.path).predict(pixels()), model(pixels()), rtol=1e-4, atol=1e-4)
    assert os.listdir(tmp_path) == ["tiny.tflite"]
    assert str(report.path) in str(report)


def test_batch_normalization_and_relu_fold_into_the_convolution(network, tmp_path):
    report = export.tflite(network, tmp_path / "tiny.tflite")
    assert operators(report.path) == {"MUL", "ADD", "CONV_2D", "RESHAPE", "FULLY_CONNECTED"}


def test_names_of_the_interface(network, tmp_path):
    file = TFLiteModel(export.tflite(network, tmp_path / "tiny.tflite").path)
    signature = file.interpreter.get_signature_list()["serving_default"]
    assert (signature["inputs"], signature["outputs"]) == (["image"], ["scores"])


def test_files_of_one_saved_model(network, int8_file, tmp_path, monkeypatch):
    """Both forms from what was written once are those from what each wrote for itself."""
    options = {"representative_data": pixels(200), "saved_model": tmp_path / "saved"}
    first = export.tflite(network, tmp_path / "float32.tflite", **options)
    monkeypatch.setattr("tfjointrd.export.source._save", lambda *_: pytest.fail("written again"))
    second = export.tflite(network, tmp_path / "int8.tflite", "int8", **options)
    assert first.max_difference <= 1e-5 * first.output_scale and second.bytes == int8_file.bytes
    images = pixels()
    np.testing.assert_array_equal(*(TFLiteModel(report.path).predict(images) for report in (second, int8_file)))
    keras.utils.set_random_seed(7)
    with pytest.raises(ValueError, match="does not compute the same as the network"):
        export.tflite(small_network(), tmp_path / "float32.tflite", saved_model=tmp_path / "saved")


def test_int8_takes_raw_pixels_as_bytes(network, int8_file):
    assert (int8_file.input_type, int8_file.output_type) == ("uint8", "float32")
    assert int8_file.input_quantization == (1.0, 0)
    assert int8_file.top1_agreement >= 0.95
    file = TFLiteModel(int8_file.path)
    bytes_in, floats_out = file.predict(pixels()), network(pixels())
    assert file.input_type == "uint8"
    scale = np.abs(floats_out).max()
    np.testing.assert_allclose(bytes_in, floats_out, atol=0.05 * scale)


def test_int8_computes_in_integers_only(int8_file):
    file = TFLiteModel(int8_file.path)
    floats = [d["name"] for d in file.interpreter.get_tensor_details() if d["dtype"] is np.float32]
    assert len(floats) == 1  # the output
    assert operators(int8_file.path) >= {"QUANTIZE", "CONV_2D", "FULLY_CONNECTED", "DEQUANTIZE"}


def test_int8_interface_in_integers(network, tmp_path):
    report = export.tflite(
        network, tmp_path / "tiny.tflite", "int8", pixels(200), input_type="int8", output_type="int8"
    )
    file = TFLiteModel(report.path)
    assert (file.input_type, file.output_type) == ("int8", "int8")
    assert file.input_quantization == (1.0, -128)
    assert file.output_quantization == report.output_quantization != (0.0, 0)
    assert "DEQUANTIZE" not in operators(report.path)
    assert file.predict(pixels()).dtype == np.float32
    assert export.accuracy(report.path, (pixels(), np.argmax(network(pixels()), -1))) > 0.9


def test_int8_of_images_in_another_range_states_what_a_byte_means(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3)(image))
    model = keras.Model(image, keras.layers.Dense(4)(x))
    report = export.tflite(model, tmp_path / "model.tflite", "int8", pixels(200) / 127.5 - 1)
    scale, zero_point = report.input_quantization
    assert scale == pytest.approx(2 / 255, rel=1e-3)
    assert zero_point in (127, 128)
    assert report.top1_agreement >= 0.95


def test_a_resnet_both_ways(tmp_path):
    model = with_random_statistics(models.cifar_resnet(8, num_classes=10, input_shape=(16, 16, 3)))
    images = pixels(64, (16, 16, 3))
    float32 = export.tflite(model, tmp_path / "float32.tflite", representative_data=images)
    int8 = export.tflite(model, tmp_path / "int8.tflite", "int8", images)
    assert float32.images == int8.images == 32
    assert int8.bytes < 0.35 * float32.bytes
    assert int8.max_difference < 0.1 * int8.output_scale


@pytest.mark.slow
def test_mobilenet_v2(tmp_path):
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None, alpha=0.35
    )
    model = with_random_statistics(model)
    images = np.random.default_rng(6).uniform(-1, 1, (16, 96, 96, 3))
    float32 = export.tflite(model, tmp_path / "float32.tflite", representative_data=images)
    int8 = export.tflite(model, tmp_path / "int8.tflite", "int8", images, min_agreement=0.5)
    assert float32.max_difference < 1e-4 * float32.output_scale
    assert int8.bytes < 0.5 * float32.bytes


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_reduced_precision_is_rebuilt_in_float32(policy, tmp_path):
    model = small_network(dtype=policy)
    assert {weight.dtype for weight in in_float32(model).weights} == {"float32"}
    report = export.tflite(model, tmp_path / "tiny.tflite")
    expected = ops.cast(model(pixels()), "float32")
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(TFLiteModel(report.path).predict(pixels()), expected, atol=0.02 * scale)
    assert model.layers[-1].compute_dtype != "float32"


def test_nested_networks_and_operators_are_rebuilt_in_float32():
    with_policy = {"dtype": "mixed_bfloat16"}
    inner_image = keras.Input((8, 8, 4))
    inner = keras.Model(inner_image, keras.layers.Conv2D(4, 3, padding="same", **with_policy)(inner_image))
    image = keras.Input((8, 8, 4))
    x = inner(image) + keras.layers.TimeDistributed(keras.layers.Dense(4, **with_policy), **with_policy)(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D(**with_policy)(x))
    images = pixels(4, (8, 8, 4)) / 255
    rebuilt = in_float32(model)
    assert rebuilt(images).dtype == "float32"
    np.testing.assert_allclose(rebuilt(images), ops.cast(model(images), "float32"), rtol=0.05, atol=0.02)


def test_layers_that_networks_share_stay_shared_in_float32():
    policy = {"dtype": "mixed_bfloat16"}
    shared = keras.layers.Conv2D(4, 3, padding="same", **policy)

    def member():
        image = keras.Input((8, 8, 3))
        return keras.Model(image, keras.layers.ReLU(**policy)(shared(image)))

    image = keras.Input((8, 8, 3))
    x = keras.layers.Add(**policy)([member()(image), member()(image)])
    model = keras.Model(image, keras.layers.Dense(3, **policy)(keras.layers.Flatten(**policy)(x)))
    rebuilt = in_float32(model)
    assert rebuilt.count_params() == model.count_params()
    images = pixels(4, (8, 8, 3)) / 255
    np.testing.assert_allclose(rebuilt(images), ops.cast(model(images), "float32"), rtol=0.1, atol=0.05)


def test_outputs_of_one_name_in_the_file(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    model = keras.Model(image, {"a b": keras.layers.Dense(3)(x), "a_b": keras.layers.Dense(3)(x)})
    with pytest.raises(ValueError, match="outputs whose names differ in letters, .* Received: 'a b', 'a_b'"):
        export.tflite(model, tmp_path / "model.tflite")


def test_sequential_network(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    assert export.tflite(model, tmp_path / "model.tflite").top1_agreement == 1.0


def test_nothing_is_printed(network, tmp_path, capfd):
    export.tflite(network, tmp_path / "tiny.tflite", "int8", pixels())
    TFLiteModel(tmp_path / "tiny.tflite").predict(pixels())
    assert capfd.readouterr() == ("", "")


# === Errors ===


def test_a_file_that_disagrees_is_not_kept(network, tmp_path, monkeypatch):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(b"an earlier file")
    keras.utils.set_random_seed(7)
    other = small_network()
    monkeypatch.setattr(convert, "Source", lambda model, *rest: Source(other, *rest))
    with pytest.raises(ValueError, match=r"largest difference of at most 0.001"):
        export.tflite(network, path)
    with pytest.raises(ValueError, match="same class on at least 80 %"):
        export.tflite(network, path, "int8", pixels())
    assert path.read_bytes() == b"an earlier file"
    assert os.listdir(tmp_path) == ["tiny.tflite"]


def test_a_file_that_returns_nan_is_not_kept(network, tmp_path, monkeypatch):
    broken = small_network()
    broken.layers[-1].bias.assign([0, np.nan, 0, 0])
    monkeypatch.setattr(convert, "Source", lambda model, *rest: Source(broken, *rest))
    with pytest.raises(ValueError, match="does not compute the same as the network"):
        export.tflite(network, tmp_path / "tiny.tflite")
    with pytest.raises(
        ValueError, match="finite weights. Received: 'tiny', whose layer 'scores' has NaN or infinity in its bias"
    ):
        export.tflite(broken, tmp_path / "tiny.tflite")
    assert os.listdir(tmp_path) == []


def test_operator_that_tflite_lacks(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Dense(4)(keras.layers.Flatten()(image))
    with pytest.raises(ValueError, match="'odd' cannot be converted.*builtin operators.*Erfinv"):
        export.tflite(keras.Model(image, ops.erfinv(x), name="odd"), tmp_path / "odd.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int3"}, "'int4', or a dict.*Received: quantization='int3'"),
        ({"input_type": "uint8"}, "`input_type`.*quantization=None. Received: input_type='uint8'"),
        ({"output_type": "int8"}, "`output_type`.*Received: output_type='int8'"),
        ({"quantization": "int8", "input_type": "int16"}, "Received: input_type='int16'"),
        ({"quantization": "int4", "input_type": "uint8"}, "Received: input_type='uint8'"),
        ({"quantization": "int4", "converter": "tensorflow"}, "None, 'litert' with quantization='int4'"),
        ({"quantization": {"*": "int8"}, "converter": "tensorflow"}, "None or 'litert' with a quantization for each"),
        ({"quantization": {"*": "int8", "scores": "int3"}}, "quantization={'scores': 'int3'}"),
        ({"quantization": {}}, "Received: quantization={}"),
        ({"quantization": {"*": "int8", "score": "float32"}}, "`quantization`.*Received: 'score', no match"),
        ({"max_accuracy_drop": 1.0}, "together. Received: max_accuracy_drop=1.0, validation=None"),
        ({"max_accuracy_drop": -1, "validation": pixels()}, "from 0 to 100 percentage points. Received: -1"),
    ],
)
def test_unknown_types(arguments, message, network, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.tflite(network, tmp_path / "tiny.tflite", representative_data=pixels(), **arguments)


def test_paths_and_layers_that_cannot_be_written(network, tmp_path, monkeypatch):
    monkeypatch.setattr(Source, "convert", lambda *_: pytest.fail("converted first"))
    with pytest.raises(ValueError, match="Received: 'score', no match"):
        export.tflite(network, tmp_path / "tiny.tflite", {"*": "dynamic", "score": "float32"})
    with pytest.raises(FileNotFoundError, match="Expected the folder of `path` to exist"):
        export.tflite(network, tmp_path / "missing" / "tiny.tflite")
    with pytest.raises(IsADirectoryError, match="Expected `path` to name a file"):
        export.tflite(network, tmp_path)
    with pytest.raises(OSError, match="Expected `path` to be writable"):
        export.tflite(network, "/proc/tiny.tflite")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_networks_that_cannot_be_exported(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    other = keras.Input((8, 8, 1))
    two_inputs = keras.Model([image, other], keras.layers.Add()([image, other]), name="join")
    any_size = keras.Input((None, None, 1))
    integers = keras.Input((8, 8, 1), dtype="int32")
    flat = keras.layers.GlobalAveragePooling2D()
    for model, message in [
        (two_inputs, "one input.*'join' with 2 inputs"),
        (keras.Model(any_size, flat(any_size)), r"fixed size.*keras\.Sequential\(\[keras\.Input"),
        (keras.Model(integers, keras.layers.Flatten()(integers)), "dtype int32"),
        (Subclassed(), "functional"),
        (keras.Sequential([keras.layers.Dense(2)]), "built"),
        ("model.keras", "functional"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.tflite(model, tmp_path / "model.tflite")
    one_number = keras.Model(image, keras.layers.Dense(1)(x))
    export.tflite(one_number, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="one output for each class. Received: path='.*model.tflite', with one"):
        export.accuracy(tmp_path / "model.tflite", (pixels(4), np.zeros(4)))


def test_trainers_name_the_network_to_export(tmp_path):
    network = models.resnet20(num_classes=4, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"`model.small\(\)` or `model.full\(\)`.*Received: Adjoined"):
        export.tflite(training.adjoin(network, alpha=2, round_to=1), tmp_path / "model.tflite")
    joint = training.JointRD(network, keras.models.clone_model(network))
    with pytest.raises(ValueError, match="`model.student`.*Received: JointRD"):
        export.tflite(joint, tmp_path / "model.tflite")


def test_other_backends_say_how(tmp_path):
    pytest.importorskip("jax")
    code = "import keras; from tfjointrd import export; export.tflite(keras.Sequential(), 'model.tflite')"
    environment = os.environ | JAX
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 1
    assert "RuntimeError" in process.stderr
    assert "KERAS_BACKEND=tensorflow" in process.stderr
