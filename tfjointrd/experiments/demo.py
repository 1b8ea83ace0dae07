"""The whole way on images that need no download: train, shrink, export, compare."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import keras

from tfjointrd import report
from tfjointrd.experiments.catalog import PLAIN
from tfjointrd.experiments.recipes import Recipe
from tfjointrd.experiments.run_folder import Run
from tfjointrd.experiments.runner import run
from tfjointrd.experiments.table import Row, markdown, measure
from tfjointrd.extras import require
from tfjointrd.files import write, write_json
from tfjointrd.progress import Line, Steps

# name in the table -> (folder, network in that folder)
ROWS = {
    "ResNet-20 (teacher)": ("standard", "model"),
    "plain-20 alone": ("plain", "model"),
    "plain-20 by JointRD": ("jointrd", "model"),
    "narrow-20 alone": ("narrow", "model"),
    "AN-20 full": ("adjoined", "full"),
    "AN-20 small": ("adjoined", "small"),
}
METHODS = list(dict.fromkeys(folder for folder, _ in ROWS.values()))


class _OneLine(keras.callbacks.Callback):
    """Progress on one line of the terminal that is written over."""

    def __init__(self, line: Line, title: str, epochs: int):
        super().__init__()
        self.line, self.title, self.steps = line, title, Steps(epochs)

    def on_epoch_begin(self, epoch, logs=None):
        """Begins to count, after a checkpoint not from the first epoch on."""
        if epoch and not self.steps.done:
            self.steps = Steps(self.steps.total, epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Shows how far the training is, and how long the rest takes."""
        text = self.steps.next()
        then = ", measuring" if self.steps.done == self.steps.total else ""
        self.line.write(f"{self.title}: epoch {text}{then}")


def demo(
    out: str | os.PathLike = "demo",
    epochs: int = 15,
    seed: int = 0,
    *,
    verbose: bool = True,
    tensorboard: str | os.PathLike | None = None,
) -> list[Row]:
    """Trains, exports and compares on handwritten digits; prints a table and says where the files are.

    Args:
        out: Folder for networks, files, table and figure. Trainings that are finished there are not repeated.
        epochs: Epochs of each training.
        seed: Seed of weights and data order.
        verbose: Whether to print what is going on; else the table alone is printed.
        tensorboard: A folder for TensorBoard's files, in which each training has a folder of its own.

    Returns:
        The rows of the table.
    """
    require("seaborn")  # now, and not after all trainings
    out, began = Path(out), time.perf_counter()
    runs: dict[str, Run] = {}
    for number, method in enumerate(METHODS, start=1):
        parts = {row: network for row, (folder, network) in ROWS.items() if folder == method}
        line, title = Line(verbose), f"[{number}/{len(METHODS) + 1}] training {' and '.join(parts)}"
        line.write(title)
        fields: dict[str, Any] = {"method": method}
        if method == "jointrd":  # as the recipes of that name
            fields = {**PLAIN["jointrd"], "teacher": str(runs["standard"].path("model"))}
        recipe = Recipe(epochs=epochs, batch_size=64, seed=seed, **fields)
        board = None if tensorboard is None else Path(tensorboard) / method
        callbacks = [_OneLine(line, title, epochs)]
        runs[method] = run(recipe, out / method, verbose=0, callbacks=callbacks, tensorboard=board)
        accuracies = [f"{runs[method].accuracy(network):.4f}" for network in parts.values()]
        line.end(f"{title}: accuracy {' and '.join(accuracies)}")
    rows, line, title = [], Line(verbose), f"[{len(METHODS) + 1}/{len(METHODS) + 1}] measuring files"
    for name, (folder, network) in ROWS.items():
        line.write(f"{title}: {name}")
        rows.append(measure(name, runs[folder], network))
    line.end(title)
    write(out / "table.md", markdown(rows) + "\n")
    write_json(out / "table.json", [row.as_dict() for row in rows])
    report.accuracy_against_cost([row.as_dict() for row in rows], path=out / "accuracy_against_macs.png")
    if not verbose:
        print(markdown(rows))
        return rows
    print(f"\n{markdown(rows)}\n")
    print(f"Networks (.keras), files (.tflite), table and figure are in {out.resolve()}")
    images = runs["standard"].card["data"]["validation_images"]
    print(f"{time.perf_counter() - began:.0f} seconds; digits, {images} validation images, seed {seed}")
    return rows
