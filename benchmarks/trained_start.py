"""A trained network made half as costly, by five ways: accuracy after a short training, files, and milliseconds.

    python benchmarks/trained_start.py NETWORK.keras DATA --out FOLDER --image-size 128 --epochs 3

NETWORK is a trained network for pixels from 0 to 255, DATA a data set as `tfjointrd.data.load` takes it. The network
first gets a new classifier and learns the data set (`--first-epochs`). Each way then begins with these weights, leaves
half of the multiply-accumulates and trains for the same epochs, by SGD with momentum 0.9 and a learning rate that
falls from 0.01 along a cosine:

- pruned by the L2 norm, and by Taylor's criterion on training images, channels of all layers ranked together;
- adjoined, channels sorted by their L2 norm or not, each layer narrowed by the same part;
- the same narrow network with new weights (learning rate from 0.05).

No setting was chosen by the results. FOLDER keeps the networks and a `rows.json`; a way that is finished is not run
again, so that an interrupted benchmark goes on with the next one. A row: multiply-accumulates and parameters as parts
of the network's, accuracy right at the start and after training, accuracy of the float32 and the int8 file, their
bytes, and the median milliseconds of an image on one thread (files take turns in one process).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import tfjointrd as jrd
from tfjointrd.data.batches import accuracy
from tfjointrd.files import replacing
from tfjointrd.surgery import prune_architecture

PART = 0.5


def ways(network: keras.Model, images) -> dict:
    """Name -> a function that makes the training and one that takes the small network from it."""
    uniform = prune_architecture(network, "l2", target_macs=PART, scope="layer", min_channels=8)
    widths = {layer: len(kept) for layer, kept in uniform["kept"].items()}

    def itself(small):
        return small

    def small_of(pair):
        return pair.small()

    return {
        "pruned, L2": (lambda: jrd.prune(network, "l2", target_macs=PART), itself),
        "pruned, Taylor": (lambda: jrd.prune(network, "taylor", target_macs=PART, data=images), itself),
        "adjoined, sorted by L2": (lambda: jrd.adjoin(network, widths=widths, order="l2"), small_of),
        "adjoined, not sorted": (lambda: jrd.adjoin(network, widths=widths), small_of),
        "narrow, new weights": (lambda: with_new_weights(jrd.slim(network, uniform["kept"])), itself),
    }


def with_new_weights(network: keras.Model) -> keras.Model:
    """The same network, initialised anew."""
    keras.utils.set_random_seed(0)
    return keras.models.clone_model(network)


def fit(model: keras.Model, train, epochs: int, highest: float) -> None:
    """Trains by SGD, with a learning rate that falls along a cosine."""
    decay = keras.optimizers.schedules.CosineDecay(highest, epochs * len(train))
    model.compile(keras.optimizers.SGD(decay, momentum=0.9, nesterov=True), **loss_of(model))
    model.fit(train, epochs=epochs, verbose=0)


def loss_of(model: keras.Model) -> dict:
    """Trainings of this package choose the loss by themselves."""
    own = isinstance(model, jrd.Adjoined)
    return {} if own else {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}


def measured(network: keras.Model, full: keras.Model, folder: Path, name: str, data) -> dict:
    """What a network and its files reach and cost."""
    train, test = data
    before, cost = jrd.report.profile(full), jrd.report.profile(network)
    row = {
        "macs": cost.macs / before.macs,
        "parameters": cost.parameters / before.parameters,
        "accuracy": accuracy(network.predict_on_batch, test),
    }
    for form in ("float32", "int8"):
        path = folder / f"{name.replace(', ', '_').replace(' ', '_')}_{form}.tflite"
        file = jrd.export.tflite(
            network, path, None if form == "float32" else form, representative_data=train, min_agreement=0.0
        )
        row |= {
            f"accuracy_{form}": jrd.export.accuracy(path, test),
            f"bytes_{form}": file.bytes,
            f"file_{form}": path.name,
        }
    return row


def timed(rows: dict, folder: Path, runs: int) -> None:
    """Milliseconds of all files, which take turns."""
    for form in ("float32", "int8"):
        found = jrd.report.latencies([folder / row[f"file_{form}"] for row in rows.values()], threads=1, runs=runs)
        for row, one in zip(rows.values(), found, strict=True):
            row[f"ms_{form}"] = one.median_ms


def print_rows(rows: dict) -> None:
    """The table, in Markdown."""
    print("| network | MACs | parameters | start % | trained % | float32 % | int8 % | KiB of both | ms of both |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        percents = (f"{100 * row[key]:.2f}" for key in ("start", "accuracy", "accuracy_float32", "accuracy_int8"))
        sizes = ", ".join(f"{row[f'bytes_{form}'] / 1024:,.0f}" for form in ("float32", "int8"))
        times = ", ".join(f"{row[f'ms_{form}']:.2f}" for form in ("float32", "int8"))
        print(f"| {name} | {row['macs']:.3f} | {row['parameters']:.3f} | {' | '.join(percents)} | {sizes} | {times} |")


def main() -> None:
    """Trains what is not there yet, times the files, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("data")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--first-epochs", type=int, default=3)
    parser.add_argument("--runs", type=int, default=100, help="timed runs of each file")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    train, test = jrd.data.load(arguments.data, arguments.batch_size, image_size=arguments.image_size)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store, start = arguments.out / "rows.json", arguments.out / "network.keras"
    rows = json.loads(store.read_text()) if store.is_file() else {}
    if not start.is_file():
        given = keras.saving.load_model(arguments.network, compile=False)
        network = jrd.new_head(given, train.info.num_classes, train.info.input_shape)
        fit(network, train, arguments.first_epochs, 0.01)
        with replacing(start) as part:
            network.save(part)
    network = keras.saving.load_model(start, compile=False)
    images = [train.batch(number) for number in range(16)]
    made = {"the network": (lambda: network, lambda one: one), **ways(network, images)}
    for name, (make, take) in made.items():
        if name in rows:
            continue
        keras.utils.set_random_seed(0)
        began, model = time.perf_counter(), make()
        at_start = accuracy(take(model).predict_on_batch, test)
        if model is not network:
            fit(model, train, arguments.epochs, 0.05 if "new weights" in name else 0.01)
        rows[name] = {"start": at_start, **measured(take(model), network, arguments.out, name, (train, test))}
        with replacing(store) as part:
            part.write_text(json.dumps(rows, indent=1))
        print(f"{name}: {100 * rows[name]['accuracy']:.2f} %, {time.perf_counter() - began:.0f} s", flush=True)
    timed(rows, arguments.out, arguments.runs)
    print_rows(rows)


if __name__ == "__main__":
    main()
