"""Every number format of `.tflite` files by both converters: accuracy, bytes and milliseconds of trained networks.

    TFDS_DATA_DIR=... python benchmarks/quantization.py saved_models/*_cifar10/*.keras
    python benchmarks/quantization.py efficientnet_lite0_imagenet.keras --photographs imagenette/ --images 1000

A row says how many points of top-1 accuracy a file loses against the network's float32 file on the same images, and the
milliseconds of an image on one thread; all files of a network take turns. int16x8, which runs without XNNPACK and is
slow, is measured on fewer images (`--slow-images`). Files are calibrated on 128 training images. `--aware EPOCHS` adds
a file after quantisation-aware training, for which sets of small images are augmented.

`--photographs` reads `train/` and `val/`, one folder a class, and enlarges photographs to the network's size (bicubic).
The classes are those of Imagenette; a network with 1,000 outputs is asked which of the ten it is.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image

import tfjointrd as jrd
from tfjointrd.data.batches import batches
from tfjointrd.export.quantize import registered

IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # of ImageNet's classes
SLOW = ("int16x8",)
HEAD = ("network", "format", "converter", "KiB", "top-1 %", "loses", "images", "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help=".keras files")
    parser.add_argument("--data", default="cifar10", help="data set of the networks")
    parser.add_argument("--photographs", type=Path, help="folder of photographs in place of --data")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--slow-images", type=int, default=1000, help="test images for int16x8")
    parser.add_argument("--formats", nargs="*", default=list(registered()), help="number formats")
    parser.add_argument(
        "--by-layer", nargs="+", default=[], help='also formats by layer, as {"*": "int4", "stem*": "int8"}'
    )
    parser.add_argument("--aware", type=int, default=0, help="epochs of quantisation-aware training, for one more row")
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each file")
    arguments = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    for path in arguments.networks:
        network = keras.models.load_model(path, compile=False)
        if arguments.photographs:
            train, test = (photographs(arguments.photographs / part, network) for part in ("train", "val"))
        else:
            train, test = jrd.data.load(arguments.data, augment=False, image_size=network.input_shape[1])
        parts = Path(path).resolve().parts[-2:]
        name = parts[0] if parts[1] == "model.keras" else "/".join(parts).removesuffix(".keras")
        for row in measured(network, train, test, arguments):
            print("| " + " | ".join([name, *row]) + " |", flush=True)


def measured(network: keras.Model, train, test, arguments) -> Iterator[list[str]]:
    """The rows of one network."""
    classes = IMAGENETTE if arguments.photographs and network.output_shape[-1] == 1000 else None
    rows, right = [], {}
    with tempfile.TemporaryDirectory() as folder:
        saved, calibration = Path(folder) / "saved", sampled(train)
        for name, converter, quantization in wanted(arguments):
            path, options = Path(folder) / f"{len(rows)}.tflite", {"min_agreement": 0.0, "saved_model": saved}
            try:
                report = jrd.export.tflite(network, path, quantization, calibration, converter=converter, **options)
            except ValueError as error:
                yield [name, converter, f"not written: {error}", *[""] * 4]
                continue
            count = arguments.slow_images if name in SLOW else arguments.images
            right[name, converter] = hits(path, test, count, classes)
            rows.append((name, converter, report))
        if arguments.aware:
            name, path = f"int8, {arguments.aware} epochs aware", Path(folder) / "aware.tflite"
            learnt = train if arguments.photographs else jrd.data.load(arguments.data, augment=True)[0]
            report = jrd.export.quantization_aware(network, learnt, epochs=arguments.aware).tflite(path)
            right[name, "tensorflow"] = hits(path, test, arguments.images, classes)
            rows.append((name, "tensorflow", report))
        timed = jrd.report.latencies([report.path for _, _, report in rows], runs=arguments.runs)
        for (name, converter, report), latency in zip(rows, timed, strict=True):
            found = right[name, converter]
            loses = np.mean(right["float32", "tensorflow"][: len(found)]) - np.mean(found)
            yield [
                *(name, converter, f"{report.bytes / 1024:.0f}", f"{100 * np.mean(found):.2f}"),
                *(f"{100 * loses:+.2f}", str(len(found)), f"{latency.median_ms:.3f}"),
            ]


def wanted(arguments) -> Iterator[tuple]:
    """What to call each file, its converter, and what `export.tflite` takes for it."""
    for name, converters in registered().items():
        for converter in converters if name in ("float32", *arguments.formats) else ():
            yield name, converter, None if name == "float32" else name
    for text in arguments.by_layer:
        yield text, "litert", json.loads(text)


def hits(path: Path, test, count: int, classes: list[int] | None) -> np.ndarray:
    """For each of the first images, whether the file names its class."""
    file, found = jrd.export.TFLiteModel(path), []
    for images, labels in batches(test):
        outputs = file.predict(images[: count - len(found)])
        outputs = outputs if classes is None else outputs[:, classes]
        found.extend(outputs.argmax(-1) == np.reshape(labels, -1)[: len(outputs)])
        if len(found) == count:
            break
    return np.array(found)


def sampled(train) -> np.ndarray:
    """256 training images, half of which files are calibrated on."""
    images = []
    for x, _ in batches(train):
        images.extend(np.asarray(x[: 256 - len(images)], "float32"))
        if len(images) == 256:
            break
    return np.stack(images)


def photographs(folder: Path, network: keras.Model) -> Iterator:
    """Batches of photographs and labels, the classes in turn; a function, so that it can be read again."""
    files = [sorted(part.iterdir()) for part in sorted(folder.iterdir())]
    order = [
        (part[place], label)
        for place in range(max(map(len, files)))
        for label, part in enumerate(files)
        if place < len(part)
    ]
    size = network.input_shape[1:3]

    def read():
        for start in range(0, len(order), 50):
            chosen = order[start : start + 50]
            opened = (
                Image.open(file).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC) for file, _ in chosen
            )
            yield np.stack([np.asarray(image, "float32") for image in opened]), np.array([label for _, label in chosen])

    return read


if __name__ == "__main__":
    main()
