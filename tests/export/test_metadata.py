"""What files say of themselves, in the form that phones' libraries read."""

import json
import zipfile

import keras
import numpy as np
import pytest
from small_networks import pixels, small_network

import tfjointrd as jrd
from tfjointrd.export import TFLiteModel, describe_file, metadata, quantize_file, read_metadata, tflite
from tfjointrd.export import metadata_tables as tables
from tfjointrd.export.file_graph import unpack
from tfjointrd.export.page.describe import describe
from tfjointrd.report import file_profile

NAMES = ["top", "left", "bottom", "right"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    network = small_network()
    tflite(network, folder / "float.tflite")
    tflite(network, folder / "int8.tflite", "int8", pixels())
    return folder


@pytest.fixture
def files(written, tmp_path):
    for file in written.glob("*.tflite"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["float", "int8"])
def test_round_trip(name, files):
    path, x = files / f"{name}.tflite", pixels(8)
    before = TFLiteModel(path).predict(x)
    assert read_metadata(path) is None
    found = describe_file(path, NAMES, name="tiny", description="Four sides.", author="me", license="MIT")
    assert found == read_metadata(path)
    assert (found.name, found.input, found.outputs, found.author) == ("tiny", "image", ("scores",), "me")
    assert found.labels == tuple(NAMES) and found.pixel_range == "0..255"
    assert (found.mean, found.std) == ((0.0,), (1.0,))
    np.testing.assert_array_equal(TFLiteModel(path).predict(x), before)
    again = describe_file(path, card=False)  # replaces; the labels are gone
    assert read_metadata(path) == again and again.labels == ()
    assert len([entry for entry in unpack(path.read_bytes()).metadata if entry.name == b"TFLITE_METADATA"]) == 1


def test_labels_are_stored_as_phones_read_them(files):
    path = files / "int8.tflite"
    describe_file(path, NAMES)
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read("labels.txt").decode().split() == NAMES


def test_the_card_beside(files):
    path = files / "int8.tflite"
    describe_file(path, NAMES)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["labels"] == NAMES and card["bytes"] == path.stat().st_size
    assert card["input"]["type"] == "uint8" and card["input"]["shape"] == [1, 8, 8, 1]
    assert card["outputs"] == [{"name": "scores", "shape": [1, 4], "type": "float32"}]


def test_read_by_others(files):
    """By the fields' numbers in the schema, with nothing of our own reader's names."""
    from flatbuffers.table import Table

    path = files / "float.tflite"
    describe_file(path, NAMES, pixel_range="-1..1")
    model = unpack(path.read_bytes())
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    content = bytearray(bytes(model.buffers[entry.buffer].data))
    assert content[4:8] == b"M001"
    root = Table(content, int.from_bytes(content[:4], "little"))

    def at(table, slot, index=0):
        """The table in a field, or the one with that index of a list."""
        offset = table.Offset(4 + 2 * slot)
        return Table(content, table.Indirect(table.Vector(offset) + 4 * index))

    subgraph = at(root, 3)
    image = at(subgraph, 2)
    unit = at(image, 4)
    assert content[unit.Pos + unit.Offset(4)] == 1  # NormalizationOptions
    options = Table(content, unit.Indirect(unit.Pos + unit.Offset(6)))
    mean, std = (np.frombuffer(content, "<f4", 1, options.Vector(options.Offset(slot)))[0] for slot in (4, 6))
    assert (mean, std) == (127.5, 127.5)
    file = at(at(subgraph, 3), 6)
    assert file.String(file.Pos + file.Offset(4)) == b"labels.txt" and content[file.Pos + file.Offset(8)] == 2


def test_colours():
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    table = tables.written(tables.TableOf(tables.NORMALIZATION_OPTIONS, {"mean": mean.tolist(), "std": std.tolist()}))
    assert table[4:8] == b"M001"
    read = tables.Read.root(table)
    read._fields = tables.NORMALIZATION_OPTIONS
    np.testing.assert_allclose(read.floats("mean"), mean, rtol=1e-6)
    np.testing.assert_allclose(read.floats("std"), std, rtol=1e-6)


def test_report_accuracy_and_page_read_it(files):
    path, x = files / "float.tflite", pixels(8)
    y = np.arange(8) % 4
    without = jrd.export.accuracy(path, (x, y))
    describe_file(path, NAMES)
    assert jrd.export.accuracy(path, (x, y)) == without
    with pytest.raises(ValueError, match="Expected `data` in the range 0..255"):
        jrd.export.accuracy(path, (x / 255, y))
    profile = jrd.report.file_profile(path)
    assert profile.metadata.labels == tuple(NAMES)
    assert "takes 'image' in the range 0..255, gives scores; 4 classes: top, left" in str(profile)
    page = jrd.export.page.write_page([path], files / "page", cdn=True)
    assert page.labels == tuple(NAMES)
    describe_file(path, NAMES, pixel_range="0..1")
    assert describe(path)["pixels"]["range"] == "0..1"
    with pytest.raises(ValueError, match="Expected `data` in the range 0..1"):
        jrd.export.accuracy(path, (x, y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["one"]}, "Expected `labels` to be 4 names"),
        ({"labels": ["a", "b", "c", ""]}, "a name that is empty"),
        ({"pixel_range": "0..7"}, "Expected `pixel_range` to be one of"),
        ({"pixel_range": "imagenet"}, "Expected `pixel_range` for 1 channels"),
    ],
)
def test_bad_input(options, message, files):
    path = files / "float.tflite"
    before = path.read_bytes()
    with pytest.raises(ValueError) as error:
        describe_file(path, **options)
    assert message in str(error.value) and path.read_bytes() == before


def test_bad_files(files):
    with pytest.raises(FileNotFoundError):
        describe_file(files / "none.tflite")
    with pytest.raises(FileNotFoundError):
        read_metadata(files / "none.tflite")
    (files / "text.tflite").write_bytes(b"no file of that kind")
    with pytest.raises(ValueError, match="TFL3"):
        read_metadata(files / "text.tflite")
    path = files / "float.tflite"
    describe_file(path, NAMES)
    path.write_bytes(path.read_bytes().replace(b"M001", b"M999"))
    with pytest.raises(ValueError, match="Expected whole metadata"):
        read_metadata(path)


def test_a_normalization_without_its_numbers(files):
    path, make = files / "float.tflite", tables.TableOf
    unit = make(tables.PROCESS_UNIT, {"kind": tables.Byte(tables.NORMALIZATION)})
    image = make(tables.TENSOR, {"name": "image", "process_units": [unit]})
    stored = tables.written(make(tables.MODEL, {"subgraphs": [make(tables.SUBGRAPH, {"inputs": [image]})]}))
    path.write_bytes(metadata._with(path.read_bytes(), stored, ()))
    with pytest.raises(ValueError, match="Expected whole metadata.* Received: a normalization without mean and std"):
        read_metadata(path)


def test_several_outputs(tmp_path):
    network = small_network()
    both = keras.Model(network.input, {"a": network.output, "b": network.output * 2.0})
    tflite(both, tmp_path / "both.tflite")
    path = tmp_path / "both.tflite"
    for name in ("a", "b"):
        found = describe_file(path, {name: NAMES})
        assert sorted(found.outputs) == ["a", "b"] and read_metadata(path) == found
        assert (found.labels_of, found.labels) == (name, tuple(NAMES)) and f"classes of {name}: " in str(found)
    for labels, message in (
        (NAMES, "`labels` to be a dict that says of which output"),
        ({"c": NAMES}, "`labels` of one output, by its name in the file: .* Received: c"),
        ({"a": NAMES, "b": NAMES}, "Received: a, b"),
        ({"a": ["one\ntwo", *NAMES[1:]]}, "a name of several lines"),
    ):
        with pytest.raises(ValueError, match=message):
            describe_file(path, labels)


def test_the_card_gives_each_output_its_own_shape(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(image)
    tflite(
        keras.Model(image, [keras.layers.Dense(3, name="zeta")(x), keras.layers.Dense(5, name="alpha")(x)]),
        path := tmp_path / "two.tflite",
    )
    describe_file(path, pixel_range="0..1")
    card = json.loads(path.with_suffix(".json").read_text())
    assert {output["name"]: output["shape"] for output in card["outputs"]} == {"zeta": [1, 3], "alpha": [1, 5]}


def test_a_range_that_nothing_tells(files):
    """It is assumed with a warning; metadata of others, which name no range or another one, are taken as they are."""
    image = keras.Input((8, 8, 1))
    network = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    path, make = files / "any.tflite", tables.TableOf
    tflite(network, path)
    with pytest.warns(UserWarning, match="any.tflite' does not show what it takes .* Its metadata say 0..255"):
        describe_file(path, NAMES)

    def state(units):
        taken = make(tables.TENSOR, {"name": "image", "process_units": units})
        given = make(tables.TENSOR, {"name": "scores"})
        parts = make(tables.SUBGRAPH, {"inputs": [taken], "outputs": [given]})
        stored = tables.written(make(tables.MODEL, {"subgraphs": [parts]}))
        path.write_bytes(metadata._with(path.read_bytes(), stored, ()))
        return read_metadata(path)

    assert state([]).pixel_range is None and describe(path)["range_is_assumed"]
    numbers = make(tables.NORMALIZATION_OPTIONS, {"mean": [127.0], "std": [128.0]})
    unit = make(tables.PROCESS_UNIT, {"kind": tables.Byte(tables.NORMALIZATION), "options": numbers})
    assert "a range of mean (127.0,), std (128.0,)" in str(state([unit]))
    pixels_of = describe(path)["pixels"]
    assert pixels_of == {"range": "mean 127, std 128", "scale": [1 / 128], "offset": [-127 / 128]}
    assert not describe(path)["range_is_assumed"] and describe(path, "0..1")["pixels"]["range"] == "0..1"
    images = (np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)), np.arange(4))
    assert 0 <= jrd.export.accuracy(path, images) <= 1


@pytest.mark.parametrize("quantization", ["dynamic", "int8"])
def test_metadata_stay_in_another_format(quantization, files):
    described = describe_file(files / "float.tflite", NAMES)
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 1)).astype("float32")
    path = files / "other.tflite"
    quantize_file(files / "float.tflite", path, quantization, images, min_agreement=None, max_error=1.0)
    assert read_metadata(path) == described
    assert file_profile(path).operators


def test_metadata_of_others_are_copied_as_they_are(files):
    """Labels under another name, and labels whose archive was lost."""
    path, make = files / "float.tflite", tables.TableOf
    entry = make(tables.FILE, {"name": "labelmap.txt", "type": tables.Byte(tables.AXIS_LABELS)})
    taken, given = ({"name": name} for name in ("image", "scores"))
    given = make(tables.TENSOR, {**given, "files": [entry]})
    parts = make(tables.SUBGRAPH, {"inputs": [make(tables.TENSOR, taken)], "outputs": [given]})
    stored = tables.written(make(tables.MODEL, {"name": "theirs", "subgraphs": [parts]}))
    content = path.read_bytes()
    path.write_bytes(metadata._with(content, stored, {"labelmap.txt": "\n".join(NAMES).encode(), "about.txt": b"x"}))
    quantize_file(path, files / "dynamic.tflite", "dynamic", min_agreement=None)
    assert read_metadata(files / "dynamic.tflite").labels == tuple(NAMES)
    assert set(zipfile.ZipFile(files / "dynamic.tflite").namelist()) == {"labelmap.txt", "about.txt"}
    path.write_bytes(metadata._with(content, stored, {}))
    quantize_file(path, files / "dynamic.tflite", "dynamic", min_agreement=None)
    assert TFLiteModel(files / "dynamic.tflite").predict(pixels(2)).shape == (2, 4)


def test_colours_of_four_channels_are_not_known(tmp_path):
    image = keras.Input((8, 8, 4))
    network = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    tflite(network, path := tmp_path / "four.tflite")
    describe_file(path, pixel_range="0..1")
    stored = tables.Read.root(metadata._stored(unpack(path.read_bytes())))
    (graph,) = stored.tables("subgraphs", tables.SUBGRAPH)
    (taken,) = graph.tables("inputs", tables.TENSOR)
    properties = taken.table("content", tables.CONTENT).table("properties", tables.IMAGE_PROPERTIES)
    assert properties.byte("color_space") == tables.UNKNOWN_COLORS
