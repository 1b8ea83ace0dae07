"""The folder of a training: who may work in it, what it is of, and what is in it when the training is finished."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import keras

from tfjointrd import data
from tfjointrd.experiments import card as cards
from tfjointrd.experiments.networks import load_network
from tfjointrd.experiments.recipes import Recipe
from tfjointrd.files import write_json

SCHEMA = 1
RECIPE, LOCK = "recipe.json", ".lock"
_WEIGHTS = "model.weights.h5"  # of a `.keras` file
ARCHITECTURE = "architecture.json"  # the widths that a search has found, or the channels that pruning has kept


@dataclass
class Run:
    """A finished training.

    Attributes:
        recipe: What was trained; of several seeds, with the first one.
        folder: Where its files are.
        networks: The networks to deploy, by name.
        card: What was measured, as in `card.json`; see `tfjointrd.experiments.card`.
    """

    recipe: Recipe
    folder: Path
    networks: dict[str, keras.Model]
    card: dict = field(default_factory=dict)

    def path(self, network: str) -> Path:
        """The `.keras` file of a network."""
        return find_file(self.folder, f"{network}.keras", self.recipe.seed)

    def accuracy(self, network: str, form: str = "keras") -> float:
        """Top-1 on the validation images after the last epoch, mean over the seeds.

        Args:
            network: The network's name.
            form: The number format of its files; by default the network itself, in Keras.
        """
        found = (entry["accuracy"][network] for entry in self.card["seeds"].values())
        values = [accuracies[form] for accuracies in found if form in accuracies]
        return sum(values) / len(values)


@contextmanager
def locked(folder: Path, timeout: float = 1.0) -> Iterator[None]:
    """Makes a folder and keeps other processes out, until the end or until this process dies.

    Args:
        folder: The folder.
        timeout: Seconds to wait for another process that looks in for a moment.

    Raises:
        PermissionError: If it cannot be written.
        BlockingIOError: If another process works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, timeout=timeout)
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            f"Expected a folder in which nothing is trained at the moment. Received: folder='{folder}', which another "
            "process has locked. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise _cannot_be_written(folder, error) from None
    try:
        yield
    finally:
        lock.release()  # the file stays: deleting it could give two processes a lock each


def check_free(folder: Path) -> None:
    """Refuses, before any work and without making anything, a folder that `locked` would refuse.

    Raises:
        PermissionError: If it cannot be written.
        BlockingIOError: If another process works in it.
    """
    if (folder / LOCK).exists():
        with locked(folder):
            return
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise _cannot_be_written(folder, f"'{place}' is {'not writable' if place.is_dir() else 'a file'}")


def _cannot_be_written(folder: Path, why: object) -> PermissionError:
    return PermissionError(f"Expected a folder that can be written. Received: folder='{folder}' ({why}).")


def is_locked(folder: Path) -> bool:
    """Whether a process works in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            return False
    except (filelock.Timeout, OSError):
        return True


def claim(recipe: Recipe, folder: Path) -> None:
    """Writes into a folder what is trained in it, and which networks it begins with."""
    write_json(folder / RECIPE, {"schema": SCHEMA, "recipe": recipe.as_dict(), "files": _contents(recipe)})


def _contents(recipe: Recipe) -> dict[str, int]:
    """What tells the networks apart that a recipe names by their files: the checksum of weights and optimizer."""
    found = {}
    for name in ("network", "teacher", "widths"):
        path = recipe.get(name)
        if path and path.endswith(".keras") and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if _WEIGHTS in parts.namelist():
                    found[name] = parts.getinfo(_WEIGHTS).CRC
    return found


def _found_again(recipe: Recipe, held: dict, contents: dict[str, int], folder: Path) -> Recipe:
    """The recipe with the paths that a folder's training had, where their networks are the same.

    Raises:
        ValueError: If a file of the same path holds another network.
    """
    for name, content in _contents(recipe).items():
        path = held.get(name)
        if contents.get(name) == content:
            same: dict[str, Any] = {name: path}
            recipe = replace(recipe, **same)
        elif name in contents and path == recipe.get(name):
            raise ValueError(
                f"Expected a new folder, or the networks that its training began with. Received: folder='{folder}', "
                f"and {name}='{path}', which has changed since."
            )
    return recipe


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuses a folder that holds another training, finished or not, or one of another version.

    Raises:
        ValueError: If it does.
    """
    if (folder / RECIPE).exists():
        found = json.loads((folder / RECIPE).read_text())
        if found.get("schema") != SCHEMA:
            raise ValueError(
                f"Expected a new folder, or one that this version of tfjointrd wrote (schema {SCHEMA}). "
                f"Received: folder='{folder}' of schema {found.get('schema')}."
            )
        held = cards.completed(found["recipe"])
        recipe = _found_again(recipe, held, found.get("files", {}), folder)
        differing = cards.differences(held, recipe.as_dict())
        if differing:
            longer = _longer(folder, recipe) if {**held, "epochs": recipe.epochs} == recipe.as_dict() else ""
            raise ValueError(
                f"Expected a new folder, or one of the same recipe. Received: folder='{folder}', which holds a "
                f"training with {differing}.{longer}"
            )
    if (folder / cards.CARD).exists():
        seeds = cards.read(folder, recipe)["seeds"]
        if str(recipe.seed) != min(seeds, key=int):
            raise ValueError(
                f"Expected a new folder, or one of the same recipe. Received: folder='{folder}', which holds a "
                f"training with seed={', '.join(seeds)}."
            )


def _longer(folder: Path, recipe: Recipe) -> str:
    """How to train for another number of epochs than a folder's training, for a message."""
    text = (
        " A training does not become longer or shorter: its learning rate follows a schedule over all epochs. "
        f"Train for {recipe.epochs} epochs in a new folder"
    )
    for file, method in (("model.keras", "standard"), ("full.keras", "adjoined")):
        if (folder / file).is_file():
            text += (
                f", or from the weights that it has: method='{method}', network='{folder / file}', on a new schedule"
            )
    return f"{text}."


def finished_run(folder: str | os.PathLike) -> Run:
    """Loads a finished training.

    Args:
        folder: The folder that `run` was given.

    Raises:
        FileNotFoundError: If `folder` holds no finished training, or not its networks.
        ValueError: If its card does not have the form of a card.
    """
    folder = Path(folder)
    card = cards.read(folder)
    recipe = Recipe(**card["recipe"], seed=int(min(card["seeds"], key=int)))
    paths = {name: find_file(folder, f"{name}.keras", recipe.seed) for name in card["networks"]}
    networks = {name: load_network(path) for name, path in paths.items()}
    return Run(recipe, folder, networks, card)


def complete(folder: Path, data_file: str | os.PathLike | None = None) -> Run:
    """Loads a finished training; where it could not export its networks, for want of TensorFlow, they are now.

    Args:
        folder: The folder that `run` was given.
        data_file: As for `run`.

    Raises:
        FileNotFoundError: If `folder` holds no finished training, or not its networks.
        BlockingIOError: If another process does the same.
    """
    finished = finished_run(folder)
    if not cards.lacks_files(finished.card):
        return finished
    try:
        with locked(folder):
            images = load_data(finished.recipe, augment=False, data_file=data_file)
            finished.card = cards.add_files(finished.card, finished.networks, folder, images.train, images.scored)
            cards.write(folder, finished.card)
    except (OSError, ImportError, ValueError) as error:  # above all, data that are not here
        if isinstance(error, BlockingIOError):
            raise
        print(f"The networks were not exported: {error}")
    return finished


def already(finished: Run, note: str) -> str:
    """That nothing was trained, and what the training was that is in the folder."""
    card = finished.card
    dates = sorted(entry["finished"][:10] for entry in card["seeds"].values())
    kept = " Its card keeps its own note." if note and note not in card["data"]["note"] else ""
    return (
        f"{finished.folder} holds this training, finished on {dates[-1]} with {card['data']['train_images']} training "
        f"images. Nothing was trained.{kept} For a new training, name another folder."
    )


class Images(NamedTuple):
    """The images of a training.

    Attributes:
        train: Those that it learns from.
        validation: Those that are looked at after each epoch.
        scored: Those that the accuracies of the finished training are measured on.
    """

    train: data.Pipeline
    validation: data.Pipeline
    scored: data.Pipeline

    def copy(self) -> Images:
        """The same images, which are not read again, from the first epoch on."""
        return Images(*(pipeline.copy() for pipeline in self))


def load_data(recipe: Recipe, augment: bool | None = None, data_file: str | os.PathLike | None = None) -> Images:
    """The images of a recipe.

    Args:
        recipe: The recipe.
        augment: Overrides the recipe's augmentation.
        data_file: An `.npz` file from which to read the recipe's data set; see `tfjointrd.data.load`.

    Raises:
        ValueError: As for `tfjointrd.data.load`, or if the part for validation cannot be held out.
    """
    train, test = data.load(
        recipe.data,
        recipe.batch_size,
        augment=recipe.augment if augment is None else augment,
        seed=recipe.seed,
        image_size=recipe.image_size,
        data_file=data_file,
    )
    if train.info.num_classes < 2:
        only = f" ('{train.info.class_names[0]}')" if train.info.class_names else ""
        raise ValueError(f"Expected images of two classes or more. Received: '{recipe.data}' with one{only}.")
    validation = test
    if recipe.held_out_for_validation:
        try:
            validation = train.hold_out(recipe.held_out_for_validation, by_content=True).unaugmented()
        except ValueError as error:
            raise ValueError(f"{error} (`held_out_for_validation` of the recipe)") from None
    if recipe.images:
        for pipeline in (train, validation, test):
            pipeline.limit(recipe.images)
    return Images(train, validation, validation if recipe.scored_on == "held_out" else test)


def find_file(folder: Path, name: str, seed: int) -> Path:
    """A file of a network: beside the card, or, where it is large, in the folder of its seed.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    for path in (folder / name, seed_folder(folder, seed) / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"Expected '{folder}' to hold {name}, which its card lists. Received: no such file.")


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one of the trainings of a recipe is."""
    return folder / f"seed{seed}"
