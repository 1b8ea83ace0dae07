"""The names of classes, for files and for pages."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tfjointrd.data.information import KNOWN


def read_labels(labels: str | os.PathLike | Sequence[str], classes: int) -> list[str]:
    """The names of classes.

    Args:
        labels: A file with one name a line, names with commas between them, a data set of `tfjointrd.data.load` whose
            classes have names, or a list of names.
        classes: Number of classes that there are.

    Raises:
        FileNotFoundError: If `labels` is none of these.
        ValueError: If there are more or fewer names than classes, or if the file is no text.
    """
    names = _names(labels)
    broken = [name for name in names if len(name.splitlines()) > 1]
    if len(names) != classes or not all(names) or broken:
        received = f"{len(names)} names" if len(names) != classes else "a name that is empty"
        received = f"a name of several lines, {broken[0]!r}" if broken else received
        raise ValueError(
            f"Expected `labels` to be {classes} names, one for each class. "
            f"Received: labels={_short(labels)}, {received}"
        )
    return names


def labels_beside(path: str | os.PathLike, classes: int) -> list[str] | None:
    """The class names of the data set that the card beside a file says it was trained on, if they are known."""
    try:
        name = json.loads((Path(path).parent / "card.json").read_text(encoding="utf-8"))["data"]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    names = _of_data_set(name)
    return names if names is not None and len(names) == classes else None


def _names(labels: str | os.PathLike | Sequence[str]) -> list[str]:
    if not isinstance(labels, (str, os.PathLike)):
        return [str(name).strip() for name in labels]
    if os.path.isfile(labels):  # `Path.is_file` refuses long lists of names
        try:
            return [line.strip() for line in Path(labels).read_text(encoding="utf-8-sig").rstrip().splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected `labels` to be a text file in UTF-8 with one name a line. Received: labels='{labels}'"
            ) from error
    if "," in os.fspath(labels):
        return [name.strip() for name in os.fspath(labels).split(",")]
    names = _of_data_set(os.fspath(labels))
    if names is None:
        raise FileNotFoundError(
            "Expected `labels` to be a file with one name a line, names with commas between them, or a data set whose "
            f"classes have names, such as cifar10. Received: labels='{labels}'"
        )
    return names


def _of_data_set(name: str) -> list[str] | None:
    known = KNOWN.get(name)
    return list(known.class_names) if known is not None and known.class_names else None


def _short(labels: object) -> str:
    text = repr(os.fspath(labels) if isinstance(labels, os.PathLike) else labels)
    return text if len(text) <= 80 else f"{text[:77]}..."
