"""The whole way on images that need no download: train, shrink, export, compare."""

from __future__ import annotations

import os
import time
from pathlib import Path

import keras

from tfjointrd import report
from tfjointrd.experiments.catalog import PLAIN
from tfjointrd.experiments.recipes import Recipe
from tfjointrd.experiments.run_folder import Run
from tfjointrd.experiments.runner import run
from tfjointrd.experiments.table import Row, markdown, measure
from tfjointrd.files import write, write_json

# name in the table -> (folder, network in that folder)
ROWS = {
    "ResNet-20 (teacher)": ("standard", "model"),
    "plain-20 alone": ("plain", "model"),
    "plain-20 by JointRD": ("jointrd", "model"),
    "narrow-20 alone": ("narrow", "model"),
    "AN-20 full": ("adjoined", "full"),
    "AN-20 small": ("adjoined", "small"),
}


METHODS = ("standard", "plain", "jointrd", "narrow", "adjoined")


class _OneLine(keras.callbacks.Callback):
    """Progress on one line of the terminal that is written over."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_epoch_end(self, epoch, logs=None):
        """Shows how far the training is."""
        print(f"\r{self.title}: epoch {epoch + 1}/{self.params['epochs']}", end="", flush=True)


def demo(out: str | os.PathLike = "demo", epochs: int = 15, seed: int = 0) -> list[Row]:
    """Trains, exports and compares on handwritten digits; prints a table and says where the files are.

    Args:
        out: Folder for networks, files, table and figure. Trainings that are finished there are not repeated.
        epochs: Epochs of each training.
        seed: Seed of weights and data order.

    Returns:
        The rows of the table.
    """
    out, began = Path(out), time.perf_counter()
    runs: dict[str, Run] = {}
    for number, method in enumerate(METHODS, start=1):
        title = f"[{number}/6] training {method}"
        print(title, end="", flush=True)
        own = {"method": method}
        if method == "jointrd":  # as the recipes of that name
            own = {**PLAIN["jointrd"], "teacher": str(runs["standard"].path("model"))}
        recipe = Recipe(epochs=epochs, batch_size=64, seed=seed, **own)
        runs[method] = run(recipe, out / method, verbose=0, callbacks=[_OneLine(title)])
        accuracies = [f"{name} {runs[method].accuracy(name):.4f}" for name in runs[method].networks]
        print(f"\r{title}: accuracy of {', '.join(accuracies)}", flush=True)
    print("[6/6] measuring files", flush=True)
    rows = [measure(name, runs[folder], network) for name, (folder, network) in ROWS.items()]
    write(out / "table.md", markdown(rows) + "\n")
    write_json(out / "table.json", [row.as_dict() for row in rows])
    report.accuracy_against_cost([row.as_dict() for row in rows], path=out / "accuracy_against_macs.png")
    print(f"\n{markdown(rows)}\n")
    print(f"Networks (.keras), files (.tflite), table and figure are in {out.resolve()}")
    images = runs["standard"].card["data"]["validation_images"]
    print(f"{time.perf_counter() - began:.0f} seconds; digits, {images} validation images, seed {seed}")
    return rows
