"""Callbacks that record something epoch by epoch, in a file that an interrupted training goes on with."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import keras
from keras import ops

from tfjointrd.files import writing


class Recorder(keras.callbacks.Callback):
    """Records rows of values before the first step and after each epoch. Subclasses define `columns` and `records`.

    Args:
        path: A `.csv` file, written anew after each epoch. If it exists, its rows from before the start of the training
            are kept, so that an interrupted training goes on in it. Later rows are dropped.

    Attributes:
        columns: The form of the file and of a row: name -> type; `epoch`, the number of finished epochs, and `step`,
            that of finished steps, are among them.
        history: A dict for each row.
    """

    columns: ClassVar[Mapping[str, Callable]] = {}

    def __init__(self, path: str | os.PathLike | None = None):
        super().__init__()
        self.path = None if path is None else Path(path)
        self.history: list[dict] = []
        self._begins = False

    def records(self, epoch: int, step: int) -> list[dict]:
        """The rows of this moment."""
        raise NotImplementedError(f"{type(self).__name__} does not define `records(epoch, step)`.")

    def on_train_begin(self, logs=None):
        """Reads what an interrupted training left."""
        self._begins = True
        if not self.history and self.path is not None and self.path.exists():
            self.history = read(self.path, self.columns)

    def on_epoch_begin(self, epoch, logs=None):
        """Drops what comes again, and records the state before the training's first step."""
        if not self._begins:
            return
        self._begins = False
        step = self._synchronized_step()  # here and not earlier: other callbacks restore it in `on_train_begin`
        self.history = [row for row in self.history if row["step"] < step]
        if not any(row["epoch"] == epoch for row in self.history):
            self._record(epoch, step)

    def on_epoch_end(self, epoch, logs=None):
        """Records the state after an epoch."""
        self._record(epoch + 1, self._synchronized_step())

    def _synchronized_step(self) -> int:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        return int(ops.convert_to_numpy(self.model.step.value))

    def _record(self, epoch: int, step: int) -> None:
        self.history += self.records(epoch, step)
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path, "w", newline="") as file:
                writer = csv.DictWriter(file, list(self.columns))
                writer.writeheader()
                writer.writerows(self.history)
        except OSError as error:  # not worth the training: what is missing is written after the next epoch
            warnings.warn(f"Records were not written to '{self.path}': {error}.", stacklevel=2)


def read(path: str | os.PathLike, columns: Mapping[str, Callable]) -> list[dict]:
    """What a recorder wrote to a file, as its `history`; entries that were left empty are `None`.

    Args:
        path: The `.csv` file.
        columns: Those of the recorder.

    Raises:
        ValueError: If it is another file.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(columns):
            raise ValueError(
                f"Expected a file with the columns {', '.join(columns)}. Received: path='{path}' with "
                f"{reader.fieldnames}."
            )
        return [{key: kind(row[key]) if row[key] else None for key, kind in columns.items()} for row in reader]
