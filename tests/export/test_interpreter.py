import io
import logging
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_networks import pixels

from tfjointrd import export
from tfjointrd.export.file_graph import read_file
from tfjointrd.export.interpreter import TFLiteModel, quiet

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.tflite"
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    export.tflite(model, path)
    return path


def test_unfit_arguments(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: path='nowhere\.tflite'"):
        TFLiteModel("nowhere.tflite")
    with pytest.raises(ValueError, match="Received: threads=0"):
        TFLiteModel(path, threads=0)
    with pytest.raises(ValueError, match=r"\(count, 4, 4, 1\). Received: shape \(4, 4, 1\)"):
        TFLiteModel(path).predict(np.zeros((4, 4, 1)))
    text = tmp_path / "text.tflite"
    text.write_text("this is no network at all")
    with pytest.raises(ValueError):
        TFLiteModel(text)


def test_several_outputs(tmp_path):
    import tensorflow as tf

    function = tf.function(lambda x: (x, 2 * x)).get_concrete_function(tf.TensorSpec((1, 2)))
    path = tmp_path / "fork.tflite"
    with quiet():
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    x = np.arange(6, dtype="float32").reshape(3, 2)
    first, second = TFLiteModel(path).predict(x).values()
    np.testing.assert_array_equal(np.sort([first, second], axis=0), [x, 2 * x])
    two_inputs = tf.function(lambda x, y: x + y).get_concrete_function(*[tf.TensorSpec((1, 2))] * 2)
    with quiet():
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([two_inputs]).convert())
    with pytest.raises(ValueError, match="a file with one input. Received: .* with 2 inputs"):
        TFLiteModel(path)


def test_whole_numbers_stay_as_they_are(tmp_path):
    """As the classes that a file names by itself."""
    import tensorflow as tf

    function = tf.function(lambda x: tf.argmax(x, axis=-1, output_type=tf.int32) + tf.cast(x[:, 0], tf.int32))
    path = tmp_path / "classes.tflite"
    for kind in (tf.float32, tf.int32):
        concrete = function.get_concrete_function(tf.TensorSpec((1, 3), kind))
        with quiet():
            path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
        found = TFLiteModel(path).predict(np.array([[0, 5, 2], [1, 0, 7], [9, 0, 0]]))
        assert found.dtype == "float32" and found.tolist() == [1, 3, 9]


def test_no_images(path):
    assert TFLiteModel(path).predict(np.zeros((0, 4, 4, 1))).shape == (0, 3)


def test_tensorflow_takes_over_without_litert(path, monkeypatch):
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 1))
    expected = TFLiteModel(path).predict(images)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    model = TFLiteModel(path)
    assert type(model.interpreter).__module__.startswith("tensorflow")
    np.testing.assert_allclose(model.predict(images), expected, rtol=1e-6)


def test_runs_files_without_tensorflow_and_keras(path):
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np
from tfjointrd.export import TFLiteModel
print(TFLiteModel({str(path)!r}).predict(np.zeros((2, 4, 4, 1))).shape)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "(2, 3)", process.stderr


def test_quiet_keeps_output_away_and_gives_it_back(capfd):
    with quiet():
        print("from Python")
        os.write(2, b"from C")
    print("afterwards")
    assert capfd.readouterr() == ("afterwards\n", "")
    with pytest.raises(KeyError), quiet():
        raise KeyError
    print("after an error")
    assert capfd.readouterr().out == "after an error\n"


def test_quiet_keeps_logs_away_and_leaves_logging_as_it_was():
    root, stream = logging.getLogger(), io.StringIO()
    own = logging.StreamHandler(stream)
    root.addHandler(own)
    try:
        before = list(root.handlers), root.manager.disable
        with quiet():
            root.addHandler(logging.StreamHandler(sys.stderr))  # as the first call of logging.warning does
            logging.getLogger("library").error("inside")
        assert (list(root.handlers), root.manager.disable) == before
        logging.getLogger("library").error("afterwards")
        assert stream.getvalue() == "afterwards\n"
    finally:
        root.removeHandler(own)


def test_files_that_are_none(int8_file, tmp_path):
    content = int8_file.path.read_bytes()
    path = tmp_path / "a.tflite"
    for foreign in (b"", b"PK\x03\x04 a zip archive", content[:6], content[:4] + b"TFL2" + content[8:]):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="which has 'TFL3' as its bytes 4 to 8. Received: path='.*a.tflite'"):
            TFLiteModel(path)
    for length in (8, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="a whole .tflite file.*Received: path='.*a.tflite'"):
            TFLiteModel(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="TFL3"):
        export.accuracy(path, (pixels(), [0] * 40))
    with pytest.raises(ValueError, match="'TFL3' as its bytes 4 to 8. Received: another file"):
        read_file(b"")
    with pytest.raises(ValueError, match="Received: one that breaks off"):
        read_file(content[:100])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")
@pytest.mark.parametrize(("function", "name"), [("linalg.inv", "FlexMatrixInverse"), ("math.erfinv", "Erfinv")])
def test_operators_that_are_not_built_in_are_named(function, name, tmp_path):
    import tensorflow as tf

    module, _, attribute = function.partition(".")
    called = tf.function(getattr(getattr(tf, module), attribute), input_signature=[tf.TensorSpec((1, 3, 3))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([called.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.allow_custom_ops = True
    with quiet():
        (tmp_path / "a.tflite").write_bytes(converter.convert())
    with pytest.raises(ValueError, match=f"builtin operators.*SELECT_TF_OPS.*which needs {name}$"):
        TFLiteModel(tmp_path / "a.tflite")
