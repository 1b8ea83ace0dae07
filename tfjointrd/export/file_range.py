"""The range of pixels that a `.tflite` file takes, as its beginning tells it."""

from __future__ import annotations

import numpy as np

from tfjointrd.export.file_graph import FileGraph, takes_pixels
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.pixel_ranges import PIXEL_RANGES

_RANGE_TOLERANCE = 0.1  # share of a range by which the integers of a file may miss its ends


def range_of(content: bytes, graph: FileGraph, model: TFLiteModel) -> str | None:
    """The range of pixels that a file's beginning tells of, by its name, or `None`.

    Integers that images are turned into are calibrated on the range of the images. A network in floats tells its range
    if it begins by making pixels from 0 to 255 smaller, or by taking their mean away.
    """
    first = next((step for step in graph.operators if graph.inputs[0] in step.inputs), None)
    details = model.interpreter.get_tensor_details()
    quantized = graph.inputs[0]
    if model.input_type == "float32" and first is not None and first.kind == "QUANTIZE":
        quantized = first.outputs[0]
    detail = next(detail for detail in details if detail["index"] == quantized)
    scale, zero_point = detail["quantization"]
    if scale:
        limits = np.iinfo(detail["dtype"])
        ends = scale * (limits.min - zero_point), scale * (limits.max - zero_point)
        if detail["dtype"] == np.int16:  # symmetric, so that the upper end alone tells something
            return "0..255" if abs(ends[1] - 255) < 255 * _RANGE_TOLERANCE else None
        return _range_between(*ends)
    if model.input_type != "float32" or first is None:
        return None
    return "0..255" if takes_pixels(content) or _takes_mean_away(first, model) else None


def _range_between(low: float, high: float) -> str | None:
    for name in ("0..255", "0..1", "-1..1"):
        scale, offset = PIXEL_RANGES[name]
        expected = np.array([offset, 255 * scale + offset])
        if np.abs(expected - (low, high)).max() < _RANGE_TOLERANCE * np.ptp(expected):
            return name
    return None


def _takes_mean_away(first, model: TFLiteModel) -> bool:
    if first.kind not in ("SUB", "ADD") or not first.constants:
        return False
    return bool(np.abs(model.interpreter.get_tensor(first.constants[0])).max() > 10)
