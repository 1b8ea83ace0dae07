"""Channels are dropped at the start of epochs, and their weights stay zero while the others are trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery.unit_masks import Axes


class Alive:
    """Which units are alive: the values of a weight, or those that a traced step has in its place.

    Args:
        weight: The weight.
    """

    def __init__(self, weight):
        self.weight, self._now = weight, None

    @property
    def value(self):
        """The vector of ones and zeros."""
        return self.weight.value if self._now is None else self._now

    @contextmanager
    def being(self, value) -> Iterator[None]:
        """Within it, `value` stands in the weight's place."""
        self._now = value
        try:
            yield
        finally:
            self._now = None


class Living(keras.constraints.Constraint):
    """Multiplies a weight by zero where it belongs to a dropped channel.

    Args:
        alive: Which units are alive.
        axes: Where the entries of the weight's axes find theirs; see `tfjointrd.surgery.unit_masks`.
        before: The constraint that the weight has already, or `None`.
    """

    def __init__(self, alive: Alive, axes: Axes, before=None):
        self.alive, self.axes, self.before = alive, axes, before

    def __call__(self, w):
        """The weight with zeros, behind the constraint that it had."""
        return self.masked(w if self.before is None else self.before(w))

    def masked(self, w):
        """The weight with zeros."""
        for axis, places in self.axes:
            mask = ops.cast(ops.take(self.alive.value, places), w.dtype)
            w = w * ops.reshape(mask, [-1 if i == axis else 1 for i in range(len(w.shape))])
        return w


class DropChannels(keras.callbacks.Callback):
    """Drops channels at the start of epochs.

    The number of epochs is a weight of the model, so that a training that is gone on with within an epoch, by a `fit`
    to the end of this epoch, has the number that it began with.
    """

    def on_train_begin(self, logs=None):
        """Called ahead of callbacks that bring a checkpoint back."""
        self._first, self._way = True, 1.0
        self.model.total_epochs.assign(self.params["epochs"])
        self.model.check_importance()

    def on_epoch_begin(self, epoch, logs=None):
        """Called by Keras ahead of each epoch; one that is gone on with has been seen to.

        An earlier `fit` may have ended before the budget. The first epoch of the next one drops what is due.
        """
        epochs = int(ops.convert_to_numpy(self.model.total_epochs.value))
        self.model.check_epochs(epochs)
        self._way, before = self.model.way(epoch, epochs), self.model.way(epoch - 1, epochs)
        due = self._way > before or (self._first and self._way > 0)
        self._first = False
        if due and epoch > int(ops.convert_to_numpy(self.model.pruned_in.value)):
            self.model.drop(self._way)
            self.model.pruned_in.assign(epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Adds what is left to the metrics."""
        name, part = self.model.left()
        if logs is not None:
            logs[f"left_{name}"] = part

    def on_train_end(self, logs=None):
        """Keras may put averages of weights in place at the end. This sets those of dropped channels to zero again."""
        self.model.keep_zeros()
        rest_of_an_epoch = self.params["epochs"] != int(ops.convert_to_numpy(self.model.total_epochs.value))
        if self._way < 1 and not rest_of_an_epoch:
            name, part = self.model.left()
            warnings.warn(
                f"The training ended before the budget was reached: {100 * part:.0f} % of the {name} are left. Call "
                "`fit` again, or `drop()`.",
                stacklevel=stacklevel_outside_the_package(),
            )


def warn_of_earlier_weights(callbacks: Iterable[Any]) -> None:
    """Warns of callbacks that go back to the best epoch, which is mostly one before channels were dropped."""
    for callback in callbacks:
        for argument, does in (("restore_best_weights", "takes"), ("save_best_only", "saves")):
            if getattr(callback, argument, False):
                warnings.warn(
                    f"{type(callback).__name__}({argument}=True) {does} the weights of the best epoch, which may be "
                    f"one before the budget was reached. Take {argument}=False, or look at `left()` before `derive()`.",
                    stacklevel=stacklevel_outside_the_package(),
                )
