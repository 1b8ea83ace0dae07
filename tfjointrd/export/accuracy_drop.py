"""Refuses files that lose too much accuracy, and says which layers to leave in float."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.data import batches
from tfjointrd.export import quantize
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.layer_errors import layer_errors
from tfjointrd.export.source import file_name
from tfjointrd.surgery.output_activation import named_outputs

NAMED = 5  # layers in a message
ROUNDING = 1e-5  # what layers in float32 err
IMAGES = 16  # to look for them with


def check_limit(max_accuracy_drop: float | None, validation: Any, classes: Mapping[str, bool]) -> None:
    """Checks the arguments of the same names of `export.tflite`.

    Args:
        max_accuracy_drop: See `export.tflite`, and so for `validation`.
        validation: See `max_accuracy_drop`.
        classes: Whether each output, by its name, names classes.

    Raises:
        ValueError: If one is given without the other, if the limit is no number from 0 to 100, or if no output names
            classes.
    """
    if (max_accuracy_drop is None) != (validation is None):
        raise ValueError(
            "Expected `max_accuracy_drop`, percentage points, and `validation`, images with labels, together. "
            f"Received: max_accuracy_drop={max_accuracy_drop}, "
            f"validation={'None' if validation is None else type(validation).__name__}"
        )
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop <= 100:
        raise ValueError(f"Expected `max_accuracy_drop` from 0 to 100 percentage points. Received: {max_accuracy_drop}")
    if max_accuracy_drop is not None and not any(classes.values()):
        raise ValueError(
            "Expected a network with an output that names classes, so that accuracy can be measured, or "
            f"`max_accuracy_drop=None`. `max_error` limits errors of other outputs. Received: outputs {list(classes)} "
            "without classes"
        )


def check_accuracy_drop(
    model: keras.Model,
    file: Path,
    quantization: str | Mapping[str, str | None] | None,
    validation: Any,
    max_accuracy_drop: float,
    images: np.ndarray,
    classes: Mapping[str, bool],
) -> None:
    """Refuses a file that is less accurate than its network by more than a limit.

    Args:
        model: The network.
        file: The file.
        quantization: Its number format.
        validation: Images with labels.
        max_accuracy_drop: Most percentage points it may lose.
        images: Images by which to find the layers that err most.
        classes: Whether each output, by its name, names classes. Of several outputs, those are looked at that do.

    Raises:
        ValueError: If it loses more. The message names the layers that err most.
    """
    runner = TFLiteModel(file)
    before, after = _accuracies(model, runner, validation, classes)
    name = max(before, key=lambda name: before[name] - after[name])
    drop = 100 * (before[name] - after[name])
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
    place = f" in output '{name}'" if len(classes) > 1 else ""
    raise ValueError(
        f"Expected a file that loses at most {max_accuracy_drop:g} percentage points of accuracy. Received: one in "
        f"{quantize.describe(quantization)}, which loses {drop:.2f}{place}: {100 * before[name]:.2f} % became "
        f"{100 * after[name]:.2f} %. "
        f"It was not kept. {advice}"
    )


def _accuracies(
    model: keras.Model, runner: TFLiteModel, data: Any, classes: Mapping[str, bool]
) -> list[dict[str, float]]:
    """Accuracies of network and file by output, on the same images, which may come once only."""
    names, looked_at = list(classes), [name for name, own in classes.items() if own]

    def of_network(x):
        outputs = named_outputs(names, model.predict_on_batch(x))
        return {name: outputs[name] for name in looked_at}

    def of_file(x):
        outputs = runner.predict(x)
        if not isinstance(outputs, Mapping):
            return dict.fromkeys(looked_at, outputs)
        return {name: outputs[file_name(name)] for name in looked_at}

    right: list[defaultdict[str, float]] = [defaultdict(float), defaultdict(float)]
    count: Counter[str] = Counter()
    for x, y in batches.batches(data, shape=runner.input_shape[1:], argument="validation"):
        labels = _labels(y, names, looked_at)
        count.update(dict.fromkeys(labels, len(x)))
        for total, predict in zip(right, (of_network, of_file), strict=True):
            found: Any = batches.accuracy(predict, [(x, labels)], argument="validation")
            for name, share in found.items():
                total[name] += share * len(x)
    return [{name: total[name] / count[name] for name in count} for total in right]


def _labels(y: Any, names: list[str], looked_at: list[str]) -> dict[str, Any]:
    """The labels of the outputs that are looked at, by their names."""
    by_output = {names[0]: y} if len(names) == 1 else y
    if isinstance(y, (list, tuple)) and len(y) == len(names) > 1:
        by_output = dict(zip(names, y, strict=True))
    found = {}
    if isinstance(by_output, Mapping) and set(by_output) <= set(names):
        found = {name: by_output[name] for name in looked_at if by_output.get(name) is not None}
    if not found:
        received = "batches without labels" if y is None else sorted(y) if isinstance(y, Mapping) else type(y).__name__
        raise ValueError(
            f"Expected `validation` to hold batches (x, y){f', labels y by output: {looked_at}' * (len(names) > 1)}. "
            f"Received: {received}"
        )
    return found
