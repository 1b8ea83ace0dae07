"""Trains tf_keras networks on whatever form images come in."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfjointrd.data.batches import batches
from tfjointrd.export.convert import check_network
from tfjointrd.export.tf_keras_bridge.libraries import tf_keras
from tfjointrd.surgery.tasks import Task, tasks_of


class TrainingData:
    """Batches with labels, as often as they are asked for.

    Args:
        data: Images with labels, in any form that `tfjointrd.data.batches` describes.
        batch_size: How many images of an array are a batch.
        shape: Shape of an image.
        argument: What the caller calls `data`.

    Attributes:
        steps: The number of batches.
        first: The first batch.

    Raises:
        ValueError: If there are no images or no labels, or images have another shape.
    """

    def __init__(self, data: Any, batch_size: int, shape: Sequence[int | None], argument: str = "train"):
        self.options: dict[str, Any] = {"batch_size": batch_size, "shape": shape, "argument": argument}
        self.data, self.sized = data, isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
        if self.sized:
            self.steps = data.num_batches
        else:
            one_way = isinstance(data, (types.GeneratorType, Iterator)) or not hasattr(data, "element_spec")
            listed = list(batches(data, **self.options)) if one_way else None
            self.data = data if listed is None else listed
            self.steps = len(listed) if listed is not None else sum(1 for _ in batches(data, **self.options))
        self.first = next(batches(self.data, **self.options))
        if self.first[1] is None:
            raise ValueError(f"Expected `{argument}` to hold batches (x, y). Received: batches without labels")

    def epoch(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of the next epoch, which `end` ends."""
        if not self.sized:
            for x, y in batches(self.data, **self.options):
                yield np.asarray(x, "float32"), np.asarray(y)
            return
        if hasattr(self.data, "on_epoch_begin"):
            self.data.on_epoch_begin()
        for position in range(self.steps):
            x, y = next(batches([self.data[position]], **self.options))
            yield np.asarray(x, "float32"), np.asarray(y)

    def end(self) -> None:
        """Ends an epoch. A reader that knows the number of batches does not ask for one more, which would do it."""
        if self.sized:
            self.data.on_epoch_end()

    def epochs(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of several epochs, the last of which `end` ends."""
        for number in range(count):
            if number:
                self.end()
            yield from self.epoch()

    def images(self, count: int = 256) -> np.ndarray:
        """The first images, without taking them away, for ranges and comparisons."""
        found: list[np.ndarray] = []
        for x, _ in batches(self.data, **self.options):
            found.append(np.asarray(x, "float32"))
            if sum(map(len, found)) >= count:
                break
        return np.concatenate(found)[:count]


def task_of(network: keras.Model, data: TrainingData, loss: Any = None) -> Task:
    """What a network's output is for, by its end, the loss and the labels.

    Raises:
        ValueError: If it has several outputs, or the labels do not fit it.
    """
    tasks = tasks_of(network)
    if len(tasks) != 1:
        raise ValueError(
            f"Expected `network` to have one output; make a `keras.Model(input, output)`. Received: '{network.name}' "
            f"with {len(tasks)} outputs"
        )
    return tasks[0].with_loss(loss).with_labels(np.asarray(data.first[1]), " of `train`")


class Fitting:
    """A training whose arguments are checked, for a tf_keras network that is made afterwards.

    Args:
        network: The network of Keras 3.
        train: Images with labels.
        epochs: How often all of `train` is seen.
        learning_rate: That of the first step; it falls to zero along a cosine.
        optimizer: The name of one, or one of tf_keras, which has a learning rate of its own.
        loss: By default what output and labels suggest.
        batch_size: How many images of an array are a batch.
        validation_data: Images with labels that are looked at after each epoch, or `None`.
        verbose: As for `fit`.

    Attributes:
        data: The `TrainingData`.
        steps: The number of batches in all epochs.

    Raises:
        ValueError: If an argument does not fit.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Any,
        *,
        epochs: int,
        learning_rate: float,
        optimizer: Any = "adam",
        loss: Any = None,
        batch_size: int = 64,
        validation_data: Any = None,
        verbose: int = 0,
    ):
        check_network(network)
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected `{name}` to be a positive integer. Received: {name}={value!r}")
        shape = network.inputs[0].shape[1:]
        self.data = TrainingData(train, batch_size, shape)
        self.validation = None
        if validation_data is not None:
            self.validation = TrainingData(validation_data, batch_size, shape, "validation_data")
        self.task = task_of(network, self.data, loss)
        self.epochs, self.steps = epochs, epochs * self.data.steps
        self.learning_rate, self.optimizer, self.loss, self.verbose = learning_rate, optimizer, loss, verbose

    def fit(self, model: Any, callbacks: Sequence[Any] = ()) -> dict[str, list[float]]:
        """Trains a tf_keras network.

        Returns:
            The losses and accuracies of each epoch, by name.

        Raises:
            ValueError: If the loss is no finite number.
        """
        old, optimizer = tf_keras(), self.optimizer
        if isinstance(optimizer, str):
            optimizer = old.optimizers.get(optimizer)
            optimizer.learning_rate = old.optimizers.schedules.CosineDecay(self.learning_rate, self.steps)
        labels = np.asarray(self.data.first[1])
        metrics = ["accuracy"] if self.task.kind in ("classes", "binary") else []
        model.compile(optimizer, _loss(self.task, self.loss, labels), metrics=metrics)
        held = {}
        if self.validation is not None:
            x, y = (np.concatenate(part) for part in zip(*self.validation.epoch(), strict=True))
            self.validation.end()
            held = {"validation_data": (x, y)}
        options = {"steps_per_epoch": self.data.steps, "epochs": self.epochs, "verbose": self.verbose}
        history = model.fit(self.data.epochs(self.epochs), callbacks=list(callbacks), **options, **held).history
        self.data.end()
        if not np.isfinite(history["loss"]).all():
            raise ValueError(
                f"Expected a loss that stays finite; try a lower `learning_rate`. Received: {history['loss'][-1]} "
                f"after {self.epochs} epochs with learning_rate={self.learning_rate}"
            )
        return {name: [float(value) for value in values] for name, values in history.items()}


def _loss(task: Task, loss: Any, labels: np.ndarray) -> Any:
    """The loss in tf_keras: the default of the task, or the one that was asked for."""
    old = tf_keras().losses
    if loss is None:
        loss = task.default_loss(one_hot=labels.ndim == len(task.shape) and labels.shape[-1] == task.channels)
    if isinstance(loss, keras.losses.Loss) and hasattr(old, type(loss).__name__):
        config = {key: value for key, value in loss.get_config().items() if key not in ("dtype", "axis", "name")}
        return getattr(old, type(loss).__name__)(**config)
    return loss
