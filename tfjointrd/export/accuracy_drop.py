"""Refuses files that lose too much accuracy, and says which layers to leave in float."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.data import batches
from tfjointrd.export import quantize
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.layer_errors import layer_errors

NAMED = 5  # layers in a message
ROUNDING = 1e-5  # what layers in float32 err
IMAGES = 16  # to look for them with


def check_limit(max_accuracy_drop: float | None, validation: Any) -> None:
    """Checks the arguments of the same names of `export.tflite`.

    Raises:
        ValueError: If one is given without the other, or the limit is no number from 0 to 100.
    """
    if (max_accuracy_drop is None) != (validation is None):
        raise ValueError(
            "Expected `max_accuracy_drop`, percentage points, and `validation`, images with labels, together. "
            f"Received: max_accuracy_drop={max_accuracy_drop}, "
            f"validation={'None' if validation is None else type(validation).__name__}"
        )
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop <= 100:
        raise ValueError(f"Expected `max_accuracy_drop` from 0 to 100 percentage points. Received: {max_accuracy_drop}")


def check_accuracy_drop(
    model: keras.Model,
    file: Path,
    quantization: str | Mapping[str, str | None] | None,
    validation: Any,
    max_accuracy_drop: float,
    images: np.ndarray,
) -> None:
    """Refuses a file that is less accurate than its network by more than a limit.

    Args:
        model: The network.
        file: The file.
        quantization: Its number format.
        validation: Images with labels.
        max_accuracy_drop: Most percentage points it may lose.
        images: Images by which to find the layers that err most.

    Raises:
        ValueError: If it loses more. The message names the layers that err most.
    """
    runner = TFLiteModel(file)
    before, after = _accuracies((model.predict_on_batch, runner.predict), validation, runner.input_shape[1:])
    drop = 100 * (before - after)
    if drop <= max_accuracy_drop:
        return
    errors = layer_errors(file, model, images[:IMAGES])
    worst = [found.layer for found in errors if found.own_error > ROUNDING][:NAMED]
    advice = "No layer that errs was found in the file by its name."
    if worst:
        general = {"*": quantization} if not isinstance(quantization, Mapping) else dict(quantization)
        advice = (
            f"The layers that err most are {', '.join(map(repr, worst))}, worst first. Leave as many of them in float "
            f"as it takes, e.g. quantization={general | {worst[0]: 'float32'}}, or choose another format."
        )
    raise ValueError(
        f"Expected a file that loses at most {max_accuracy_drop:g} percentage points of accuracy. Received: one in "
        f"{quantize.describe(quantization)}, which loses {drop:.2f}: {100 * before:.2f} % became {100 * after:.2f} %. "
        f"It was not kept. {advice}"
    )


def _accuracies(predictors, data: Any, shape: tuple[int, ...]) -> list[float]:
    """Accuracy of each on the same images, which may come once only."""
    right, count = np.zeros(len(predictors)), 0
    for x, y in batches.batches(data, shape=shape, argument="validation"):
        labelled = x if y is None else (x, y)
        right += [len(x) * batches.accuracy(predict, labelled, argument="validation") for predict in predictors]
        count += len(x)
    return list(right / count)
