"""What a page has to know of a `.tflite` file: what goes in, what comes out and what that means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tfjointrd.export.file_graph import FileGraph, final_operator, read_file
from tfjointrd.export.file_range import range_of
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.metadata import read_metadata
from tfjointrd.pixel_ranges import PIXEL_RANGES

_TYPES = ("float32", "uint8")  # that the browser's runtime takes at a file's ends
_SUM_TOLERANCE = 0.02  # of the sums of probabilities, which may be rounded to integers


def describe(path: str | os.PathLike, pixel_range: str | None = None) -> dict[str, Any]:
    """Describes a file that classifies images.

    Args:
        path: The `.tflite` file.
        pixel_range: The numbers that the network takes for pixels from 0 to 255, a name of
            `tfjointrd.pixel_ranges.PIXEL_RANGES`. By default the file's beginning tells them, if it can; otherwise they
            are 0 to 255, and `"range_is_assumed"` is true.

    Returns:
        Plain data: `"input"` and `"output"` with shape, number format, scale and zero point; `"pixels"` with a scale
        and an offset for each channel; `"activation"`, `"softmax"` or `"sigmoid"` if outputs are probabilities and
        `None` if they are logits; `"bytes"`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, or one that takes no images or does not classify them, or if
            `pixel_range` is no such name.
    """
    model = TFLiteModel(path)
    content = Path(path).read_bytes()
    name = os.fspath(path)
    _check_ends(model, name)
    if pixel_range is not None and pixel_range not in PIXEL_RANGES:
        raise ValueError(
            f"Expected `pixel_range` to be one of {list(PIXEL_RANGES)}. Received: pixel_range='{pixel_range}'"
        )
    graph = read_file(content)
    stated = read_metadata(path)
    found = pixel_range or (stated and stated.pixel_range) or range_of(content, graph, model)
    (output,) = model.outputs.values()
    channels = model.input_shape[-1]
    steps = PIXEL_RANGES[found or "0..255"]
    if pixel_range is None and stated is not None and stated.pixel_range is None and stated.normalizes:
        mean, std = np.array(stated.mean), np.array(stated.std)
        steps, found = (1 / std, -mean / std), f"mean {mean[0]:g}, std {std[0]:g}"
    scale, offset = (np.broadcast_to(part, channels if np.size(part) == 1 else np.shape(part)) for part in steps)
    if len(scale) != channels:
        raise ValueError(
            f"Expected `pixel_range` for {channels} channel, which path='{name}' takes. Received: "
            f"pixel_range='{pixel_range}', which has {len(scale)}"
        )
    return {
        "bytes": len(content),
        "input": _end(model.input_shape, model.input_type, model.input_quantization),
        "output": _end(output.shape, output.type, output.quantization),
        "pixels": {"range": found or "0..255", "scale": scale.tolist(), "offset": offset.tolist()},
        "range_is_assumed": found is None,
        "activation": _activation(graph, model, name),
    }


def _activation(graph: FileGraph, model: TFLiteModel, name: str) -> str | None:
    """Whether outputs are probabilities already: by the last operator, or by what comes out, as of averaged ones."""
    random = np.random.default_rng(0)
    shape = (4, *model.input_shape[1:])
    images = np.concatenate([random.uniform(low, high, shape) for low, high in ((0, 255), (0, 1), (-1, 1))])
    outputs = model.predict(images.astype("float32")).reshape(len(images), -1)
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"Expected `path` to be a file whose outputs are numbers. Received: path='{name}', which gives NaN or "
            "infinity on random images"
        )
    kind = final_operator(graph, graph.outputs[0])
    if kind in ("SOFTMAX", "LOGISTIC"):
        return {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}[kind]
    sums = outputs.sum(axis=-1)
    varied = np.ptp(outputs, axis=0).max() > 0
    return "softmax" if varied and outputs.min() >= 0 and np.abs(sums - 1).max() < _SUM_TOLERANCE else None


def _end(shape: tuple[int, ...], number: str, quantization: tuple[float, int]) -> dict[str, Any]:
    scale, zero_point = quantization
    return {"shape": list(shape), "type": number, "scale": float(scale), "zero_point": int(zero_point)}


def _check_ends(model: TFLiteModel, name: str) -> None:
    shape = model.input_shape
    if len(shape) != 4 or shape[0] != 1 or shape[-1] not in (1, 3):
        raise ValueError(
            "Expected `path` to be a file that takes one image (1, height, width, 1 or 3 channels). "
            f"Received: path='{name}', which takes shape {shape}"
        )
    signature = model.interpreter.get_input_details()[0]["shape_signature"]
    if any(size < 0 for size in signature[1:]):
        raise ValueError(
            "Expected `path` to be a file that takes images of a fixed size. "
            f"Received: path='{name}', which takes shape {tuple(map(int, signature))}, where -1 is any size"
        )
    if len(model.outputs) != 1:
        raise ValueError(
            "Expected `path` to be a file with one output, which names classes. Make a `keras.Model(input, output)` of "
            f"the part to show. Received: path='{name}' with outputs {list(model.outputs)}"
        )
    output = model.output_shape
    if int(np.prod(output)) != output[-1] or output[-1] < 2:
        raise ValueError(
            "Expected `path` to be a file whose output is one number for each of several classes, (1, classes). "
            f"Received: path='{name}', which gives shape {output}"
        )
    ends = ((model.input_type, model.input_quantization), (model.output_type, model.output_quantization))
    for number, (scale, _) in ends:
        if number not in _TYPES or (number != "float32" and not scale):
            raise ValueError(
                "Expected `path` to be a file with float32 or uint8 numbers and their scale at its ends, as the "
                "browser's runtime takes them. Export it with `input_type='uint8'` and `output_type='float32'`. "
                f"Received: path='{name}', which takes {model.input_type} and gives {model.output_type}"
                + ("" if number not in _TYPES else " without a scale")
            )
