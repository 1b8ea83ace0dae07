"""Runs files and compares them with their networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.data import batches
from tfjointrd.export.file_graph import read_file
from tfjointrd.export.file_range import range_of
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.metadata import read_metadata
from tfjointrd.export.quantize import describe
from tfjointrd.export.source import file_name
from tfjointrd.surgery.output_activation import named_outputs


@dataclass(frozen=True)
class OutputReport:
    """How one output of a file compares with its network's.

    Attributes:
        name: Its name in the file.
        max_difference: Largest difference.
        scale: Largest absolute output of the Keras network; what `max_difference` is to be seen against.
        relative_error: ‖file - network‖ / ‖network‖, Euclidean norms over all images.
        top1_agreement: Share of the images, or positions, on which both name the same class; `None` for an output that
            names none.
    """

    name: str
    max_difference: float
    scale: float
    relative_error: float
    top1_agreement: float | None

    def __str__(self) -> str:
        """The report in half a line."""
        same = "" if self.top1_agreement is None else f"same class {100 * self.top1_agreement:.1f} %, "
        return (
            f"{same}largest difference {self.max_difference:.2g} of outputs up to {self.scale:.2g}, relative error "
            f"{self.relative_error:.2g}"
        )


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
        output_quantization: Likewise of its output; of several, the first by name.
        images: Number of images both were run on.
        outputs: How each output compares.
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
    outputs: tuple[OutputReport, ...]

    @property
    def max_difference(self) -> float:
        """Largest difference between the outputs; of several, that of the one where it is the largest share."""
        return self._worst.max_difference

    @property
    def output_scale(self) -> float:
        """Largest absolute output of the Keras network; what `max_difference` is to be seen against."""
        return self._worst.scale

    @property
    def relative_error(self) -> float:
        """‖file - network‖ / ‖network‖, of several outputs the largest."""
        return max(output.relative_error for output in self.outputs)

    @property
    def top1_agreement(self) -> float | None:
        """Share of the images on which both name the same class, of several outputs the least; `None` for none."""
        found = [output.top1_agreement for output in self.outputs if output.top1_agreement is not None]
        return min(found) if found else None

    @property
    def _worst(self) -> OutputReport:
        return max(self.outputs, key=lambda output: output.max_difference / max(output.scale, 1e-30))

    def __str__(self) -> str:
        """The report in one line."""
        several = len(self.outputs) > 1
        outputs = "; ".join(f"{output.name}: {output}" if several else str(output) for output in self.outputs)
        return (
            f"{self.path}: {self.bytes:,} bytes, {describe(self.quantization)}, {self.input_type} in, "
            f"{self.output_type} out; against the network on {self.images} images: {outputs}"
        )


def accuracy(path: str | os.PathLike, data: Any, threads: int = 1) -> float | dict[str, float]:
    """Top-1 accuracy of a `.tflite` file; of each position, where a file classifies these.

    Args:
        path: The file.
        data: Images with labels, integers or one-hot, in any form that `tfjointrd.data.batches` describes. For a file
            with several outputs, the labels are a dict by the names of those that are to be looked at.
        threads: Number of processor threads.

    Returns:
        The share of images whose class the file names; of several outputs, a dict of shares.

    Raises:
        ValueError: If `data` holds no images of the file's shape, or no labels that are classes of the output; if an
            output has one number for all classes; or if the images are not in the range that the file takes, as its
            metadata or first operators tell.
    """
    file, stated = TFLiteModel(path, threads), read_metadata(path)
    if stated is None or stated.pixel_range is None:
        content = Path(path).read_bytes()
        pixel_range = range_of(content, read_file(content), file)
    else:
        pixel_range = stated.pixel_range

    def predict(x):
        said = "metadata" if stated and stated.pixel_range else "first operators"
        _check_range(pixel_range, said, np.asarray(x), path)
        outputs = file.predict(x)
        if not isinstance(outputs, Mapping) and outputs.shape[-1] == 1:
            raise ValueError(
                f"Expected a file with one output for each class. Received: path='{path}', with one output"
            )
        return outputs

    return batches.accuracy(predict, data, shape=file.input_shape[1:])


def _check_range(pixel_range: str | None, source: str, x: np.ndarray, path: str | os.PathLike) -> None:
    """Whether images are pixels as the file takes them, where that shows."""
    high = float(x.max())
    if (pixel_range == "0..255" and 0 < high <= 1) or (pixel_range in ("0..1", "-1..1") and high > 2):
        raise ValueError(
            f"Expected `data` in the range {pixel_range}, as the {source} of path='{os.fspath(path)}' say. Received: "
            f"values up to {high:g}"
        )


def compare(
    model: keras.Model,
    part: Path,
    images: np.ndarray,
    path: Path,
    quantization: str | Mapping[str, str | None] | None,
    classes: Mapping[str, bool],
    named: Callable[[str], str] = file_name,
) -> ExportReport:
    """Runs file and network on the same images.

    Args:
        model: The network.
        part: The file.
        images: The images `(count, height, width, channels)`.
        path: The file's place in the end.
        quantization: Its quantization.
        classes: Whether each output, by its name, names classes.
        named: What an output is called in the file.

    Raises:
        ValueError: If the network returns infinite numbers or NaN.
    """
    file = TFLiteModel(part)
    actual = file.predict(images)
    pieces = np.array_split(images, -(-len(images) // 32))
    found = [named_outputs(list(classes), model(piece, training=False)) for piece in pieces]
    reports = []
    for name, names_class in classes.items():
        expected = np.concatenate([keras.ops.convert_to_numpy(outputs[name]) for outputs in found])
        if not np.isfinite(expected).all():
            raise ValueError(f"Expected `model` to return finite numbers. Received: '{model.name}', which does not")
        inside = named(name)
        own = actual[inside] if isinstance(actual, Mapping) else actual
        reports.append(_compared(inside, own, expected, names_class))
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
        outputs=tuple(reports),
    )


def _compared(name: str, actual: np.ndarray, expected: np.ndarray, names_class: bool) -> OutputReport:
    difference = np.abs(actual.astype("float64") - expected)
    norm = float(np.linalg.norm(expected.astype("float64")))
    return OutputReport(
        name=name,
        max_difference=float(difference.max()),
        scale=float(np.abs(expected).max()),
        relative_error=float(np.linalg.norm(difference) / max(norm, 1e-30)),
        top1_agreement=float(np.mean(actual.argmax(-1) == expected.argmax(-1))) if names_class else None,
    )


def check_agreement(
    report: ExportReport, exact: bool, tolerance: float, min_agreement: Mapping[str, float | None], max_error: float
) -> None:
    """Refuses a file that does not compute what the network computes.

    Args:
        report: What `compare` found.
        exact: Whether the outputs have to be the same, or the classes.
        tolerance: Largest difference of exact outputs, as a share of the largest output.
        min_agreement: For each output, the least share of images on which the classes have to be the same; `None` where
            there are none.
        max_error: Largest relative error of outputs that name no class.

    Raises:
        ValueError: If it does not.
    """
    for output in report.outputs:
        least = min_agreement[output.name]
        # A comparison with NaN is false, so that NaN fails all.
        if exact:
            agrees = output.max_difference <= tolerance * output.scale
            wanted = f"a largest difference of at most {tolerance} of the outputs"
        elif least is None or output.top1_agreement is None:
            agrees = output.relative_error <= max_error
            wanted = f"a relative error of at most {max_error:g}"
        else:
            agrees = output.top1_agreement >= least and np.isfinite(output.max_difference)
            wanted = (
                f"the same class on at least {100 * least:g} % of the images (`min_agreement=None` for outputs that "
                "are no classes)"
            )
        if not agrees:
            raise ValueError(
                f"The file does not compute the same as the network and was not kept. Expected {wanted}"
                f"{f' of {output.name}' if len(report.outputs) > 1 else ''}. Received: {report}"
            )
