"""The registry of number formats, and what follows from it."""

import jsonschema
import keras
import numpy as np
import pytest
from small_networks import pixels

from tfjointrd import export
from tfjointrd.__main__ import main
from tfjointrd.experiments import Recipe, card
from tfjointrd.export import quantize, quantizer

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")

_NAMES = ["float32", "float16", "dynamic", "int8", "int16x8", "int4"]


@pytest.fixture
def halves(monkeypatch):
    """A format more, as one would add it: it starts from the SavedModel, and needs no images."""
    import tensorflow as tf

    monkeypatch.setattr(quantizer, "_QUANTIZERS", {name: dict(found) for name, found in quantizer._QUANTIZERS.items()})

    @export.register_quantizer("halves")
    def halves(source, images):
        def use_float16(converter):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]

        assert images is None
        return source.convert(use_float16)


def test_what_is_registered_is_offered(network, halves, tmp_path, capsys):
    float32 = export.tflite(network, tmp_path / "float32.tflite")
    report = export.tflite(network, tmp_path / "halves.tflite", "halves", input_type="float32")
    assert report.quantization == "halves" and report.bytes < float32.bytes
    assert 0 < report.max_difference < 1e-2 * report.output_scale and report.top1_agreement == 1
    network.save(tmp_path / "net.keras")
    assert main(["export", str(tmp_path / "net.keras"), "--quantization", "halves"]) == 0
    assert (tmp_path / "net_halves.tflite").read_bytes() == report.path.read_bytes()
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "{none,float16,dynamic,int8,int16x8,int4,halves}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'int4', 'halves', or a dict .* Received: quantization='int3'"):
        export.tflite(network, tmp_path / "a.tflite", "int3")
    with pytest.raises(ValueError, match=r"of \('float32',\) with quantization='halves'"):
        export.tflite(network, tmp_path / "a.tflite", "halves", input_type="uint8")


def test_a_quantizer_may_start_from_the_float32_file(network, halves, tmp_path):
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


def test_a_name_is_registered_once(halves):
    with pytest.raises(ValueError, match="Received: name='int8'"):
        export.register_quantizer("int8")(lambda source, images: b"")


def test_formats_of_cards_are_those_registered_by_now(halves):
    assert list(card.forms()) == [*_NAMES, "halves"] and card.forms()["float32"] is None


def test_names():
    assert list(quantize.arguments()) == _NAMES
    assert [quantize.get(value).name for value in card.forms().values()] == _NAMES
    with pytest.raises(ValueError, match="to be None, 'float16'.* Received: quantization='float32'"):
        quantize.get("float32")
    static, running = (quantize.describe(name) for name in ("int8", "dynamic"))
    assert static.startswith("int8 (static") and "while the file runs" in running


def test_a_format_of_ones_own_in_cards(network, halves, tmp_path):
    images = pixels(20).astype("float32")
    labelled = (images, np.argmax(network(images), -1))
    formats = Recipe(formats=("halves",)).formats
    accuracies, failed = card.export_files(network, "model", tmp_path, formats, images, labelled)
    assert accuracies == {"halves": 1.0} and not failed
    assert [file.name for file in card.network_files(tmp_path, "model")] == ["model_halves.tflite"]


def test_formats_of_recipes(network, tmp_path):
    """Every name, in cards; the network is written as SavedModel once."""
    names = quantize.arguments()
    assert Recipe().formats == ("float32", "int8") and Recipe(formats=["int4"]).as_dict()["formats"] == ["int4"]
    images = pixels(64).astype("float32")
    labelled = [(images, np.argmax(network(images), -1))]
    formats = Recipe(formats=tuple(names)).formats
    accuracies, failed = card.export_files(network, "model", tmp_path, formats, images, labelled)
    assert list(accuracies) == list(names) and not failed and min(accuracies.values()) > 0.8
    assert len(card.network_files(tmp_path, "model")) == len(names)
    jsonschema.validate({"keras": 1.0, **accuracies}, card._ACCURACY)
    for wrong in (("int3",), ("int8", "int8"), "int8", (8,)):
        with pytest.raises(ValueError, match="Expected `formats`"):
            Recipe(formats=wrong)
