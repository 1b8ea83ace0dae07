"""The page in headless Chromium, against Python's answers; one test, since starting and loading take longer than it."""

import base64
import contextlib
import json
import shutil
import subprocess
import threading
import time

import chromium
import keras
import numpy as np
import pytest
from PIL import Image

import tfjointrd as jrd
from tfjointrd import export
from tfjointrd.export.interpreter import quiet
from tfjointrd.export.page import runtime, write_page
from tfjointrd.export.page.serve import address, server

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "<i>nine</i>"]
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow"),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium; on Debian and Ubuntu, the package chromium"),
]


@pytest.fixture(scope="module")
def packages():
    """The folder with the runtime's packages: those of earlier pages, or what npm downloads now."""
    folder = runtime.cache_folder()
    if all((folder / runtime.tarball(package)).is_file() for package in runtime.PACKAGES):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"needs npm, or the runtime's packages in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"@litertjs/{package}@{runtime.VERSION}" for package in runtime.PACKAGES]
    done = subprocess.run([npm, "pack", "--pack-destination", folder, *names], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the npm registry, which npm does not reach: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("websocket", reason="needs the package websocket-client")
    with chromium.Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def digits():
    """Digits of the validation images and a network that was trained for a moment."""
    keras.utils.set_random_seed(0)
    train, test = jrd.data.load("digits", batch_size=32, augment=False)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.005), loss, metrics=["accuracy"])
    network.fit(train, epochs=3, verbose=0)
    assert network.evaluate(test, verbose=0)[1] > 0.85
    return network, train, np.round(test.x[:40]).astype("uint8")


@pytest.fixture(scope="module")
def files(digits, tmp_path_factory):
    network, train, _ = digits
    folder = tmp_path_factory.mktemp("files")
    float32 = export.tflite(network, folder / "digits_float32.tflite")
    int8 = export.tflite(network, folder / "digits_int8.tflite", quantization="int8", representative_data=train)
    return float32.path, int8.path


@contextlib.contextmanager
def served(folder):
    running = server(folder, 0)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield address(running)
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_in_the_browser(browser, packages, files, digits, tmp_path):
    page = write_page(files, tmp_path / "page", labels=LABELS, runtime=packages)
    with served(page.folder) as where:
        browser.open(where)
        ready(browser)
        assert text(browser, "#problem") == "" and text(browser, "#status") == "Choose a picture."
        outputs_are_pythons(browser, files, digits[2])
        pixels_are_pillows(browser)
        numbers_are_coded_as_in_python(browser)
        chosen_pictures(browser, files, digits[2], tmp_path)
        dropped_and_pasted_pictures(browser, tmp_path)
        pictures_that_cannot_be_decoded(browser, tmp_path)
        drawing(browser, files)
        camera(browser, where)
        every_control_has_a_name(browser)
        narrow_screens(browser)
        what_does_not_load(browser, where, page.folder)
        assert browser.errors == []
    without_a_server(browser, page.folder)
    with served(tmp_path / "cdn") as where:
        from_the_cdn(browser, where, [files[0], any_batch(digits[0], tmp_path)], packages, tmp_path)


# --- What the browser computes


def outputs_are_pythons(browser, files, images):
    found = browser.run(
        f"""(async () => {{
          const {{ Classifier, loadRuntime }} = await import(new URL("classifier.js", location));
          const settings = await (await fetch("page.json")).json();
          const litert = await loadRuntime(settings.runtime.files);
          const found = [];
          for (const model of settings.models) {{
            const classifier = await Classifier.load(model, litert);
            const rows = [];
            for (const pixels of {json.dumps(images.reshape(len(images), -1).tolist())}) {{
              rows.push((await classifier.run(pixels)).outputs);
            }}
            classifier.model.delete();
            found.push(rows);
          }}
          return found;
        }})()"""
    )
    for path, outputs, tolerance in zip(files, found, (1e-5, 0.02), strict=True):
        expected = export.TFLiteModel(path).predict(images)
        assert np.ptp(expected) > 5
        np.testing.assert_allclose(outputs, expected, atol=tolerance * np.abs(expected).max())
        assert (np.argmax(outputs, axis=-1) == expected.argmax(axis=-1)).all()


def pixels_are_pillows(browser):
    random = np.random.default_rng(0)
    for height, width in ((8, 8), (37, 61), (100, 40), (5, 9), (301, 200)):
        picture = random.integers(0, 256, (height, width, 3)).astype("uint8")
        rgba = np.concatenate([picture, np.full((height, width, 1), 255, "uint8")], axis=-1)
        shapes = [(1, 8, 8, 1), (1, 32, 32, 3), (1, 12, 20, 3), (1, 224, 224, 3)]
        found = browser.run(
            f"""(async () => {{
              const {{ pixelsFor }} = await import(new URL("classifier.js", location));
              const bytes = atob("{base64.b64encode(rgba.tobytes()).decode()}");
              const data = Uint8ClampedArray.from(bytes, (letter) => letter.charCodeAt(0));
              const picture = new ImageData(data, {width}, {height});
              return {json.dumps(shapes)}.map((shape) => Array.from(pixelsFor(picture, shape)));
            }})()"""
        )
        for shape, pixels in zip(shapes, found, strict=True):
            differences = np.reshape(pixels, shape[1:]) - by_pillow(Image.fromarray(picture), shape).astype(int)
            # Pillow 13 resizes tall pictures in the other order, and rounds in between.
            assert np.abs(differences).max() <= (height > width), (picture.shape, shape)


def by_pillow(picture, shape):
    """The central part of a picture that has the shape of a network's input, resized."""
    _, height, width, channels = shape
    part = min(picture.width, picture.height * width / height), min(picture.height, picture.width * height / width)
    left, top = (picture.width - part[0]) / 2, (picture.height - part[1]) / 2
    box = left, top, left + part[0], top + part[1]
    picture = picture.convert({1: "L", 3: "RGB"}[channels])
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box)).reshape(shape[1:])


def numbers_are_coded_as_in_python(browser):
    pixels = np.repeat(np.arange(256), 3)
    for name in ("0..255", "0..1", "-1..1", "imagenet"):
        scale, offset = (np.broadcast_to(part, 3) for part in jrd.pixel_ranges.PIXEL_RANGES[name])
        real = (pixels.reshape(-1, 3) * scale + offset).astype("float32").reshape(-1)
        for kind, step, zero in (
            ("float32", 0.0, 0),
            ("uint8", 0.0186, 114),
            ("uint8", 1.0, 0),
            ("uint8", 2 / 255, 127),
        ):
            model = {
                "input": {"shape": [1, 16, 16, 3], "type": kind, "scale": step, "zero_point": zero},
                "pixels": {"scale": scale.tolist(), "offset": offset.tolist()},
            }
            found = browser.run(
                f"""(async () => {{
                  const {{ encode }} = await import(new URL("classifier.js", location));
                  return Array.from(encode({json.dumps(pixels.tolist())}, {json.dumps(model)}));
                }})()"""
            )
            coded = real if kind == "float32" else np.clip(np.round(real / step) + zero, 0, 255)  # as TFLiteModel
            np.testing.assert_allclose(found, coded, rtol=1e-6)


# --- What a person does and sees


def text(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).textContent")


def ready(browser):
    browser.wait("document.body.dataset.state === 'ready'")


def classify(browser, act):
    """Does something and waits for the answer."""
    browser.run("document.body.dataset.state = 'before'")
    act()
    browser.wait("document.body.dataset.state === 'done' || document.getElementById('problem').textContent !== ''")


def cards(browser):
    """What each card shows: the best classes and their shares, milliseconds, and the pixels that the network sees."""
    return browser.run(
        """[...document.querySelectorAll(".card")].map((card) => {
          const seen = card.querySelector(".seen");
          const { data } = seen.getContext("2d").getImageData(0, 0, seen.width, seen.height);
          return {
            title: card.querySelector("h3").textContent,
            facts: card.querySelector(".facts").textContent,
            names: [...card.querySelectorAll(".name")].map((name) => name.textContent),
            shares: [...card.querySelectorAll(".share")].map((share) => parseFloat(share.textContent) / 100),
            time: card.querySelector(".time").textContent,
            seen: seen.hidden ? null : Array.from(data).filter((_, i) => i % 4 === 0),
          };
        })"""
    )


def agrees_with_python(card, path):
    """The classes that a card shows are those that the file says of the pixels that the card shows."""
    (outputs,) = export.TFLiteModel(path).predict(np.reshape(card["seen"], (1, 8, 8, 1)))
    shares = np.exp(outputs - outputs.max()) / np.exp(outputs - outputs.max()).sum()
    best = np.argsort(-shares, kind="stable")[:5]
    np.testing.assert_allclose(card["shares"], shares[best], atol=0.01)
    assert card["names"][0] == LABELS[best[0]]
    return LABELS[best[0]]


def chosen_pictures(browser, files, images, tmp_path):
    for number in (0, 1):
        path = tmp_path / f"{number}.png"
        Image.fromarray(images[number].reshape(8, 8)).save(path)
        classify(browser, lambda path=path: browser.choose("#file", path))
        shown = cards(browser)
        assert [card["title"] for card in shown] == ["digits_float32", "digits_int8"]
        for card, file in zip(shown, files, strict=True):
            np.testing.assert_array_equal(card["seen"], images[number].reshape(-1))
            name = agrees_with_python(card, file)
            assert card["time"].split(" ms a picture, median of ")[1].endswith("runs")
            assert card["facts"].startswith(f"{file.stat().st_size / 1024:.3g} KiB · 8 × 8, grey")
        assert text(browser, "#status").startswith(f"Both: {name}. ") and text(browser, "#problem") == ""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 160, 3)).astype("uint8"))
    picture.save(tmp_path / "colour.png")
    classify(browser, lambda: browser.choose("#file", tmp_path / "colour.png"))
    for card, file in zip(cards(browser), files, strict=True):
        np.testing.assert_array_equal(card["seen"], by_pillow(picture, (1, 8, 8, 1)).reshape(-1))
        agrees_with_python(card, file)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture.save(tmp_path / "turned.jpg", exif=exif)
    classify(browser, lambda: browser.choose("#file", tmp_path / "turned.jpg"))
    assert browser.run("document.getElementById('preview').width < document.getElementById('preview').height")


def dropped_and_pasted_pictures(browser, tmp_path):
    encoded = base64.b64encode((tmp_path / "0.png").read_bytes()).decode()
    for event in ('DragEvent("drop", { dataTransfer: held', 'ClipboardEvent("paste", { clipboardData: held'):
        classify(browser, lambda: browser.choose("#file", tmp_path / "1.png"))
        before = cards(browser)
        act = f"""(async () => {{
          const held = new DataTransfer();
          const content = await (await fetch("data:image/png;base64,{encoded}")).blob();
          held.items.add(new File([content], "0.png", {{ type: "image/png" }}));
          document.body.dispatchEvent(new {event}, bubbles: true, cancelable: true }}));
        }})()"""
        classify(browser, lambda act=act: browser.run(act))
        after = cards(browser)
        assert text(browser, "#problem") == "" and [card["seen"] for card in after] != [card["seen"] for card in before]
    browser.run(
        """document.body.dispatchEvent(
          new ClipboardEvent("paste", { clipboardData: new DataTransfer(), bubbles: true }))"""
    )
    assert text(browser, "#problem") == "There is no picture to paste."


def pictures_that_cannot_be_decoded(browser, tmp_path):
    for name, content in (("notes.txt", b"no picture"), ("empty.png", b""), ("half.png", b"\x89PNG\r\n\x1a\n\0\0")):
        (tmp_path / name).write_bytes(content)
        classify(browser, lambda name=name: browser.choose("#file", tmp_path / name))
        expected = f"“{name}” cannot be decoded as a picture. Choose a PNG, JPEG, WebP or GIF file."
        assert text(browser, "#problem") == expected
        assert all(card["names"] == [] and card["seen"] is None and card["time"] == "" for card in cards(browser))
    classify(browser, lambda: browser.choose("#file", tmp_path / "0.png"))
    assert text(browser, "#problem") == "" and all(len(card["names"]) == 5 for card in cards(browser))


def drawing(browser, files):
    browser.run("document.querySelector('input[value=draw]').click()")
    assert text(browser, "#status") == "Draw something." and all(card["seen"] is None for card in cards(browser))
    x, y, side = browser.run(
        "(({ x, y, width }) => [x, y, width])(document.getElementById('paper').getBoundingClientRect())"
    )
    points = [(x + side * across, y + side * down) for across, down in ((0.5, 0.15), (0.5, 0.5), (0.5, 0.85))]
    classify(browser, lambda: browser.drag(*points))
    browser.wait("document.body.dataset.state === 'done'")
    for card, file in zip(cards(browser), files, strict=True):
        agrees_with_python(card, file)
        seen = np.reshape(card["seen"], (8, 8))
        assert seen[2:6, 3:5].min() > 80 and seen[:, [0, 1, 6, 7]].max() == 0, "a white stroke on black"
    browser.run("document.getElementById('clear').click(); document.getElementById('paper').focus()")
    assert all(card["seen"] is None for card in cards(browser))
    for _ in range(6):
        browser.key("ArrowLeft", shift=True)
    assert all(card["seen"] is None for card in cards(browser)), "the pen has only moved"
    classify(browser, lambda: [browser.key("ArrowDown") for _ in range(4)])
    browser.wait("document.body.dataset.state === 'done'")
    seen = np.reshape(cards(browser)[0]["seen"], (8, 8))
    assert seen[4, 2] > 80 and seen[:, 5:].max() == 0
    browser.run("document.getElementById('dark').click()")
    classify(browser, lambda: browser.drag(*points))
    browser.wait("document.body.dataset.state === 'done'")
    seen = np.reshape(cards(browser)[0]["seen"], (8, 8))
    assert seen[:, [0, 1, 6, 7]].min() == 255 and seen[2:6, 3:5].max() < 175, "a black stroke on white"


def camera(browser, where):
    refused = {"permission": {"name": "camera"}, "setting": "denied", "origin": where.rstrip("/")}
    browser.send("Browser.setPermission", **refused)
    browser.run("document.querySelector('input[value=camera]').click()")
    browser.wait("document.getElementById('problem').textContent.startsWith('The camera was refused.')")
    browser.send("Browser.setPermission", **{**refused, "setting": "granted"})
    browser.run("document.getElementById('turn').click()")
    browser.wait("document.querySelector('.time').textContent.endsWith('a picture, live')")
    assert text(browser, "#problem") == "" and text(browser, "#status")
    browser.run("document.getElementById('freeze').click()")
    assert browser.run("document.getElementById('video').paused")
    browser.run("document.querySelector('input[value=file]').click()")
    assert browser.run("document.getElementById('video').srcObject === null")
    time.sleep(0.2)
    assert all(card["names"] == [] for card in cards(browser)), "no frame comes afterwards"


def every_control_has_a_name(browser):
    """As screen readers see it, in every part of the page."""
    browser.send("Accessibility.enable")
    found = set()
    for source in ("draw", "file"):
        browser.run(f"document.querySelector('input[value={source}]').click()")
        for node in browser.send("Accessibility.getFullAXTree")["nodes"]:
            role, name = (node.get(key, {}).get("value", "") for key in ("role", "name"))
            focusable = any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", ()))
            if focusable and not node["ignored"] and role != "RootWebArea":
                assert name, node
                found.add(name)
    assert {"Picture", "Camera", "Draw", "Clear", "Dark background", "Drawing area"} <= found
    browser.send("Accessibility.disable")


def narrow_screens(browser):
    browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    for source in ("draw", "file"):
        browser.run(f"document.querySelector('input[value={source}]').click()")
        assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.send("Emulation.clearDeviceMetricsOverride")


# --- What goes wrong


def what_does_not_load(browser, where, folder):
    without = browser.send("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")
    browser.open(f"{where}?1")
    ready(browser)
    assert text(browser, "#problem").startswith("This browser has no WebAssembly") and cards(browser) == []
    browser.send("Page.removeScriptToEvaluateOnNewDocument", **without)
    second = folder / "models" / "2.tflite"
    content = second.read_bytes()
    expected = "digits_int8 does not load. The file cannot be fetched, or is not the one that this page was made with"
    for damaged in (content[:-100], b"<html>", None):
        second.unlink() if damaged is None else second.write_bytes(damaged)
        browser.open(f"{where}?{damaged and len(damaged)}")
        ready(browser)
        assert text(browser, "#problem").startswith(expected)
        assert [card["title"] for card in cards(browser)] == ["digits_float32"], "which still works"
    (folder / "page.json").unlink()
    browser.open(f"{where}?2")
    ready(browser)
    assert text(browser, "#problem") == "The page's settings, page.json, cannot be fetched."


def without_a_server(browser, folder):
    browser.open(f"file://{folder}/index.html")
    assert text(browser, "#problem").startswith("Browsers do not run this page from a folder.")


def any_batch(network, folder):
    """The file that TensorFlow's converter writes, for any number of images."""
    import tensorflow as tf

    with quiet():
        content = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    (folder / "any_batch.tflite").write_bytes(content)
    return folder / "any_batch.tflite"


def from_the_cdn(browser, where, files, packages, tmp_path):
    write_page(files, tmp_path / "cdn", labels=LABELS, cdn=True)
    urls, contents = runtime.on_cdn(), runtime.contents(packages)
    types = {path: "application/wasm" if path.endswith(".wasm") else "text/javascript" for path in contents}
    browser.answers = {urls[path]: (types[path], content) for path, content in contents.items()}
    browser.intercept("https://cdn.jsdelivr.net/*")
    browser.open(where)
    ready(browser)
    assert text(browser, "#problem") == ""
    classify(browser, lambda: browser.choose("#file", tmp_path / "0.png"))
    for card, file in zip(cards(browser), files, strict=True):
        agrees_with_python(card, file)
    core = urls["core/dist/index.js"]
    browser.answers[core] = ("text/javascript", browser.answers[core][1] + b"\nalert(1);")
    browser.open(f"{where}?changed")
    ready(browser)
    assert text(browser, "#problem").startswith("A part of the runtime cannot be fetched, or is not the one")
