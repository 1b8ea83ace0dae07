"""Keras networks as `.tflite` files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras

from tfjointrd.export import quantize
from tfjointrd.export.quantize import Quantizer
from tfjointrd.export.samples import random_images, sample
from tfjointrd.export.source import Source, file_name, in_float32
from tfjointrd.export.verify import ExportReport, check_agreement, compare
from tfjointrd.files import replacing
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.tasks import classifying


def tflite(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str | None = None,
    representative_data: Any = None,
    *,
    input_type: str | None = None,
    output_type: str = "float32",
    tolerance: float = 1e-3,
    min_agreement: float | Mapping[str, float | None] | None = 0.8,
    max_error: float = 0.1,
    saved_model: str | os.PathLike | None = None,
) -> ExportReport:
    """Writes a network as a `.tflite` file and proves that it computes what the Keras network computes.

    The file has a fixed batch of one image and uses builtin operators only. It is run in the LiteRT interpreter and
    compared with the network on sample images first; a file that disagrees or returns NaN is an error and is not kept.
    A network in mixed precision is rebuilt in float32 before.

    With `quantization="int8"`, weights and activations are 8-bit integers. The file then takes raw pixels as bytes
    from 0 to 255, which is what a camera delivers, and returns floats. For hardware without floats, ask for
    `output_type="int8"`. A byte stands for its own value if the network takes pixels from 0 to 255; if it takes another
    range, `input_quantization` of the report says what a byte stands for.

    Args:
        model: A functional or Sequential network with one input `(batch, height, width, channels)` of fixed size, and
            one or several outputs: logits, probabilities or numbers, of the image or of its positions. Several keep
            their names in the file, with `_` for characters other than letters and digits.
        path: Where the file goes; its folder has to exist.
        quantization: `None` for float32, or `"int8"`.
        representative_data: Images the network was trained on or similar ones, in the range the network takes: an array
            `(count, height, width, channels)`, or an iterable (`tf.data.Dataset`, `keras.utils.PyDataset`, ...) of
            batches `x` or `(x, y)`, shuffled, or a function that returns one, as TFLite's `representative_dataset`. Up
            to 256 images are taken. Needed for int8, to calibrate the ranges of activations; the file is checked on the
            half of them that it was not calibrated on. Optional for float32, which otherwise is checked on random
            images.
        input_type: `"uint8"`, `"int8"` or `"float32"`; by default `"uint8"` for int8 and `"float32"` otherwise.
        output_type: Likewise for the output.
        tolerance: Largest difference that a float32 file may have, as a share of the largest output. Rounding differs
            by 1e-6 to 1e-5 from one implementation to the next; what is really wrong differs by 1e-2 and more.
        min_agreement: Least share of images, or positions, on which an int8 file has to name the network's class.
            Trained networks reach 0.95 and more. An untrained one may not, as its outputs hardly differ between
            classes. Several channels are taken for classes unless they end in a sigmoid, or the network was compiled
            with a loss for something else; `None` says that there are none. For several outputs also a dict by their
            names.
        max_error: Largest relative error ‖file - network‖ / ‖network‖ of an int8 file, for outputs without classes.
        saved_model: Folder for the SavedModel by way of which the network is converted, temporary by default. A
            SavedModel that is there already is taken for that of `model`: what several files of one network share is
            then written once.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument does not fit, before any long work; if the network needs an operator that is not
            built into TFLite; if the file does not agree with the network.
        OSError: If `path` cannot be written.
        RuntimeError: If Keras does not run on TensorFlow.

    Example:

    >>> train, test = jrd.data.load("digits")
    >>> written = tflite(model, "model.tflite", quantization="int8", representative_data=train)
    >>> 0 <= jrd.export.accuracy(written.path, test) <= 1
    True
    """
    _check_network(model)
    quantizer = quantize.get(quantization)
    input_type = input_type or quantizer.input_type
    _check_types(quantizer, input_type, output_type)
    classes = classifying(model)
    least = _agreement_by_output(min_agreement, classes)
    if quantizer.needs_images and representative_data is None:
        raise ValueError(f"Expected `representative_data`, images to calibrate {quantization} on. Received: None")
    with replacing(path) as part:
        images = random_images(model) if representative_data is None else sample(representative_data, model)
        model = in_float32(model)
        calibration, check = (images[::2], images[1::2]) if quantizer.needs_images else (None, images[::2])
        with tempfile.TemporaryDirectory() if saved_model is None else nullcontext(saved_model) as saved:
            source = Source(model, Path(saved), input_type, output_type)
            part.write_bytes(quantizer.function(source, calibration))
        report = compare(model, part, check if len(check) else images, Path(path), quantization, classes)
        check_agreement(report, quantizer.exact, tolerance, least, max_error)
    return report


def _check_network(model: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Files for phones are written on the TensorFlow backend. Save the network with `model.save('model.keras')` "
            "and load it in a process that was started with KERAS_BACKEND=tensorflow. "
            f"Received: backend '{keras.backend.backend()}'"
        )
    parts = [part for part in ("small()", "full()", "student") if hasattr(model, part.rstrip("()"))]
    if parts:
        options = " or ".join(f"`model.{part}`" for part in parts)
        raise ValueError(f"Expected one network to deploy, such as {options}. Received: {type(model).__name__}")
    functional(model)
    if len(model.inputs) != 1:
        raise ValueError(
            "Expected `model` to have one input; make a `keras.Model(input, outputs)` of the part to deploy. Received: "
            f"'{model.name}' with {len(model.inputs)} inputs"
        )
    shape, dtype = model.inputs[0].shape, keras.backend.standardize_dtype(model.inputs[0].dtype)
    if None in shape[1:] or not dtype.startswith(("float", "bfloat")):
        raise ValueError(
            "Expected `model` to take floats of a fixed size. Received: "
            f"'{model.name}' with an input of shape {tuple(shape)} and dtype {dtype}"
        )


def _check_types(quantizer: Quantizer, input_type: str, output_type: str) -> None:
    for argument, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in quantizer.types:
            raise ValueError(
                f"Expected `{argument}` to be one of {quantizer.types} with quantization={quantizer.argument!r}. "
                f"Received: {argument}={value!r}"
            )


def _agreement_by_output(
    min_agreement: float | Mapping[str, float | None] | None, classes: dict[str, bool]
) -> dict[str, float | None]:
    """The least agreement of each output, by its name in the file; `classes` learns which are said to have none."""
    if isinstance(min_agreement, Mapping) and not set(min_agreement) <= set(classes):
        raise ValueError(
            f"Expected `min_agreement` by output: {list(classes)}. Received: min_agreement={min_agreement!r}"
        )
    found: dict[str, float | None] = {}
    for name in classes:
        least = min_agreement.get(name, 0.8) if isinstance(min_agreement, Mapping) else min_agreement
        classes[name] = classes[name] and least is not None
        found[file_name(name)] = least if classes[name] else None
    return found
