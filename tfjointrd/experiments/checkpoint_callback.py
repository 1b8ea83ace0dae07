"""The callback that takes checkpoints, counts, and stops a training in an orderly way."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import keras

from tfjointrd.experiments.checkpoint import Checkpoint, Checkpoints, Diverged
from tfjointrd.experiments.signals import handling


class Interrupted(KeyboardInterrupt):
    """A training was stopped from outside. Its checkpoint holds its progress."""


@dataclass
class State:
    """How far a training is.

    Attributes:
        epoch: Number of finished epochs.
        position: Number of steps taken in the epoch that runs.
        history: Metrics of each finished epoch; `None` for one that is not a finite number.
        seconds: Time spent training, in seconds.
        images: Number of training images; 0 in checkpoints of earlier versions.
        order: Fingerprint of the set in memory in its order; empty for other sets and earlier versions.
    """

    epoch: int = 0
    position: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    order: str = ""


class CheckpointCallback(keras.callbacks.Callback):
    """Takes a checkpoint after each epoch and every few minutes, and looks at the loss after each step.

    Args:
        checkpoints: Where they go.
        state: How far the training is; kept up to date.
        resumed: The checkpoint that the training goes on from, or `None`.
        minutes: Minutes between checkpoints within an epoch.
        writes: Whether this process takes them; of several that train together one does.
    """

    def __init__(
        self, checkpoints: Checkpoints, state: State, resumed: Checkpoint | None, minutes: float, writes: bool = True
    ):
        super().__init__()
        self.checkpoints, self.state, self.minutes, self.writes = checkpoints, state, minutes, writes
        self.first = 0  # position of the first step that `fit` takes in an epoch, where it counts from 0
        self.resumed = resumed
        self.kept = (state.epoch, state.position) if resumed else None
        self.signal: str | None = None

    def where(self, epochs: int) -> str:
        """Where the training is and what is kept of it, for a message."""
        kept = "There is no checkpoint yet."
        if self.kept:
            epoch, position = self.kept
            steps = f" and {position} steps" if position else ""
            kept = f"The checkpoint of {epoch} finished epochs{steps} is in {self.checkpoints.folder}."
        return f"in epoch {min(self.state.epoch + 1, epochs)} of {epochs}. {kept}"

    def continuation(self) -> str:
        """How to go on, for a message."""
        return "The same command goes on from there." if self.kept else "The same command starts again."

    def on_train_begin(self, logs=None):
        """Brings the model back to where the checkpoint was taken; schedules' counters too, which `fit` had set."""
        self.began = self.saved = time.monotonic()
        if self.state.position:
            self.resumed.restore(self.model, ("model", "optimizer"))

    def on_epoch_begin(self, epoch, logs=None):
        """Brings the metrics of the epoch that was interrupted back."""
        if self.state.position:
            self.resumed.restore(self.model, ("metrics",))

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss; saves when it is time to."""
        self.state.position = self.first + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(f"The loss became {loss} at step {self.state.position}.")
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end saves
        if self.signal or time.monotonic() - self.saved >= 60 * self.minutes:
            self._save(self.state.epoch, self.state.position)
        self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        """Saves."""
        self.state.history.append({key: _finite(value) for key, value in (logs or {}).items()})
        self._save(epoch + 1, 0)
        self.state.epoch, self.state.position, self.first = epoch + 1, 0, 0
        self._stop_if_asked()

    def _save(self, epoch: int, position: int) -> None:
        if not self.writes:
            return
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        now = time.monotonic()
        self.state.seconds, self.began = self.state.seconds + now - self.began, now
        progress = {"history": self.state.history, "seconds": self.state.seconds, "images": self.state.images}
        progress["order"] = self.state.order
        try:
            self.checkpoints.save(self.model, epoch, position, progress)
        except OSError as error:
            kept = "none yet" if self.kept is None else f"that of {self.kept[0]} epochs and {self.kept[1]} steps"
            raise OSError(
                f"No checkpoint could be written to '{self.checkpoints.folder}': {error}. Kept: {kept}. "
                "Make room; the same command goes on from there."
            ) from error
        self.kept, self.saved = (epoch, position), now

    def _stop_if_asked(self) -> None:
        if self.signal:
            raise KeyboardInterrupt(self.signal)


def _finite(value) -> float | None:
    """A number as JSON knows it."""
    return float(value) if math.isfinite(value) else None


def polite_signals(saver: CheckpointCallback) -> AbstractContextManager[None]:
    """Lets the step that runs finish and a checkpoint be taken when Ctrl-C or SIGTERM come; the second time, not."""

    def stop(name: str) -> None:
        if saver.signal:
            raise KeyboardInterrupt(name)
        saver.signal = name

    return handling(stop)
