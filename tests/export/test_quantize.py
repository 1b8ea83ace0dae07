"""The registry of number formats, and what follows from it."""

import keras
import pytest

from tfjointrd import export
from tfjointrd.__main__ import main
from tfjointrd.experiments import card
from tfjointrd.export import quantize

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


@pytest.fixture
def float16(monkeypatch):
    """A format more, as one would add it: it starts from the SavedModel, and needs no images."""
    import tensorflow as tf

    monkeypatch.setattr(quantize, "_QUANTIZERS", dict(quantize._QUANTIZERS))

    @export.register_quantizer("float16")
    def float16(source, images):
        def use_float16(converter):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]

        assert images is None
        return source.convert(use_float16)


def test_what_is_registered_is_offered(network, float16, tmp_path, capsys):
    float32 = export.tflite(network, tmp_path / "float32.tflite")
    report = export.tflite(network, tmp_path / "float16.tflite", "float16", input_type="float32")
    assert report.quantization == "float16" and report.bytes < float32.bytes
    assert 0 < report.max_difference < 1e-2 * report.output_scale and report.top1_agreement == 1
    network.save(tmp_path / "net.keras")
    assert main(["export", str(tmp_path / "net.keras"), "--quantization", "float16"]) == 0
    assert (tmp_path / "net_float16.tflite").read_bytes() == report.path.read_bytes()
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "{none,int8,float16}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="to be None, 'int8' or 'float16'. Received: quantization='int4'"):
        export.tflite(network, tmp_path / "a.tflite", "int4")
    with pytest.raises(ValueError, match=r"of \('float32',\) with quantization='float16'"):
        export.tflite(network, tmp_path / "a.tflite", "float16", input_type="uint8")


def test_a_quantizer_may_start_from_the_float32_file(network, float16, tmp_path):
    """It is converted once for several files of one network."""
    seen = []

    @export.register_quantizer("same", exact=True)
    def same(source, images):
        seen.append((source.saved_model() / "float32.tflite").exists())
        return source.float32_file()

    options = {"saved_model": tmp_path / "saved"}
    first = export.tflite(network, tmp_path / "a.tflite", "same", **options)
    second = export.tflite(network, tmp_path / "b.tflite", "same", **options)
    assert seen == [False, True] and first.path.read_bytes() == second.path.read_bytes()


def test_a_name_is_registered_once(float16):
    with pytest.raises(ValueError, match="Received: name='int8'"):
        export.register_quantizer("int8")(lambda source, images: b"")


def test_formats_of_cards_are_those_registered_by_now(float16):
    assert card.forms() == {"float32": None, "int8": "int8", "float16": "float16"}


def test_formats_of_cards():
    assert card.forms() == {"float32": None, "int8": "int8"}
    assert [quantize.get(value).name for value in card.forms().values()] == ["float32", "int8"]
    with pytest.raises(ValueError, match="to be None or 'int8'. Received: quantization='float32'"):
        quantize.get("float32")
