"""Files of networks that are no classifiers, or more than one."""

import keras
import numpy as np
import pytest
from small_networks import pixels, small_network, with_random_statistics

from tfjointrd import export, report
from tfjointrd.export.interpreter import TFLiteModel

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")
L = keras.layers


@pytest.fixture(scope="module")
def several():
    """Three outputs: four classes, a yes or no, and a map of numbers."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    x = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(L.Rescaling(1 / 127.5, -1.0)(image)))
    x = L.ReLU()(x)
    flat = L.Flatten()(x)
    outputs = {
        "which": L.Dense(4)(flat),
        "is it": L.Dense(1, activation="sigmoid")(flat),
        "a map": L.Conv2D(2, 3, padding="same", activation="tanh")(x),
    }
    return with_random_statistics(keras.Model(image, outputs, name="three"))


@pytest.fixture(scope="module")
def files(several, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    options = {"representative_data": pixels(200), "saved_model": folder / "saved"}
    return {
        None: export.tflite(several, folder / "float32.tflite", **options),
        "int8": export.tflite(several, folder / "int8.tflite", "int8", min_agreement={"a map": None}, **options),
    }


def test_several_outputs(several, files):
    expected = several(pixels(20))
    for quantization, written in files.items():
        found = TFLiteModel(written.path).predict(pixels(20))
        assert set(found) == {"which", "is_it", "a_map"}
        for name, values in expected.items():
            own = found[name.replace(" ", "_")]
            assert own.shape == values.shape
            error = np.linalg.norm(own - values) / np.linalg.norm(values)
            assert error < (1e-4 if quantization is None else 0.1)
        assert [output.top1_agreement is None for output in written.outputs] == [False, True, quantization == "int8"]
        assert written.max_difference in [output.max_difference for output in written.outputs]
        assert "is_it: largest difference" in str(written)
    assert files[None].relative_error < 1e-4 < files["int8"].relative_error < 0.1


def test_accuracy_by_output(several, files):
    labels = np.argmax(several(pixels())["which"], -1)
    wrong = {"which": (labels + 1) % 4}
    assert export.accuracy(files[None].path, [(pixels(), {"which": labels})]) == {"which": 1.0}
    assert export.accuracy(files[None].path, [(pixels(), wrong)]) == {"which": 0.0}
    with pytest.raises(ValueError, match="labels by output: .*'which'.*Received: ndarray"):
        export.accuracy(files[None].path, (pixels(), labels))
    with pytest.raises(ValueError, match="an output for each class. Received: outputs .* for output 'is_it'"):
        export.accuracy(files[None].path, [(pixels(), {"is_it": labels})])


def test_files_from_files_with_several_outputs(several, files, tmp_path):
    """The names of the outputs are those in the file; without a network, a sigmoid tells that there are no classes."""
    options = {"representative_data": pixels(200), "min_agreement": {"a_map": None}}
    written = export.quantize_file(files[None].path, tmp_path / "int8.tflite", "int8", **options)
    found = {output.name: output for output in written.outputs}
    assert {name: output.top1_agreement is None for name, output in found.items()} == {
        "which": False,
        "is_it": True,
        "a_map": True,
    }
    assert written.path.read_bytes() == files["int8"].path.read_bytes()
    with pytest.raises(ValueError, match="Expected a relative error of at most 1e-06 of "):
        export.quantize_file(files[None].path, tmp_path / "a.tflite", "float16", max_error=1e-6)
    profile = report.file_profile(written.path)
    assert "is_it: float32 (1, 1)" in profile.output and "a_map: float32 (1, 8, 8, 2)" in profile.output


def test_a_sigmoid_of_several_channels_in_a_file(tmp_path):
    model = small_network("sigmoid", classes=3)
    float32 = export.tflite(model, tmp_path / "float32.tflite")
    written = export.quantize_file(float32.path, tmp_path / "int8.tflite", "int8", pixels(200))
    assert written.top1_agreement is None and 1e-5 < written.relative_error < 0.1


def test_errors_of_layers_with_several_outputs(several, files):
    errors = report.quantization_error(files["int8"].path, several, pixels(4))
    found = {one.layer: one for one in errors.layers}
    makers = {output._keras_history.operation.name for output in several.outputs}
    assert makers <= set(found) and all(0 < found[name].own_error < 0.1 for name in makers)


def test_accuracy_drop_by_output(several, files, tmp_path):
    """Outputs without classes are left out, whatever their labels."""
    images = pixels(400)
    outputs = several(images)
    labels = {name: np.asarray(values) for name, values in outputs.items()}
    labels["which"] = np.argmax(labels["which"], -1)
    options = {"min_agreement": {"which": 0.0, "a map": None}, "max_error": 9.0, "max_accuracy_drop": 0.1}
    options |= {"saved_model": files[None].path.parent / "saved"}
    export.tflite(several, tmp_path / "a.tflite", validation=[(images, labels)], **options)
    with pytest.raises(ValueError, match="which loses [0-9.]+ in output 'which': 100.00 % became"):
        export.tflite(several, tmp_path / "b.tflite", "int4", validation=[(images, [*labels.values()])], **options)
    assert not (tmp_path / "b.tflite").exists()
    for wrong in (labels["which"], {"a map": labels["a map"]}, {"other": labels["which"]}):
        with pytest.raises(ValueError, match=r"`validation` to hold .* by output: \['which'\]. Received: "):
            export.tflite(several, tmp_path / "b.tflite", validation=[(images, wrong)], **options)
    with pytest.raises(ValueError, match="an output that names classes.*without classes"):
        export.tflite(small_network(classes=1), tmp_path / "b.tflite", max_accuracy_drop=1, validation=images)


@pytest.mark.parametrize("kind", ["regression", "sigmoid", "map", "compiled"])
def test_int8_without_classes(kind, tmp_path, monkeypatch):
    """The file is checked by its relative error, and refused where it is too large."""
    options = {}
    if kind == "map":
        image = keras.Input((8, 8, 1))
        x = L.ReLU()(L.Conv2D(8, 3, padding="same")(L.Rescaling(1 / 127.5, -1.0)(image)))
        model, options = keras.Model(image, L.Conv2D(3, 1)(x)), {"min_agreement": None}
    else:
        model = small_network("sigmoid" if kind == "sigmoid" else None, classes=1 if kind == "regression" else 3)
    if kind == "compiled":
        model.compile(loss="mse")
    written = export.tflite(model, tmp_path / "a.tflite", "int8", pixels(200), **options)
    assert written.top1_agreement is None and 1e-5 < written.relative_error < 0.1
    assert "same class" not in str(written) and "relative error" in str(written)
    with pytest.raises(ValueError, match="Expected a relative error of at most 1e-06"):
        export.tflite(model, tmp_path / "b.tflite", "int8", pixels(200), max_error=1e-6, **options)
    assert not (tmp_path / "b.tflite").exists()


def test_classes_of_positions(tmp_path):
    image = keras.Input((8, 8, 1))
    x = L.ReLU()(L.Conv2D(8, 3, padding="same")(L.Rescaling(1 / 127.5, -1.0)(image)))
    model = keras.Model(image, L.Conv2D(3, 1, activation="softmax")(x))
    written = export.tflite(model, tmp_path / "map.tflite", "int8", pixels(200))
    assert 0.8 <= written.top1_agreement <= 1
    labels = np.argmax(model(pixels()), -1)
    for form in (labels, labels[..., None], np.eye(3)[labels]):
        assert export.accuracy(written.path, [(pixels(), form)]) == pytest.approx(written.top1_agreement, abs=0.1)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array(["a", "b", "c", "d"] * 10), "labels of `data` as numbers.*dtype <U1"),
        (np.int64(3), "a label of `data` for each image. Received: the single number 3"),
        (np.array([3]), "40 images, 1 labels"),
        (np.full(40, np.nan), "finite labels of `data`"),
        (np.full(40, 4), "between 0 and 3 .* Received: labels between 4 and 4"),
        (np.full((40, 3), 1), "one-hot labels of `data` of 4 classes. Received: labels of shape"),
        (np.full(40, 0.5), "whole numbers as labels"),
    ],
)
def test_accuracy_looks_at_labels(labels, message, int8_file):
    with pytest.raises(ValueError, match=message):
        export.accuracy(int8_file.path, [(pixels(), labels)])


def test_agreement_by_output(several, tmp_path):
    with pytest.raises(ValueError, match="`min_agreement` by output: .* Received: min_agreement={'other': None}"):
        export.tflite(several, tmp_path / "a.tflite", min_agreement={"other": None})
