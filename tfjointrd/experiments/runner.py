"""Executes a recipe: trains, keeps checkpoints, goes on after an interruption, leaves networks and a card."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd import data
from tfjointrd.experiments import card as cards
from tfjointrd.experiments import pruned_start
from tfjointrd.experiments.checkpoint import Checkpoint, Checkpoints, Diverged
from tfjointrd.experiments.checkpoint_callback import CheckpointCallback, Interrupted, State, polite_signals
from tfjointrd.experiments.optimizer import make_optimizer
from tfjointrd.experiments.recipes import Pruned, Recipe
from tfjointrd.experiments.run_folder import (
    ARCHITECTURE,
    RECIPE,
    Images,
    Run,
    already,
    check_free,
    check_recipe,
    claim,
    complete,
    finished_run,
    load_data,
    locked,
)
from tfjointrd.experiments.trainers import METHODS, make_trainer
from tfjointrd.experiments.training_callbacks import TensorBoard, TimeLeft
from tfjointrd.files import write, write_json
from tfjointrd.surgery.tasks import default_loss
from tfjointrd.training.callbacks.gate_recorder import GateRecorder
from tfjointrd.training.callbacks.gradient_recorder import BACKENDS, GradientRecorder
from tfjointrd.training.engines import distribute, resident
from tfjointrd.training.methods.dan import DAN
from tfjointrd.training.methods.jointrd import JointRD
from tfjointrd.training.methods.pruning import Pruning
from tfjointrd.training.recalibration import has_batchnorm, recalibrate_batchnorm
from tfjointrd.training.scheduled_model import ScheduledModel

GRADIENTS, GATES = "gradients.csv", "gates.csv"
LATENCIES = "latency_table.json"  # the table that a search began with
PROBE = 128  # images on which gradients are compared
RECALIBRATION = 100  # batches on which statistics are measured anew
FOLLOWING = 500  # steps after which statistics with Keras' momentum, 0.99, have followed the weights

XLA_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def run(
    recipe: Recipe,
    folder: str | os.PathLike,
    verbose: int | str = "auto",
    note: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    network: str | os.PathLike | None = None,
    teacher: str | os.PathLike | None = None,
    widths: str | os.PathLike | None = None,
    data_file: str | os.PathLike | None = None,
    minutes: float = 5.0,
    deterministic: bool = True,
    group: distribute.Single | distribute.Processes | None = None,
    command: str = "",
    tensorboard: str | os.PathLike | None = None,
    fingerprint: str = "",
) -> Run:
    """Trains by a recipe, or goes on where an interrupted training of the same recipe stopped.

    A finished training is loaded, not repeated. An interrupted one, however it ended, goes on from its newest
    checkpoint to the very result, bit for bit, that it would have had (on the same machine and backend).

    Where a teacher's tails train a student on one device, `gradients.csv` holds the norms of its gradients from both
    and their cosine, epoch by epoch; see `tfjointrd.training.GradientRecorder`. A search leaves its gates'
    probabilities in `gates.csv` (`GateRecorder`), what it has chosen in `architecture.json` (`DAN.architecture`), and
    the network of that with batch normalisations measured anew (`recalibrate_batchnorm`), whose accuracy the card says.
    Pruning leaves the channels that it has kept in `architecture.json` (`tfjointrd.surgery.prune_architecture`), and
    beside the finished network, `model`, those that it is compared with: `unpruned`, and `pruned`, not trained since.

    Args:
        recipe: What to train.
        folder: Where checkpoints, networks and card go; made if need be.
        verbose: As for `keras.Model.fit`. Unless it is 0, what is going on and when it will end is printed too.
        note: What readers of the results should know of the data, for the card.
        callbacks: Further callbacks for `fit`. What they remember is in no checkpoint, and they may not end the
            training before its last epoch.
        network: The `.keras` file of the trained network, where `recipe.network` is the name of a recipe.
        teacher: The `.keras` file of the teacher, where `recipe.teacher` is the name of a recipe.
        widths: The `.keras` file of the network that has the widths, where `recipe.widths` is the name of a recipe.
        data_file: An `.npz` file from which to read the recipe's data set, where tensorflow-datasets is not installed
            for example; see `tfjointrd.data.load`. An interrupted training goes on bit for bit with the same file only.
        minutes: A checkpoint is taken after each epoch, and within an epoch after so many minutes.
        deterministic: Whether to allow only operations whose results repeat bit by bit; see `make_repeatable`.
        group: The devices or processes that train together, from `tfjointrd.training.distribute`. All processes call
            `run` with a folder that all of them see; the first one writes.
        command: The command line to repeat it with, for the card.
        tensorboard: A folder to write the metrics of each epoch to, for TensorBoard.
        fingerprint: That of the images which other seeds were trained on, as their cards have it; empty if unknown.

    Returns:
        The finished `Run`.

    Raises:
        ValueError: If `folder` holds a training of another recipe or version, or a checkpoint of another network or
            with another number of images; or if the images have another `fingerprint`.
        PermissionError: If `folder` cannot be written.
        BlockingIOError: If another process trains in `folder`.
        Interrupted: If the user stops it (Ctrl-C) or the machine does (SIGTERM).
        ArithmeticError: If the loss becomes NaN.
        RuntimeError: If data cannot be read, or a callback ends the training early. In all these cases the last
            checkpoint is kept.
        OSError: If a checkpoint cannot be written, on a full disk for example; those before are kept.
    """
    if deterministic:
        make_repeatable()
    cards.source()  # now: that of the code that trains, whatever is on the disk in the end
    folder, group = Path(folder), group or distribute.Single()
    if (folder / cards.CARD).exists():
        check_recipe(recipe, folder)
        with group.alone():
            finished = complete(folder, data_file)
        if verbose != 0 and group.chief:
            print(already(finished, note), flush=True)
        return finished
    if not (folder / RECIPE).exists():
        recipe.check_milestones()
    files = {"network": network, "teacher": teacher, "widths": widths}
    if recipe.get("latency_table") and (folder / LATENCIES).is_file():
        files["latency_table"] = folder / LATENCIES
    changes: dict[str, Any] = {name: str(path) for name, path in files.items() if path}
    resolved = replace(recipe, **changes)
    resolved.check_files()
    if recipe.get("held_out") and group.devices > 1:
        raise ValueError(
            "Expected `held_out` for a training on one device. Received: "
            f"held_out={recipe.get('held_out')} and {group.devices} devices."
        )
    if group.chief:
        check_free(folder)
    check_recipe(recipe, folder)
    keras.utils.set_random_seed(recipe.seed)
    images = load_data(recipe, data_file=data_file)
    found = images.train.info.fingerprint
    if fingerprint and found and found != fingerprint:
        raise ValueError(
            f"Expected the images that other seeds of '{recipe.name}' were trained on, with fingerprint={fingerprint}. "
            f"Received: '{images.train.info.name}' with fingerprint={found}. Read them from the same file "
            "(`data_file`), or train in another folder."
        )
    unseen = images.copy()
    held_out = _held_out(recipe, images.train)
    train, validation = (group.share(pipeline) for pipeline in (images.train, images.validation))
    with group.alone():
        architecture = pruned_start.kept_channels(resolved, images.train, folder, verbose != 0 and group.chief)
    with group.scope():
        model = _compiled(resolved, train, architecture)
    if isinstance(model, Pruning) and isinstance(recipe, Pruned):
        model.data = pruned_start.ranking_images(recipe, images.train)
    # The folder is made now, after most of what can be wrong.
    with locked(folder) if group.chief else nullcontext():
        check_recipe(recipe, folder)
        if (folder / cards.CARD).exists():  # finished by another process in between
            with group.alone():
                return finished_run(folder)
        with group.scope():
            checkpoints = Checkpoints(folder)
            state, checkpoint = _state(model, train, checkpoints, images.train)
            if not group.same((state.epoch, state.position)):
                raise ValueError(f"Expected a folder that all processes see. Received: folder='{folder}'.")
            if group.chief:
                claim(recipe, folder)
                pruned_start.keep(architecture, folder)
                if recipe.get("latency_table") and not (folder / LATENCIES).exists():
                    write(folder / LATENCIES, Path(resolved.get("latency_table")).read_bytes())
            verbose = verbose if group.chief else 0
            if state.epoch < recipe.epochs:
                saver = CheckpointCallback(checkpoints, state, checkpoint, minutes, writes=group.chief)
                options = {} if held_out is None else {"held_out": held_out}
                fit = _fit_resident if _fits_device(train, group) and not options else _fit
                own = _recorders(model, images.validation, folder, group)
                own += [TensorBoard(tensorboard)] if tensorboard and group.chief else []
                own += [saver]
                if verbose != 0:
                    own.append(TimeLeft(recipe.epochs, state.epoch))
                    print(_heading(recipe, state, len(train), folder), flush=True)
                with _explained(recipe, saver, [train, validation, *options.values()]):
                    fit(model, recipe, train, validation, saver, [*own, *callbacks], verbose, **options)
        if group.chief:
            with group.alone():
                before = pruned_start.networks_before(resolved, train.info, architecture)
                _finish(recipe, model, before, unseen, folder, state, note, command, group, verbose)
        group.wait(f"{folder} is finished")
    with group.alone():
        return finished_run(folder)


def make_repeatable() -> None:
    """Allows only operations whose results repeat bit by bit, for the rest of the process.

    On TensorFlow this is `tf.config.experimental.enable_op_determinism`. On JAX it is a flag of XLA for GPUs, which
    acts only if nothing has been computed before.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "jax" and XLA_DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_DETERMINISTIC}".strip()


def _held_out(recipe: Recipe, train: data.Pipeline) -> data.Pipeline | None:
    """Takes the images for the gates out of those for the weights."""
    if not recipe.get("held_out"):
        return None
    try:
        return train.hold_out(recipe.get("held_out"))
    except ValueError as error:
        raise ValueError(f"{error} (`held_out` of the recipe)") from None


def _compiled(recipe: Recipe, train: data.Pipeline, architecture: dict | None) -> keras.Model:
    model = make_trainer(recipe, train.info, None if architecture is None else architecture["kept"])
    loss = None if isinstance(model, ScheduledModel) else default_loss(model)  # the methods bring their own
    model.compile(optimizer=make_optimizer(recipe, len(train)), loss=loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return model


def _state(
    model: keras.Model, train, checkpoints: Checkpoints, whole: data.Pipeline
) -> tuple[State, Checkpoint | None]:
    """How far the training is; with a checkpoint, the model is brought there."""
    images = whole.info.train_size or whole.size
    order = whole.in_order() if isinstance(whole, data.ArrayPipeline) else ""
    checkpoint = checkpoints.newest()
    if checkpoint is None:
        return State(images=images, order=order), None
    began = checkpoint.progress.get("images")
    if began and began != images:
        raise ValueError(
            f"Expected the data that the training in '{checkpoints.folder}' began with, {began} images. Received: "
            f"'{train.info.name}' with {images} images. Bring them back, or start in a new folder."
        )
    if checkpoint.progress.get("order", order) != order:
        raise ValueError(
            f"Expected the images that the training in '{checkpoints.folder}' began with, in their order. Received: "
            f"other ones, or '{train.info.name}' read from another file. Read them as before, or start in a new folder."
        )
    checkpoint.restore(model, ("model", "optimizer"))
    if checkpoint.position:
        model.test_on_batch(*train.batch(0))  # makes the metrics' variables, which are restored later
    return State(
        checkpoint.epoch, checkpoint.position, **{**checkpoint.progress, "images": images, "order": order}
    ), checkpoint


def _recorders(model, validation: data.Pipeline, folder: Path, group) -> list[keras.callbacks.Callback]:
    """The recorder of a JointRD student's gradients, on one device, or that of a search's gates.

    It comes before the one that saves: records that the newest checkpoint lacks are made again, those that only it had
    are not.
    """
    if isinstance(model, DAN):
        return [GateRecorder(folder / GATES)] if group.chief else []
    if not isinstance(model, JointRD) or group.devices > 1 or keras.backend.backend() not in BACKENDS:
        return []
    return [GradientRecorder(*_probe(validation), folder / GRADIENTS)]


def _probe(validation: data.Pipeline) -> tuple[np.ndarray, np.ndarray]:
    """Some images from all over a set, which may be in the order of its classes."""
    positions = np.unique(np.linspace(0, len(validation) - 1, 8).round().astype(int))
    batches = [validation.batch(int(position)) for position in positions]
    each = -(-PROBE // len(batches))
    return tuple(np.concatenate([part[:each] for part in parts])[:PROBE] for parts in zip(*batches, strict=True))


def _fit(model, recipe: Recipe, train, validation, saver: CheckpointCallback, callbacks, verbose, **options) -> None:
    """Trains to the end: first what is left of the epoch in which the checkpoint was taken, then all others."""
    state = saver.state
    arguments = {"validation_data": validation, "callbacks": callbacks, "verbose": verbose, **options}
    if state.position:
        _finish_epoch(model, train, saver, arguments)
    train.set_epoch(state.epoch)
    if state.epoch < recipe.epochs and not model.stop_training:
        model.fit(train, initial_epoch=state.epoch, epochs=recipe.epochs, **arguments)


def _finish_epoch(model, train, saver: CheckpointCallback, arguments: dict) -> None:
    epoch, saver.first = saver.state.epoch, saver.state.position
    train.set_epoch(epoch)
    model.fit(train.rest(saver.first), shuffle=False, initial_epoch=epoch, epochs=epoch + 1, **arguments)


def _fits_device(train: data.Pipeline, group) -> bool:
    """Whether to keep the images on an accelerator, which pays where a step takes less time than the call of it."""
    return keras.backend.backend() == "jax" and isinstance(train, data.ArrayPipeline) and group.devices == 1


def _fit_resident(model, recipe: Recipe, train, validation, saver: CheckpointCallback, callbacks, verbose) -> None:
    state = saver.state
    if state.position % resident.block_length(len(train)):  # a checkpoint that `fit` took, on another backend perhaps
        arguments = {"validation_data": validation, "callbacks": callbacks, "verbose": verbose}
        _finish_epoch(model, train, saver, arguments)
        if state.epoch == recipe.epochs or model.stop_training:
            return
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
def _explained(recipe: Recipe, saver: CheckpointCallback, pipelines: Sequence[data.Pipeline]) -> Iterator[None]:
    """Says of whatever ends a training where it ended, what is kept of it and what to do."""
    try:
        with polite_signals(saver):
            yield
    except KeyboardInterrupt as interruption:
        raise Interrupted(f"Stopped {saver.where(recipe.epochs)} {saver.continuation()}") from interruption
    except Diverged as error:
        raise Diverged(
            f"{error} Stopped {saver.where(recipe.epochs)} Lower `learning_rate` (now {recipe.learning_rate}) and "
            "start in a new folder."
        ) from None
    except Exception:
        unreadable = next((pipeline.error for pipeline in pipelines if pipeline.error), None)
        if unreadable is None:
            raise
        raise RuntimeError(
            f"Data of '{recipe.data}' could not be read: {type(unreadable).__name__}: {unreadable}. "
            f"Stopped {saver.where(recipe.epochs)} {saver.continuation()}"
        ) from unreadable
    if saver.state.epoch < recipe.epochs:
        raise RuntimeError(
            f"Expected callbacks that do not end the training. Stopped {saver.where(recipe.epochs)} "
            f"{saver.continuation()}"
        )


def _heading(recipe: Recipe, state: State, steps: int, folder: Path) -> str:
    """What is trained, how long and where."""
    what = recipe.name or f"{Path(recipe.network).name}, method {recipe.method}"
    done = f", of which {state.epoch} are done" if state.epoch else ""
    return f"Training {what} on {recipe.data}: {recipe.epochs} epochs of {steps} steps{done}, in {folder}"


def _finish(
    recipe: Recipe,
    model,
    before: dict,
    images: Images,
    folder: Path,
    state: State,
    note: str,
    command: str,
    group,
    verbose,
) -> None:
    """Takes the networks out, measures them and those before, and writes files and card."""
    say = functools.partial(print, flush=True) if verbose != 0 else lambda text: None
    networks = {**before, **METHODS[recipe.method].networks(model)}
    steps = recipe.epochs * len(images.train)
    # A search's statistics have seen all candidates, those of a pruned network are the full one's at first.
    lagging = "small" if isinstance(model, DAN) else "model" if before and 0 < steps < FOLLOWING else None
    if lagging and has_batchnorm(networks[lagging]):
        say(f"Measuring the batch normalisations of {lagging} anew ...")
        # Images as in the training, augmented: those are what the statistics have to fit.
        recalibrate_batchnorm(networks[lagging], images.train, min(len(images.train), RECALIBRATION))
    train = images.train.unaugmented(shuffled=True)
    compared = pruned_start.COMPARED if before else {}
    card = cards.make(
        recipe, networks, train, images.scored, folder, state, note, command, group.devices, say, compared
    )
    if isinstance(model, (DAN, Pruning)):
        write_json(folder / ARCHITECTURE, model.architecture())
    cards.write(folder, card)
    Checkpoints(folder).clear()
