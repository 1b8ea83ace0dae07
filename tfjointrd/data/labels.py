"""Whether labels fit an output of a network: the one place where trainings, evaluations and accuracies look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = "classes"  # one of several is right
BINARY = "binary"  # yes or no, for each number of the output
NUMBERS = "numbers"  # regression

_CLASSES_ADVICE = "one class of several, `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`"
_BINARY_ADVICE = "yes or no for each output, `keras.losses.BinaryCrossentropy(from_logits=True)`"
_NUMBERS_ADVICE = "numbers, `loss='mean_squared_error'`"


class Labels(NamedTuple):
    """What labels were found to be.

    Attributes:
        kind: `CLASSES`, `BINARY` or `NUMBERS`.
        one_hot: Whether there is a number for each class.
    """

    kind: str
    one_hot: bool


def check_labels(y: Any, shape: Sequence[int | None], kind: str | None = None, place: str = "") -> Labels:
    """Looks at the labels of one output.

    Args:
        y: The labels. For classes `(batch, ...)` or `(batch, ..., 1)` whole numbers, or `(batch, ..., classes)`
            probabilities, such as one-hot ones; else of the output's shape, whose last axis may be left out if it is 1.
        shape: The output's, `(batch, ..., channels)`.
        kind: What the output is for; `None` where the labels tell.
        place: Where the labels come from, for messages: ``" of `validation_data`"``.

    Raises:
        ValueError: If they are no finite numbers, have another shape or other values than fit; if `kind` is `None` and
            they do not tell what they are. The message says what to do.
    """
    y, channels = numeric(y, place), shape[-1]
    full = fits(y.shape[1:], shape[1:])
    short = fits(y.shape[1:], shape[1:-1]) or fits(y.shape[1:], (*shape[1:-1], 1))
    if not full and not (short and (channels == 1 or kind in (CLASSES, None))):
        raise ValueError(_wrong_shape(y, shape, kind, place))
    if channels is None:
        return Labels(kind or CLASSES, full)
    if channels == 1:
        return Labels(_of_one_channel(y, kind, place), False)
    if not full:
        _check_classes(y, channels, place)
        return Labels(CLASSES, False)
    if kind == BINARY:
        _check_binary(y, place)
    found = kind or _of_channels(y, place)
    return Labels(found, found == CLASSES)


def numeric(y: Any, place: str = "") -> np.ndarray:
    """Labels as an array.

    Raises:
        ValueError: If they are no finite numbers, or there are none.
    """
    if y is None:
        raise ValueError(f"Expected labels{place}. Received: none.")
    try:
        y = np.asarray(y)
        kind = y.dtype.kind
        y = y.astype("float32") if kind == "V" else y  # bfloat16
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected labels{place} as one array. Received: {type(y).__name__}. {error}") from error
    if kind not in "biufV":
        raise ValueError(
            f"Expected labels{place} as numbers; `np.unique(labels, return_inverse=True)` numbers names from 0. "
            f"Received: labels of dtype {y.dtype}."
        )
    if not y.ndim:
        raise ValueError(f"Expected a label{place} for each image. Received: the single number {y}.")
    wrong = ~np.isfinite(y)
    if wrong.any():
        raise ValueError(
            f"Expected finite labels{place}. Received: labels of shape {y.shape} with {int(wrong.sum())} that are NaN "
            "or infinite."
        )
    return y


def fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one, of which sizes that are `None` may be any."""
    return len(shape) == len(expected) and all(e is None or s == e for s, e in zip(shape, expected, strict=True))


def _wrong_shape(y: np.ndarray, shape: Sequence[int | None], kind: str | None, place: str) -> str:
    channels, inner = "any number of" if shape[-1] is None else shape[-1], len(shape) == 2
    if kind in (CLASSES, None) and channels != 1:
        if inner and y.ndim == 2:
            wanted = f"one-hot labels{place} of {channels} classes"
        else:
            wanted = f"labels{place} of shape {_text(shape[:-1])}, one of {channels} classes each, or {_text(shape)}"
    elif kind == BINARY and channels != 1:
        wanted = (
            f"labels{place} of shape {_text(shape)}, 0 or 1 for each of {channels} outputs, since the output is a "
            "sigmoid or the loss a binary one"
        )
    else:
        wanted = (
            f"labels{place} of shape {_text(shape[:-1])} or {_text(shape)}"
            if channels == 1
            else (f"labels{place} of shape {_text(shape)}")
        )
    return f"Expected {wanted}. Received: labels of shape {y.shape}."


def _text(shape: Sequence[int | None]) -> str:
    sizes = ["batch", *("any" if size is None else str(size) for size in shape[1:])]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _check_classes(y: np.ndarray, channels: int, place: str) -> None:
    if y.size and (y.min() < 0 or y.max() > channels - 1):
        raise ValueError(
            f"Expected labels between 0 and {channels - 1} for a network with {channels} classes. "
            f"Received: labels between {y.min()} and {y.max()}{place}."
        )
    if y.dtype.kind == "f" and (y != np.round(y)).any():
        raise ValueError(
            f"Expected whole numbers as labels{place}, one of {channels} classes each. Received: labels such as "
            f"{y[y != np.round(y)].ravel()[0]}."
        )


def _check_binary(y: np.ndarray, place: str) -> None:
    if y.size and (y.min() < 0 or y.max() > 1):
        kind = "one output" if y.ndim == 1 or y.shape[-1] == 1 else "outputs that each are yes or no"
        raise ValueError(
            f"Expected labels between 0 and 1 for a network with {kind}. Received: labels between {y.min()} and "
            f"{y.max()}{place}. For numbers of another range end the network in no activation and pass a `loss` such "
            "as 'mean_squared_error'."
        )


def _of_one_channel(y: np.ndarray, kind: str | None, place: str) -> str:
    """What labels of an output with one channel are."""
    whole = not y.size or bool((y == np.round(y)).all())
    within = not y.size or bool(y.min() >= 0 and y.max() <= 1)
    if kind is None and not whole and not within:
        return NUMBERS
    if kind is None and not whole:
        raise ValueError(
            f"Expected labels{place} that say what they are. Received: labels between {y.min()} and {y.max()} for a "
            f"network with one output, which may be probabilities or numbers. Pass the loss: for {_BINARY_ADVICE}; "
            f"for {_NUMBERS_ADVICE}."
        )
    if kind in (BINARY, None):
        _check_binary(y.reshape(-1), place)
    return kind or BINARY


def _of_channels(y: np.ndarray, place: str) -> str:
    """What labels are of which there is one for each channel."""
    if not y.size or (y.min() >= 0 and np.abs(y.astype("float64").sum(axis=-1) - 1).max() < 1e-2):
        return CLASSES
    if ((y == 0) | (y == 1)).all() or (y.min() >= 0 and y.max() <= 1) or (y == np.round(y)).all():
        raise ValueError(
            f"Expected one-hot labels{place}, or others that say what they are. Received: labels between {y.min()} and "
            f"{y.max()} of shape {y.shape}, whose sums over the last axis are not 1. Pass the loss: for "
            f"{_BINARY_ADVICE}; for {_NUMBERS_ADVICE}; for {_CLASSES_ADVICE}."
        )
    return NUMBERS
