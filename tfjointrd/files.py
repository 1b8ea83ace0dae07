"""Files that are whole or not there at all: written beside their place, brought to the disk, then put there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write to, beside a file; what is written there takes the file's place at the end.

    After an error the file is what it was, and nothing is left beside it.

    Args:
        path: The file. Its folder has to exist.

    Yields:
        The path to write to, with the same suffix.

    Raises:
        IsADirectoryError: If `path` is a folder.
        FileNotFoundError: If its folder does not exist.
        OSError: If it cannot be written.

    Example:

    >>> with replacing("model.keras") as part:
    ...     network.save(part)
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected `path` to name a file. Received: the folder path='{path}'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Expected the folder of `path` to exist. Received: path='{path}'")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        try:
            part.touch()
        except OSError as error:
            raise type(error)(f"Expected `path` to be writable. Received: path='{path}' ({error})") from error
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """As `replacing`, for a folder: it is new at the end, and what it held before is gone.

    Args:
        folder: The folder. The one that it is in has to exist.

    Raises:
        OSError: If it cannot be written.
    """
    folder = Path(folder)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    try:
        try:
            part.mkdir()
        except OSError as error:
            raise type(error)(f"Expected `out` to be writable. Received: out='{folder}' ({error})") from error
        yield part
        if folder.is_dir():
            os.replace(folder, old)
        try:
            os.replace(part, folder)
        except OSError:
            if old.is_dir():
                os.replace(old, folder)
            raise
        sync(folder.parent)
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def writing(path: str | os.PathLike, mode: str = "wb", **options: Any) -> Iterator[IO]:
    """As `replacing`, with a file that is open.

    Args:
        path: The file.
        mode: As for `open`, and so are the `options`.
        **options: See `mode`.

    Example:

    >>> with writing("weights.npz") as file:
    ...     np.savez(file, kernel=np.ones((3, 3)))
    """
    with replacing(path) as part, open(part, mode, **options) as file:
        yield file


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file as a whole; see `replacing`.

    Args:
        path: The file.
        content: Its bytes, or its text, which is written in UTF-8.
    """
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, content: Any, indent: int = 2) -> None:
    """Writes plain data as JSON; see `replacing`.

    Args:
        path: The file.
        content: The data.
        indent: Number of spaces that each level is indented by.
    """
    write(path, json.dumps(content, indent=indent) + "\n")


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows wants to be able to write
    except OSError:
        return  # some systems do not open folders
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some systems open folders and sync files alone
            raise
    finally:
        os.close(descriptor)


def remove_partial(folder: str | os.PathLike) -> None:
    """Deletes what processes that were killed left beside files, in a folder in which no other process writes."""
    for part in Path(folder).glob(".*.part*"):
        part.unlink(missing_ok=True)
