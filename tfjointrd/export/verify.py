"""Runs files and compares them with their networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.data import batches
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.quantize import describe


@dataclass(frozen=True)
class ExportReport:
    """What a `.tflite` file is, and how it compares with its Keras network.

    Attributes:
        path: The file.
        bytes: Its size.
        quantization: As for `export.tflite`: `None` for float32, the name of a format, or formats by layer.
        input_shape: Shape of its input, batch axis of 1 included.
        input_type: Number format of its input.
        input_quantization: `(scale, zero_point)` of its input; `(0.0, 0)` for floats.
        output_type: Number format of its output.
        output_quantization: Likewise of its output.
        images: Number of images both were run on.
        max_difference: Largest difference between the outputs.
        output_scale: Largest absolute output of the Keras network; what `max_difference` is to be seen against.
        top1_agreement: Share of the images on which both name the same class.
    """

    path: Path
    bytes: int
    quantization: str | Mapping[str, str | None] | None
    input_shape: tuple[int, ...]
    input_type: str
    input_quantization: tuple[float, int]
    output_type: str
    output_quantization: tuple[float, int]
    images: int
    max_difference: float
    output_scale: float
    top1_agreement: float

    def __str__(self) -> str:
        """The report in one line."""
        return (
            f"{self.path}: {self.bytes:,} bytes, {describe(self.quantization)}, {self.input_type} in, "
            f"{self.output_type} out; against the network on {self.images} images: same class "
            f"{100 * self.top1_agreement:.1f} %, largest difference {self.max_difference:.2g} of outputs up to "
            f"{self.output_scale:.2g}"
        )


def accuracy(path: str | os.PathLike, data: Any, threads: int = 1) -> float:
    """Top-1 accuracy of a `.tflite` file.

    Args:
        path: The file.
        data: Images with labels, integers or one-hot, in any form that `tfjointrd.data.batches` describes.
        threads: Number of processor threads.

    Returns:
        The share of images whose class the file names.

    Raises:
        ValueError: If `data` holds no labels or no images of the file's shape, or the file has one output for all
            classes.
    """
    file = TFLiteModel(path, threads)

    def predict(x):
        outputs = file.predict(x)
        if outputs.shape[-1] == 1:
            raise ValueError(
                f"Expected a file with one output for each class. Received: path='{path}', with one output"
            )
        return outputs

    return batches.accuracy(predict, data, shape=file.input_shape[1:])


def compare(
    model: keras.Model,
    part: Path,
    images: np.ndarray,
    path: Path,
    quantization: str | Mapping[str, str | None] | None,
) -> ExportReport:
    """Runs file and network on the same images.

    Args:
        model: The network.
        part: The file.
        images: The images `(count, height, width, channels)`.
        path: The file's place in the end.
        quantization: Its quantization.

    Raises:
        ValueError: If the network returns infinite numbers or NaN.
    """
    file = TFLiteModel(part)
    actual = file.predict(images)
    pieces = np.array_split(images, -(-len(images) // 32))
    expected = np.concatenate([keras.ops.convert_to_numpy(model(piece, training=False)) for piece in pieces])
    if not np.isfinite(expected).all():
        raise ValueError(f"Expected `model` to return finite numbers. Received: '{model.name}', which does not")
    return ExportReport(
        path=path,
        bytes=part.stat().st_size,
        quantization=quantization,
        input_shape=file.input_shape,
        input_type=file.input_type,
        input_quantization=file.input_quantization,
        output_type=file.output_type,
        output_quantization=file.output_quantization,
        images=len(images),
        max_difference=float(np.abs(actual - expected).max()),
        output_scale=float(np.abs(expected).max()),
        top1_agreement=float(np.mean(actual.argmax(-1) == expected.argmax(-1))),
    )


def check_agreement(report: ExportReport, exact: bool, tolerance: float, min_agreement: float) -> None:
    """Refuses a file that does not compute what the network computes.

    Args:
        report: What `compare` found.
        exact: Whether the outputs have to be the same, or the classes.
        tolerance: Largest difference of exact outputs, as a share of the largest output.
        min_agreement: Least share of images on which the classes have to be the same.

    Raises:
        ValueError: If it does not.
    """
    # A comparison with NaN is false, so that NaN fails both.
    if exact:
        agrees = report.max_difference <= tolerance * report.output_scale
        wanted = f"a largest difference of at most {tolerance} of the outputs"
    else:
        agrees = report.top1_agreement >= min_agreement and np.isfinite(report.max_difference)
        wanted = f"the same class on at least {100 * min_agreement:g} % of the images"
    if not agrees:
        raise ValueError(
            f"The file does not compute what the network computes and was not kept. Expected {wanted}. "
            f"Received: {report}"
        )
