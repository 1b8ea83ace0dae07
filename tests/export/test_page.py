"""The page that classifies pictures in the browser: what is written, without a browser."""

import contextlib
import io
import json
import socket
import tarfile
import threading
import tomllib
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
from small_networks import pixels, small_network

import tfjointrd
from tfjointrd import export
from tfjointrd.__main__ import main
from tfjointrd.export.interpreter import quiet
from tfjointrd.export.page import runtime, write_page
from tfjointrd.export.page.describe import describe
from tfjointrd.export.page.serve import address, server
from tfjointrd.export.page.write_page import STATIC

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "tiny_float32.tflite"
    keras.utils.set_random_seed(0)
    return export.tflite(small_network(), path).path


def written_by_tensorflow(path, function, *shapes):
    """A file of a function of tensors, whatever it is."""
    import tensorflow as tf

    traced = tf.function(function).get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes))
    with quiet():
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())
    return path


# --- What is written


def test_what_is_written(file, int8_file, tmp_path):
    out = tmp_path / "page"
    page = write_page([file, int8_file.path], out, labels="a, b, c,d", cdn=True)
    settings = json.loads((out / "page.json").read_text())
    assert settings["labels"] == ["a", "b", "c", "d"] and page.labels == ("a", "b", "c", "d")
    for model, path in zip(settings["models"], (file, int8_file.path), strict=True):
        content = (out / model["url"]).read_bytes()
        assert content == Path(path).read_bytes() and model["bytes"] == len(content)
        assert model["integrity"] == runtime.integrity(content) and model["input"]["shape"] == [1, 8, 8, 1]
    assert [model["name"] for model in settings["models"]] == ["tiny_float32", "tiny"]
    assert [model["input"]["type"] for model in settings["models"]] == ["float32", "uint8"]
    for found in settings["runtime"]["files"].values():
        assert found["url"].startswith("https://cdn.jsdelivr.net/npm/@litertjs/") and "@2.5.3/" in found["url"]
        assert found["integrity"].startswith("sha384-")
    assert {path.name for path in out.iterdir()} == {path.name for path in STATIC.iterdir()} | {"models", "page.json"}
    assert "tiny_float32: " in str(page) and "8x8x1, pixels as 0..255" in str(page) and "assumed" not in str(page)
    write_page([file], out, cdn=True)  # in place of the earlier one
    assert [path.name for path in (out / "models").iterdir()] == ["1.tflite"]
    assert json.loads((out / "page.json").read_text())["labels"] == ["class 0", "class 1", "class 2", "class 3"]
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_every_static_file_is_in_the_wheel():
    project = tomllib.loads((Path(tfjointrd.__file__).parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["tfjointrd.export.page"]
    packed = {path for pattern in patterns for path in STATIC.parent.glob(pattern)}
    assert packed == {
        path for path in STATIC.parent.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {path.name for path in packed} == {
        "index.html",
        "style.css",
        "app.js",
        "camera.js",
        "classifier.js",
        "paper.js",
    }


def test_labels_of_a_file_a_data_set_and_a_card(file, tmp_path):
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffä\r\nb\r\nc c\r\nd\r\n\r\n".encode())
    assert write_page([file], tmp_path / "page", labels=names, cdn=True).labels == ("ä", "b", "c c", "d")
    ten = tmp_path / "ten.tflite"
    written_by_tensorflow(ten, lambda x: x[:, 0, :10, 0], (1, 16, 16, 3))
    assert write_page([ten], tmp_path / "page", labels="cifar10", cdn=True).labels[3] == "cat"
    many = ",".join(f"class number {i}" for i in range(10)) + " " * 300  # more than a file's name may have
    assert write_page([ten], tmp_path / "page", labels=many, cdn=True).labels[9] == "class number 9"
    for content, first in (({"data": {"name": "cifar10"}}, "airplane"), ({"data": {"name": "mine"}}, "class 0")):
        (tmp_path / "card.json").write_text(json.dumps(content))
        assert write_page([ten], tmp_path / "page", cdn=True).labels[0] == first
    for content in ("[]", "{", '{"data": 3}'):
        (tmp_path / "card.json").write_text(content)
        assert write_page([ten], tmp_path / "page", cdn=True).labels[0] == "class 0"


def test_files_of_the_same_name(file, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.tflite").write_bytes(file.read_bytes())
    both = [tmp_path / folder / "model.tflite" for folder in ("a", "b")]
    assert [model["name"] for model in write_page(both, tmp_path / "page", cdn=True).models] == ["a/model", "b/model"]
    twice = write_page([both[0]] * 2, tmp_path / "page", cdn=True)
    assert [model["name"] for model in twice.models] == ["model (1)", "model (2)"]


# --- What a file tells


def test_activations(file, tmp_path):
    import tensorflow as tf

    path = tmp_path / "a.tflite"
    assert describe(file)["activation"] is None
    for function, expected in (
        (lambda x: tf.nn.softmax(x[:, 0, :, 0]), "softmax"),
        (lambda x: tf.nn.sigmoid(x[:, 0, :, 0]), "sigmoid"),
        (lambda x: (tf.nn.softmax(x[:, 0, :, 0]) + tf.nn.softmax(x[:, 1, :, 0])) / 2, "softmax"),
        (lambda x: tf.nn.log_softmax(x[:, 0, :, 0]), None),
        (lambda x: tf.nn.relu(x[:, 0, :, 0]), None),
        (lambda x: x[:, 0, :, 0] * 0 + 0.25, None),
    ):
        assert describe(written_by_tensorflow(path, function, (1, 4, 4, 1)))["activation"] == expected


def test_ranges_of_pixels(file, int8_file, tmp_path):
    path = tmp_path / "a.tflite"
    for function, expected in (
        (lambda x: (x / 255)[:, 0, :, 0], "0..255"),
        (lambda x: (x - [123.0, 117.0, 104.0])[:, 0, :, 0], "0..255"),
        (lambda x: x[:, 0, :, 0], None),
        (lambda x: (x - 0.5)[:, 0, :, 0], None),
    ):
        found = describe(written_by_tensorflow(path, function, (1, 4, 4, 3)))
        assert (found["pixels"]["range"], found["range_is_assumed"]) == (expected or "0..255", expected is None)
    assert [describe(one)["range_is_assumed"] for one in (file, int8_file.path)] == [False, False]
    named = describe(path, "-1..1")
    assert not named["range_is_assumed"] and named["pixels"]["scale"] == [1 / 127.5] * 3
    assert len(set(describe(path, "imagenet")["pixels"]["offset"])) == 3


@pytest.mark.parametrize("ends", ["uint8", "float32"])
def test_ranges_that_integers_were_calibrated_on(ends, tmp_path):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    images = pixels(60).astype("float32") / 127.5 - 1
    written = export.tflite(
        network, tmp_path / "a.tflite", quantization="int8", representative_data=images, input_type=ends
    )
    assert describe(written.path)["pixels"]["range"] == "-1..1"


def test_a_file_for_any_number_of_images(tmp_path):
    import tensorflow as tf

    path = written_by_tensorflow(tmp_path / "a.tflite", lambda x: tf.nn.softmax(x[:, 0, :, 0]), (None, 4, 4, 3))
    before = export.TFLiteModel(path)
    assert before.interpreter.get_input_details()[0]["shape_signature"][0] == -1
    page = write_page([path], tmp_path / "page", cdn=True)
    after = export.TFLiteModel(page.folder / "models" / "1.tflite")
    assert after.interpreter.get_input_details()[0]["shape_signature"].tolist() == [1, 4, 4, 3]
    images = pixels(3, (4, 4, 3))
    np.testing.assert_array_equal(after.predict(images), before.predict(images))
    assert page.models[0]["bytes"] == path.stat().st_size
    written_by_tensorflow(path, lambda x: tf.reduce_mean(x, axis=(1, 2)), (1, None, None, 3))
    with pytest.raises(ValueError, match=r"of a fixed size\. .* takes shape \(1, -1, -1, 3\), where -1 is any size"):
        write_page([path], tmp_path / "page", cdn=True)


# --- Files that do not fit


def test_files_that_do_not_fit(file, int8_file, tmp_path):
    out, path = tmp_path / "page", tmp_path / "a.tflite"
    broken = tmp_path / "broken.tflite"

    def refused(message, error=ValueError, of=path):
        with pytest.raises(error, match=message):
            write_page([of], out, cdn=True)
        assert not out.exists()

    refused(r"a \.tflite file\. Received: path='.*nowhere", FileNotFoundError, tmp_path / "nowhere.tflite")
    broken.write_bytes(int8_file.path.read_bytes()[:1000])
    refused("a whole .tflite file", of=broken)
    broken.write_bytes(b"PK\x03\x04 a zip archive")
    refused("'TFL3' as its bytes 4 to 8", of=broken)
    for function, shapes, message in (
        (lambda x, y: x[:, 0, :, 0] + y[:, 0, :, 0], [(1, 4, 4, 3)] * 2, "one input. Received: .* with 2 inputs"),
        (lambda x: (x[:, 0, :, 0], x[:, 1, :, 0]), [(1, 4, 4, 3)], "with one output, which names classes"),
        (lambda x: x * 2, [(1, 4, 4, 3)], r"one number for each of several classes.* gives shape \(1, 4, 4, 3\)"),
        (lambda x: x[:, 0, :1, 0], [(1, 4, 4, 3)], r"gives shape \(1, 1\)"),
        (lambda x: x[:, 0, :, 0], [(1, 4, 4, 2)], r"one image .* which takes shape \(1, 4, 4, 2\)"),
        (lambda x: x * 2, [(1, 12)], r"one image .* which takes shape \(1, 12\)"),
        (lambda x: x[:, 0, :, 0] * float("nan"), [(1, 4, 4, 3)], "gives NaN or infinity on random images"),
    ):
        written_by_tensorflow(path, function, *shapes)
        refused(message)


def test_integers_that_browsers_do_not_take(network, tmp_path):
    ends = {"input_type": "int8", "output_type": "int8"}
    written = export.tflite(network, tmp_path / "a.tflite", quantization="int8", representative_data=pixels(60), **ends)
    with pytest.raises(ValueError, match="Export it with `input_type='uint8'`.*which takes int8 and gives int8"):
        describe(written.path)


def test_unfit_arguments(file, int8_file, tmp_path):
    ten = written_by_tensorflow(tmp_path / "ten.tflite", lambda x: x[:, 0, :10, 0], (1, 16, 16, 3))
    latin = tmp_path / "latin.txt"
    latin.write_bytes("ä\nb\nc\nd\n".encode("latin-1"))
    out = tmp_path / "page"
    for error, message, paths, arguments in (
        (ValueError, "`labels` to be 4 names.*'a,b,c', 3 names", [file], {"labels": "a,b,c"}),
        (ValueError, "`labels` to be 4 names.*'cifar10', 10 names", [file], {"labels": "cifar10"}),
        (ValueError, "a name that is empty", [file], {"labels": "a,,c,d"}),
        (ValueError, "3 names", [file], {"labels": ["a", "b", "c"]}),
        (ValueError, "a text file in UTF-8", [file], {"labels": latin}),
        (FileNotFoundError, "Received: labels='names.txt'", [file], {"labels": "names.txt"}),
        (ValueError, "files with the same classes. Received: .* with 4 and .*ten.tflite' with 10", [file, ten], {}),
        (ValueError, "one or two .tflite files. Received: 3", [file] * 3, {}),
        (ValueError, "one or two .tflite files. Received: 0", [], {}),
        (ValueError, "Received: pixel_range='0..2'", [file], {"pixel_ranges": ["0..2"]}),
        (ValueError, "for 1 channel.*which has 3", [file], {"pixel_ranges": ["imagenet"]}),
        (ValueError, "one for each. Received: 3 for 2 files", [file] * 2, {"pixel_ranges": ["0..1"] * 3}),
        (ValueError, "either `cdn` or `runtime`", [file], {"runtime": tmp_path}),
    ):
        with pytest.raises(error, match=message):
            write_page(paths, out, cdn=True, **arguments)
        assert not out.exists()


def test_folders_that_do_not_fit(file, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "page").mkdir()  # an empty one does
    write_page([file], tmp_path / "page", cdn=True)
    (tmp_path / "page" / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    for error, message, out in (
        (FileExistsError, "an earlier page. Received: .*full', which holds thesis.txt", "full"),
        (FileExistsError, "page', which holds mine.txt", "page"),
        (FileExistsError, "to be a folder. Received: the file", file),
        (FileNotFoundError, "the folder of `out` to exist", "missing/page"),
        (ValueError, "another folder than the current one", "."),
        (OSError, "`out` to be writable. Received: out='/proc/page'", "/proc/page"),
    ):
        with pytest.raises(error, match=message):
            write_page([file], out, cdn=True)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_an_error_leaves_the_earlier_page(file, tmp_path, monkeypatch):
    out = tmp_path / "page"
    write_page([file], out, cdn=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FileNotFoundError, match="`runtime`"):
        write_page([file], out, runtime=tmp_path / "nowhere")
    monkeypatch.setattr("tfjointrd.files.write", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_page([file], out, cdn=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


# --- The runtime


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Small packages in place of the real ones, pinned as those are: tarballs by name."""
    contents = {path: f"content of {path}".encode() for path in runtime.FILES}
    tarballs = {}
    for package in runtime.PACKAGES:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path, content in {**contents, f"{package}/README.md": b"not needed"}.items():
                name = path.replace(f"{package}/", "package/", 1)
                if name.startswith("package/"):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        tarballs[package] = buffer.getvalue()
        monkeypatch.setitem(runtime.PACKAGES, package, runtime.integrity(tarballs[package], "sha512"))
    for path, content in contents.items():
        monkeypatch.setitem(runtime.FILES, path, runtime.integrity(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        monkeypatch.delenv(name, raising=False)
    return tarballs, contents


@contextlib.contextmanager
def registry(folder, tarballs, monkeypatch, variable="NPM_CONFIG_REGISTRY"):
    """An npm registry on this machine."""
    for package, content in tarballs.items():
        path = folder / "@litertjs" / package / "-" / f"{package}-{runtime.VERSION}.tgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    running = server(folder, 0)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv(variable, address(running))
    try:
        yield
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_the_runtime_is_downloaded_once(packages, file, tmp_path, monkeypatch):
    tarballs, contents = packages
    with registry(tmp_path / "npm", tarballs, monkeypatch):
        page = write_page([file], tmp_path / "page")
    for path, content in contents.items():
        assert (page.folder / "runtime" / path).read_bytes() == content
    settings = json.loads((page.folder / "page.json").read_text())["runtime"]
    assert settings["version"] == runtime.VERSION
    assert settings["files"]["core/dist/index.js"]["url"] == "runtime/core/dist/index.js"
    assert runtime.contents() == contents, "no registry is there now"
    kept = runtime.cache_folder() / runtime.tarball("core")
    kept.write_bytes(kept.read_bytes()[:100])  # a disk that failed
    with registry(tmp_path / "npm", tarballs, monkeypatch):
        assert runtime.contents() == contents
    assert kept.read_bytes() == tarballs["core"]


def test_a_registry_that_hands_out_something_else(packages, file, tmp_path, monkeypatch):
    tarballs, _ = packages
    message = r"tarball of @litertjs/core 2.5.3, sha512-.*Received: sha512-.* from 127"
    with (
        registry(tmp_path / "npm", {**tarballs, "core": b"something else"}, monkeypatch, "npm_config_registry"),
        pytest.raises(ValueError, match=message),
    ):
        write_page([file], tmp_path / "page")
    assert not (tmp_path / "page").exists() and not (tmp_path / "cache").exists()


def test_no_network(packages, file, tmp_path, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://name:secret@127.0.0.1:{closed.getsockname()[1]}/")
        assert main(["page", str(file), "--out", str(tmp_path / "page")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Expected the npm registry to deliver @litertjs/core 2.5.3") and "secret" not in said
    assert "npm pack @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3" in said and "--cdn" in said
    assert not (tmp_path / "page").exists()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
    with pytest.raises(ValueError, match="an address that begins with https://"):
        runtime.contents()


def test_a_cache_that_cannot_be_written(packages, tmp_path, monkeypatch):
    tarballs, contents = packages
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with registry(tmp_path / "npm", tarballs, monkeypatch):
        assert runtime.contents() == contents


def test_a_runtime_from_disk(packages, tmp_path, monkeypatch):
    tarballs, contents = packages
    packed = tmp_path / "packed"
    packed.mkdir()
    for package, content in tarballs.items():
        (packed / runtime.tarball(package)).write_bytes(content)
    modules = tmp_path / "project" / "node_modules" / "@litertjs"
    for path, content in contents.items():
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_bytes(content)
    for source in (packed, packed / runtime.tarball("core"), tmp_path / "project", modules.parent):
        assert runtime.contents(source) == contents
    (modules / "core/dist/index.js").write_bytes(b"changed")
    with pytest.raises(
        ValueError, match="core/dist/index.js of @litertjs 2.5.3.*another content in runtime='.*project'"
    ):
        runtime.contents(tmp_path / "project")
    (modules / "core/dist/index.js").unlink()
    with pytest.raises(ValueError, match="no such file in runtime"):
        runtime.contents(tmp_path / "project")
    (packed / runtime.tarball("core")).write_bytes(tarballs["core"][:-1])
    with pytest.raises(ValueError, match="tarball of @litertjs/core.* from .*litertjs-core-2.5.3.tgz"):
        runtime.contents(packed)
    for missing in (tmp_path / "nowhere", tmp_path, tmp_path / "nowhere.tgz"):
        with pytest.raises(
            FileNotFoundError, match="`runtime` to be a folder with litertjs-core-2.5.3.tgz and litertjs-"
        ):
            runtime.contents(missing)


# --- The command


def test_command_serves_until_ctrl_c(file, tmp_path, capsys, monkeypatch):
    types = {}

    def one_visit(running):
        for name in ("", "app.js", "page.json", "style.css", "models/1.tflite"):
            thread = threading.Thread(target=running.handle_request)
            thread.start()
            with urllib.request.urlopen(address(running) + name) as answer:
                types[name] = answer.headers.get_content_type()
                assert answer.headers["Cache-Control"] == "no-cache"
            thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", one_visit)
    assert (
        main(["page", str(file), "--out", str(tmp_path / "page"), "--cdn", "--labels", "a,b,c,d", "--serve", "0"]) == 0
    )
    assert types.pop("models/1.tflite") == "application/octet-stream"
    assert types == {
        "": "text/html",
        "app.js": "text/javascript",
        "page.json": "application/json",
        "style.css": "text/css",
    }
    said = capsys.readouterr()
    assert "http://127.0.0.1:" in said.out and "4 classes, a, b, c ..." in said.out and not said.err


def test_ports_that_do_not_fit(file, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["page", str(file), "--out", str(tmp_path / "page"), "--cdn", "--serve", str(port)]) == 1
    assert f"Received: port={port}, which another program listens on" in capsys.readouterr().err
    assert main(["page", str(file), "--out", str(tmp_path / "page"), "--cdn", "--serve", "70000"]) == 1
    assert "Received: port=70000" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_wasm_has_its_type(tmp_path):
    (tmp_path / "a.wasm").write_bytes(b"\0asm")
    running = server(tmp_path, 0)
    thread = threading.Thread(target=running.handle_request)
    thread.start()
    with urllib.request.urlopen(address(running) + "a.wasm") as answer:
        assert answer.headers.get_content_type() == "application/wasm"
    thread.join()
    running.server_close()


def test_ranges_by_the_command(file, tmp_path):
    path = written_by_tensorflow(tmp_path / "a.tflite", lambda x: x[:, 0, :, 0], (1, 4, 4, 1))
    command = ["page", str(path), str(file), "--out", str(tmp_path / "page"), "--cdn"]
    assert main([*command, "--pixel-range=-1..1", "--pixel-range", "0..1"]) == 0
    models = json.loads((tmp_path / "page" / "page.json").read_text())["models"]
    assert [model["pixels"]["range"] for model in models] == ["-1..1", "0..1"]
    assert np.allclose(models[0]["pixels"]["offset"], -1)
