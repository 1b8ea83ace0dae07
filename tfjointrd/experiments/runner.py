"""Executes a recipe: trains, keeps checkpoints, goes on after an interruption, leaves networks and a card."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import keras

from tfjointrd import data
from tfjointrd.experiments import card as cards
from tfjointrd.experiments.checkpoint import Checkpoint, Checkpoints, write_json
from tfjointrd.experiments.keeper import Interrupted, Keeper, State, polite_signals
from tfjointrd.experiments.recipe import METHODS, Recipe
from tfjointrd.training import distribute, resident
from tfjointrd.training.base import ScheduledModel
from tfjointrd.training.losses import default_loss

SCHEMA = 1
RECIPE, LOCK = "recipe.json", ".lock"
XLA_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclass
class Run:
    """A finished training.

    Attributes:
        recipe: What was trained.
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
        return network_path(self.folder, network, self.recipe.seed)

    def accuracy(self, network: str) -> float:
        """Top-1 of a network on the validation images after the last epoch, mean over the seeds."""
        values = [entry["accuracy"][network]["keras"] for entry in self.card["seeds"].values()]
        return sum(values) / len(values)


def run(
    recipe: Recipe,
    folder: str | os.PathLike,
    verbose: int | str = "auto",
    note: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    teacher: str | os.PathLike | None = None,
    minutes: float = 5.0,
    deterministic: bool = True,
    group: distribute.Single | distribute.Processes | None = None,
    command: str = "",
) -> Run:
    """Trains by a recipe, or goes on where an interrupted training of the same recipe stopped.

    A finished training is loaded, not repeated. An interrupted one, however it ended, goes on from its newest
    checkpoint to the very result, bit for bit, that it would have had (on the same machine and backend).

    Args:
        recipe: What to train.
        folder: Where checkpoints, networks and card go; made if need be.
        verbose: As for `keras.Model.fit`.
        note: What readers of the results should know of the data, for the card.
        callbacks: Further callbacks for `fit`.
        teacher: The `.keras` file of the teacher, where `recipe.teacher` is the name of a recipe.
        minutes: A checkpoint is taken after each epoch, and within an epoch after so many minutes.
        deterministic: Whether to allow only operations whose results repeat bit by bit, for the rest of the process:
            `tf.config.experimental.enable_op_determinism` on TensorFlow; a flag of XLA on JAX, which takes effect if
            nothing was computed before.
        group: The devices or processes that train together, from `tfjointrd.training.distribute`. All processes call
            `run` with a folder that all of them see; the first one writes.
        command: The command line to repeat it with, for the card.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: If `folder` holds a training of another recipe or version, or a checkpoint of another network.
        PermissionError: If `folder` cannot be written.
        BlockingIOError: If another process trains in `folder`.
        Interrupted: If the user stops it (Ctrl-C) or the machine does (SIGTERM).
        ArithmeticError: If the loss becomes NaN.
        RuntimeError: If data cannot be read. In these three cases the last checkpoint is kept.
        OSError: If a checkpoint cannot be written, on a full disk for example; those before are kept.
    """
    folder = Path(folder)
    if (folder / cards.CARD).exists():
        check_recipe(recipe, folder)
        return complete(recipe, folder)
    group = group or distribute.Single()
    resolved = replace(recipe, teacher=str(teacher)) if teacher else recipe
    resolved.check_files()
    with locked(folder) if group.chief else nullcontext():
        check_recipe(recipe, folder)
        if (folder / cards.CARD).exists():  # finished by another process in between
            return finished_run(folder)
        _make_repeatable(recipe.seed, deterministic)
        pipelines = load_data(recipe)
        train, validation = (group.share(pipeline) for pipeline in pipelines)
        with group.scope():
            model = _compiled(resolved, train)
            state, checkpoint = _state(model, train, folder)
            if not group.same((state.epoch, state.position)):
                raise ValueError(f"Expected a folder that all processes see. Received: folder='{folder}'.")
            if group.chief:
                write_json(folder / RECIPE, {"schema": SCHEMA, "recipe": recipe.as_dict()})
            if state.epoch < recipe.epochs:
                keeper = Keeper(Checkpoints(folder), state, checkpoint, minutes, writes=group.chief)
                fit = _fit_resident if _fits_device(train, group) else _fit
                verbose = verbose if group.chief else 0
                with _explained(recipe, keeper, train, validation):
                    fit(model, recipe, train, validation, keeper, [keeper, *callbacks], verbose)
        if group.chief:
            with group.alone():
                _finish(recipe, model, pipelines[1], folder, state, note, command, group)
        group.wait(f"{folder} is finished")
    with group.alone():
        return finished_run(folder)


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
    paths = {name: network_path(folder, name, recipe.seed) for name in card["networks"]}
    networks = {name: keras.saving.load_model(path, compile=False) for name, path in paths.items()}
    return Run(recipe, folder, networks, card)


def complete(recipe: Recipe, folder: Path) -> Run:
    """Loads a finished training; where it could not export its networks, for want of TensorFlow, they are now.

    Args:
        recipe: The recipe.
        folder: The folder that `run` was given.

    Raises:
        FileNotFoundError: If `folder` holds no finished training, or not its networks.
        BlockingIOError: If another process does the same.
    """
    finished = finished_run(folder)
    if cards.lacks_files(finished.card):
        pipelines = load_data(recipe, augment=False)
        with locked(folder):
            finished.card = cards.add_files(finished.card, finished.networks, folder, *pipelines)
            cards.write(folder, finished.card)
    return finished


def network_path(folder: Path, network: str, seed: int) -> Path:
    """The `.keras` file of a network: beside the card, or, where it is large, in the folder of its seed.

    Raises:
        FileNotFoundError: If it is in neither.
    """
    name = f"{network}.keras"
    for path in (folder / name, seed_folder(folder, seed) / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"Expected '{folder}' to hold {name}, which its card lists. Received: no such file.")


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one of the trainings of a recipe is."""
    return folder / f"seed{seed}"


def load_data(recipe: Recipe, augment: bool | None = None) -> tuple[data.Pipeline, data.Pipeline]:
    """The training and validation images of a recipe.

    Args:
        recipe: The recipe.
        augment: Overrides the recipe's augmentation.
    """
    augment = recipe.augment if augment is None else augment
    pipelines = data.load(recipe.data, batch_size=recipe.batch_size, seed=recipe.seed, augment=augment)
    for pipeline in pipelines if recipe.images else ():
        pipeline.limit(recipe.images)
    return pipelines


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other processes out, until the end or until this process dies.

    Raises:
        PermissionError: If it cannot be written.
        BlockingIOError: If another process is in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            f"Expected a folder in which nothing is trained at the moment. Received: folder='{folder}', which another "
            "process has locked. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise PermissionError(
            f"Expected a folder that can be written. Received: folder='{folder}' ({error})."
        ) from None
    try:
        yield
    finally:
        lock.release()  # the file stays: deleting it could give two processes a lock each


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuses a folder that holds another training, or one of another version.

    Raises:
        ValueError: If it does.
    """
    kept = folder / RECIPE
    if not kept.exists():
        return
    found = json.loads(kept.read_text())
    if found.get("schema") != SCHEMA:
        raise ValueError(
            f"Expected a new folder, or one that this version of tfjointrd wrote (schema {SCHEMA}). "
            f"Received: folder='{folder}' of schema {found.get('schema')}."
        )
    differing = cards.differences(found["recipe"], recipe.as_dict())
    if differing:
        raise ValueError(
            f"Expected a new folder, or one of the same recipe. Received: folder='{folder}', which holds a "
            f"training with {differing}."
        )


def _make_repeatable(seed: int, deterministic: bool) -> None:
    keras.utils.set_random_seed(seed)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif (
        deterministic and keras.backend.backend() == "jax" and XLA_DETERMINISTIC not in os.environ.get("XLA_FLAGS", "")
    ):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_DETERMINISTIC}".strip()


def _compiled(recipe: Recipe, train: data.Pipeline) -> keras.Model:
    model = recipe.trainer(train.info)
    loss = None if isinstance(model, ScheduledModel) else default_loss(model)  # the methods bring their own
    model.compile(optimizer=recipe.make_optimizer(len(train)), loss=loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def _state(model: keras.Model, train: data.Pipeline, folder: Path) -> tuple[State, Checkpoint | None]:
    """How far the training is; with a checkpoint, the model is brought there."""
    checkpoint = Checkpoints(folder).newest()
    if checkpoint is None:
        return State(), None
    checkpoint.restore(model, ("model", "optimizer"))
    if checkpoint.position:
        model.test_on_batch(*train.batch(0))  # makes the metrics' variables, which are restored later
    return State(checkpoint.epoch, checkpoint.position, **checkpoint.progress), checkpoint


def _fit(model, recipe: Recipe, train, validation, keeper: Keeper, callbacks, verbose) -> None:
    """Trains to the end: first what is left of the epoch in which the checkpoint was taken, then all others."""
    state = keeper.state
    arguments = {"validation_data": validation, "callbacks": callbacks, "verbose": verbose}
    train.set_epoch(state.epoch)
    if state.position:
        keeper.first = state.position
        rest = train.rest(state.position)
        model.fit(rest, shuffle=False, initial_epoch=state.epoch, epochs=state.epoch + 1, **arguments)
        train.set_epoch(state.epoch)
    if state.epoch < recipe.epochs:
        model.fit(train, initial_epoch=state.epoch, epochs=recipe.epochs, **arguments)


def _fits_device(train: data.Pipeline, group) -> bool:
    """Whether to keep the images on an accelerator, which pays where a step takes less time than the call of it."""
    return keras.backend.backend() == "jax" and isinstance(train, data.ArrayPipeline) and group.devices == 1


def _fit_resident(model, recipe: Recipe, train, validation, keeper: Keeper, callbacks, verbose) -> None:
    state = keeper.state
    train.set_epoch(state.epoch)
    resident.fit(
        model,
        train,
        validation,
        epochs=recipe.epochs,
        initial_epoch=state.epoch,
        initial_position=state.position,
        callbacks=callbacks,
        verbose=verbose,
    )


@contextmanager
def _explained(recipe: Recipe, keeper: Keeper, train: data.Pipeline, validation: data.Pipeline) -> Iterator[None]:
    """Says of whatever ends a training where it ended, what is kept of it and what to do."""
    try:
        with polite_signals(keeper):
            yield
    except KeyboardInterrupt as interruption:
        raise Interrupted(f"Stopped {keeper.where(recipe.epochs)}") from interruption
    except ArithmeticError as error:
        raise ArithmeticError(
            f"{error} Stopped {keeper.where(recipe.epochs)} Lower `learning_rate` (now {recipe.learning_rate}) and "
            "start in a new folder."
        ) from None
    except Exception:
        unreadable = train.error or validation.error
        if unreadable is None:
            raise
        raise RuntimeError(
            f"Data of '{recipe.data}' could not be read: {type(unreadable).__name__}: {unreadable}. "
            f"Stopped {keeper.where(recipe.epochs)}"
        ) from unreadable


def _finish(recipe: Recipe, model, validation, folder: Path, state: State, note: str, command: str, group) -> None:
    """Takes the networks out, measures them, and writes files and card."""
    networks = METHODS[recipe.method].networks(model)
    calibration, _ = load_data(recipe, augment=False)
    card = cards.make(recipe, networks, calibration, validation, folder, state, note, command, group.devices)
    cards.write(folder, card)
    Checkpoints(folder).clear()
