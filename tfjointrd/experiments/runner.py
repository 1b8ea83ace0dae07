"""Executes a recipe: trains, keeps a checkpoint an epoch, goes on after an interruption, leaves networks and a card."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from tfjointrd import data, report
from tfjointrd.experiments.recipe import METHODS, Recipe
from tfjointrd.training.base import ScheduledModel
from tfjointrd.training.losses import default_loss

STATE, CARD = "state.json", "card.json"


class Interrupted(KeyboardInterrupt):
    """A training that was stopped by the user; what it had reached is in its checkpoint."""


@dataclass
class Run:
    """A finished training.

    Attributes:
        recipe: What was trained.
        folder: Where its files are.
        networks: The networks to deploy, by name.
        card: What was measured, as in `card.json`.
    """

    recipe: Recipe
    folder: Path
    networks: dict[str, keras.Model]
    card: dict = field(default_factory=dict)

    def path(self, network: str) -> Path:
        """The `.keras` file of a network."""
        return self.folder / f"{network}.keras"


def run(
    recipe: Recipe,
    folder: str | os.PathLike,
    verbose: int | str = "auto",
    note: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Trains by a recipe, or goes on where an interrupted training of the same recipe stopped.

    A finished training is loaded, not repeated.

    Args:
        recipe: What to train.
        folder: Where checkpoint, networks and card go; made if need be.
        verbose: As for `keras.Model.fit`.
        note: What readers of the results should know of the data, for the card.
        callbacks: Further callbacks for `fit`.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: If `folder` holds a training of another recipe.
        PermissionError: If `folder` cannot be written.
        Interrupted: If the user stops it (Ctrl-C); the last epoch's checkpoint is kept.
    """
    folder = Path(folder)
    if not (folder / CARD).exists():
        recipe.check_files()
    _open_folder(recipe, folder)
    if (folder / CARD).exists():
        return finished_run(folder)
    train, validation = data.load(recipe.data, batch_size=recipe.batch_size, seed=recipe.seed)
    model, state = _start(recipe, train, folder)
    _write_json(folder / "recipe.json", recipe.as_dict())
    if state["epochs"] < recipe.epochs:
        train.set_epoch(state["epochs"])
        callbacks = [_Checkpoint(folder, state), keras.callbacks.TerminateOnNaN(), *callbacks]
        _fit(model, recipe, train, validation, folder, state, callbacks, verbose)
    return _finish(recipe, model, train, validation, folder, state, note)


def finished_run(folder: str | os.PathLike) -> Run:
    """Loads a finished training.

    Args:
        folder: The folder that `run` was given.

    Raises:
        FileNotFoundError: If `folder` holds no finished training.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"Expected a folder with a finished training ({CARD}). Received: folder='{folder}'.")
    card = json.loads((folder / CARD).read_text())
    networks = {name: keras.saving.load_model(folder / f"{name}.keras", compile=False) for name in card["networks"]}
    return Run(Recipe(**card["recipe"]), folder, networks, card)


def _open_folder(recipe: Recipe, folder: Path) -> None:
    """Makes the folder, and refuses one that holds another training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise PermissionError(
            f"Expected a folder that can be written. Received: folder='{folder}' ({error})."
        ) from None
    kept = folder / "recipe.json"
    if kept.exists():
        other = json.loads(kept.read_text())
        differing = {key for key, value in recipe.as_dict().items() if other.get(key) != value}
        if differing:
            changes = ", ".join(f"{key}={other.get(key)!r}" for key in sorted(differing))
            raise ValueError(
                f"Expected a new folder, or one of the same recipe. Received: folder='{folder}', which holds a "
                f"training with {changes}."
            )


def _start(recipe: Recipe, train, folder: Path) -> tuple[keras.Model, dict]:
    """The model to train and how far it is: from the checkpoint, if there is one."""
    if (folder / STATE).exists():
        state = json.loads((folder / STATE).read_text())
        return keras.saving.load_model(folder / state["checkpoint"]), state
    keras.utils.set_random_seed(recipe.seed)
    model = recipe.trainer(train.info)
    loss = None if isinstance(model, ScheduledModel) else default_loss(model)  # the methods bring their own
    model.compile(optimizer=recipe.optimizer(recipe.epochs * len(train)), loss=loss, metrics=["accuracy"])
    return model, {"epochs": 0, "history": [], "seconds": 0.0}


class _Checkpoint(keras.callbacks.Callback):
    """Saves model, optimizer and history after each epoch; the old checkpoint goes only once the new one is whole."""

    def __init__(self, folder: Path, state: dict):
        super().__init__()
        self.folder, self.state = folder, state

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Saves."""
        previous = self.state.get("checkpoint")
        self.state["seconds"] += time.perf_counter() - self.began
        self.state["history"].append({key: float(value) for key, value in (logs or {}).items()})
        self.state["epochs"] = epoch + 1
        self.state["checkpoint"] = f"checkpoint_{epoch + 1}.keras"
        self.model.save(self.folder / self.state["checkpoint"])
        _write_json(self.folder / STATE, self.state)
        if previous:
            (self.folder / previous).unlink(missing_ok=True)


def _fit(model, recipe: Recipe, train, validation, folder: Path, state: dict, callbacks, verbose) -> None:
    try:
        model.fit(
            train,
            validation_data=validation,
            epochs=recipe.epochs,
            initial_epoch=state["epochs"],
            callbacks=callbacks,
            verbose=verbose,
        )
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped in epoch {state['epochs'] + 1} of {recipe.epochs}. "
            f"The checkpoint of {state['epochs']} finished epochs is in {folder}; the same command goes on from there."
        ) from None
    if state["epochs"] < recipe.epochs:
        raise ArithmeticError(
            f"The loss became NaN in epoch {state['epochs']}. Lower `learning_rate` (now {recipe.learning_rate}) and "
            "start in a new folder."
        )


def _finish(recipe: Recipe, model, train, validation, folder: Path, state: dict, note: str) -> Run:
    """Takes the networks out, measures them, and writes files and card."""
    networks = METHODS[recipe.method].networks(model)
    entries = {}
    for name, network in networks.items():
        network.save(folder / f"{name}.keras")
        profile = report.profile(network)
        entries[name] = {
            "accuracy": accuracy(network, validation),
            "parameters": profile.parameters,
            "macs": profile.macs,
            "peak_activation_bytes": profile.peak_activation_bytes,
            "keras_bytes": (folder / f"{name}.keras").stat().st_size,
        }
    card = {
        "recipe": recipe.as_dict(),
        "data": train.info.name,
        "note": note or train.info.note,
        "networks": entries,
        "history": state["history"],
        "seconds": round(state["seconds"], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        },
    }
    _write_json(folder / CARD, card)
    (folder / state["checkpoint"]).unlink(missing_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    return Run(recipe, folder, networks, card)


def accuracy(network: keras.Model, pipeline) -> float:
    """The share of images of a pipeline that a classifier gets right."""
    right = total = 0
    for images, labels in pipeline:
        predicted = np.argmax(network.predict_on_batch(np.asarray(images)), axis=-1)
        right += int(np.sum(predicted == np.asarray(labels)))
        total += len(predicted)
    return right / total


def _write_json(path: Path, content: dict) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, path)
