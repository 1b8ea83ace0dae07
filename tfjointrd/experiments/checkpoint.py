"""Checkpoints that survive being killed: whole or not there at all, and enough to go on to the very same result."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.files import remove_partial, writing

SCHEMA = 1
KEPT = 2


class Diverged(ArithmeticError):
    """A loss or a weight that is not a finite number any more."""


class OtherSchema(ValueError):
    """A checkpoint of another version of tfjointrd."""


_NAME = re.compile(r"checkpoint_(\d{6})_(\d{8})\.npz")


@dataclass
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        epoch: Number of finished epochs.
        position: Number of steps taken in the epoch that runs.
        progress: History and whatever else the runner keeps, as plain data.
        variables: Name of a group of variables -> their values.
        path: The file.
    """

    epoch: int
    position: int
    progress: dict
    variables: dict[str, list[np.ndarray]]
    path: Path

    def restore(self, model: keras.Model, groups: tuple[str, ...]) -> None:
        """Sets variables of a model to the checkpoint's.

        Args:
            model: A compiled model whose optimizer is built.
            groups: Which ones: `model` (weights, statistics, random states, schedules' counters), `optimizer`,
                `metrics`.

        Raises:
            ValueError: If the checkpoint is one of another network. The model is not changed then.
        """
        for group in groups:
            found, expected = self.variables[group], variables_of(model)[group]
            shapes = [tuple(value.shape) for value in found], [tuple(variable.shape) for variable in expected]
            if shapes[0] != shapes[1]:
                unlike = next((pair for pair in zip(*shapes, strict=False) if pair[0] != pair[1]), None)
                raise ValueError(
                    f"Expected a checkpoint of {model.name}, with {len(expected)} {group} variables. Received: "
                    f"{self.path}, with {len(found)}"
                    + (f", one of shape {unlike[0]} for {unlike[1]}." if unlike else ".")
                )
        for group in groups:
            for variable, value in zip(variables_of(model)[group], self.variables[group], strict=True):
                variable.assign(value)


class Checkpoints:
    """The checkpoints of one training: the newest, and the one before it in case that the newest cannot be read.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.unreadable: set[Path] = set()

    def save(self, model: keras.Model, epoch: int, position: int, progress: dict) -> None:
        """Writes a checkpoint; it appears under its name once it is on the disk as a whole.

        Args:
            model: A compiled model that has been trained.
            epoch: Number of finished epochs.
            position: Number of steps taken in the epoch that runs.
            progress: Plain data to keep with it.

        Raises:
            OSError: If it cannot be written; the older checkpoints are still there.
            Diverged: If a weight is not a finite number; nothing is written.
        """
        groups = {
            group: [np.asarray(variable.numpy()) for variable in variables]
            for group, variables in variables_of(model).items()
        }
        if not all(np.isfinite(value).all() for value in groups["model"] if value.dtype.kind == "f"):
            raise Diverged("Weights became infinite or NaN.")
        header: dict[str, Any] = {"schema": SCHEMA, "progress": progress, "dtypes": {}}
        arrays: dict[str, Any] = {}
        for group, values in groups.items():
            header["dtypes"][group] = [value.dtype.name for value in values]
            arrays.update({f"{group}_{i}": _storable(value) for i, value in enumerate(values)})
        path = self.folder / f"checkpoint_{epoch:06d}_{position:08d}.npz"
        with writing(path) as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
        self.unreadable.discard(path)  # where a damaged one had this name
        readable = [path for path in self._paths() if path not in self.unreadable]
        for old in (*readable[KEPT:], *self.unreadable):
            old.unlink(missing_ok=True)
        self.unreadable.clear()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or `None`.

        Raises:
            OtherSchema: If it was written by another version of tfjointrd.
            OSError: If the disk does not hand it over.
        """
        for path in self._paths():
            content = path.read_bytes()  # a disk that does not answer says nothing about the checkpoint
            try:
                return _read(path, content)
            except OtherSchema:
                raise
            except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, struct.error) as error:
                self.unreadable.add(path)
                print(f"Skipped a checkpoint that cannot be read: {path} ({error}).")
        return None

    def newest_name(self) -> tuple[int, int] | None:
        """Epoch and position of the newest checkpoint, by its name alone."""
        paths = self._paths()
        return _reached(paths[0]) if paths else None

    def clear(self) -> None:
        """Deletes all of them, and what killed processes left of any file in their folder."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        remove_partial(self.folder)

    def _paths(self) -> list[Path]:
        """The files, newest first."""
        return sorted((p for p in self.folder.glob("checkpoint_*.npz") if _NAME.fullmatch(p.name)), reverse=True)


def variables_of(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """All variables that training changes, by group."""
    metrics = list(model.metrics_variables)
    own = {id(variable) for variable in metrics}
    return {
        "model": [variable for variable in model.variables if id(variable) not in own],
        "optimizer": list(model.optimizer.variables),
        "metrics": metrics,
    }


def _reached(path: Path) -> tuple[int, int]:
    _, epoch, position = path.stem.split("_")
    return int(epoch), int(position)


def _storable(value: np.ndarray) -> np.ndarray:
    """bfloat16 and its like, which NumPy's files do not know, as plain bytes."""
    return value if value.dtype.kind in "fiub" else value.view(f"u{value.dtype.itemsize}")


def _read(path: Path, content: bytes) -> Checkpoint:
    epoch, position = _reached(path)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise zipfile.BadZipFile("it is torn")
    with np.load(io.BytesIO(content)) as file:  # every array carries a checksum, which reading it verifies
        header = json.loads(str(file["header"]))
        if header["schema"] != SCHEMA:
            raise OtherSchema(
                f"Expected a checkpoint of schema {SCHEMA}, which this version of tfjointrd writes. "
                f"Received: {path} of schema {header['schema']}."
            )
        variables = {
            group: [_typed(file[f"{group}_{i}"], dtype) for i, dtype in enumerate(dtypes)]
            for group, dtypes in header["dtypes"].items()
        }
    return Checkpoint(epoch, position, header["progress"], variables, path)


def _typed(value: np.ndarray, dtype: str) -> np.ndarray:
    if value.dtype.name == dtype:
        return value
    import ml_dtypes

    return value.view(getattr(ml_dtypes, dtype))
