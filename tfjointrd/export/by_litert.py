"""Number formats by Google's litert-quantizer, which starts from a float32 file and needs no TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfjointrd.export.by_tensorflow import DESCRIPTIONS, INT8, INT16
from tfjointrd.export.quantizer import FLOAT32, LITERT, register_quantizer

if TYPE_CHECKING:
    import numpy as np

    from tfjointrd.export.file_graph import FileGraph, Operator
    from tfjointrd.export.source import FileSource, Source


def _tensor(bits: int, symmetric: bool = True, granularity: str = "TENSORWISE", dtype: str = "INT") -> dict[str, Any]:
    return {"num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": dtype}


def _setting(weights: dict, activations: dict | None = None, in_integers: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"weight_tensor_config": weights, "activation_tensor_config": activations}
    found |= {"compute_precision": "INTEGER" if in_integers else "FLOAT", "explicit_dequantize": not in_integers}
    return {name: value for name, value in found.items() if value is not None}


_MIN_MAX, _NOT_AT_ALL = "min_max_uniform_quantize", "no_quantize"
_WEIGHTS = _tensor(8, granularity="CHANNELWISE")
_BYTES_IN = _setting(_WEIGHTS, _tensor(8, symmetric=False, dtype="UINT"))
# Format -> `(algorithm, setting)`, each for the operators that can have it; where several can, the last one counts.
_SETTINGS = {
    FLOAT32: [],
    "float16": [("float_casting", _setting(_tensor(16, dtype="FLOAT"), in_integers=False))],
    "dynamic": [(_MIN_MAX, _setting(_WEIGHTS))],
    "int8": [(_MIN_MAX, _setting(_WEIGHTS, _tensor(8, symmetric=False)))],
    "int16x8": [(_MIN_MAX, _setting(_WEIGHTS, _tensor(16)))],
    "int4": [
        (_MIN_MAX, _setting(_WEIGHTS)),
        (_MIN_MAX, _setting(_tensor(4, granularity="CHANNELWISE"))),
    ],
}
FORMATS = tuple(_SETTINGS)
# Depthwise convolutions whose activations are quantized while the file runs have no fast kernel: EfficientNet-Lite0 in
# dynamic takes 33 ms as TensorFlow converts it, and 13 ms with theirs in float (`benchmarks/quantization.md`).
_COMPUTED_IN_FLOAT = {
    (name, "DEPTHWISE_CONV_2D"): [(_MIN_MAX, _setting(_WEIGHTS, in_integers=False))] for name in ("dynamic", "int4")
}


@register_quantizer("float16", converter=LITERT, description=DESCRIPTIONS["float16"])
def float16(source: Source | FileSource, images: None = None) -> bytes:
    """Weights as 16-bit floats."""
    return by_layer(source, None, {"*": "float16"})


@register_quantizer("dynamic", converter=LITERT, description=DESCRIPTIONS["dynamic"])
def dynamic(source: Source | FileSource, images: None = None) -> bytes:
    """Weights as 8-bit integers; ranges of activations are those of the image at hand."""
    return by_layer(source, None, {"*": "dynamic"})


@register_quantizer("int8", converter=LITERT, description=DESCRIPTIONS["int8"], **INT8)
def int8(source: Source | FileSource, images: np.ndarray) -> bytes:
    """Weights and activations as 8-bit integers."""
    return by_layer(source, images, {"*": "int8"})


@register_quantizer("int16x8", converter=LITERT, description=DESCRIPTIONS["int16x8"], **INT16)
def int16x8(source: Source | FileSource, images: np.ndarray) -> bytes:
    """Weights as 8-bit, activations as 16-bit integers."""
    return by_layer(source, images, {"*": "int16x8"})


@register_quantizer("int4", converter=LITERT, description=DESCRIPTIONS["int4"])
def int4(source: Source | FileSource, images: None = None) -> bytes:
    """Weights as 4-bit integers where there are such operators, others as 8-bit integers."""
    return by_layer(source, None, {"*": "int4"})


def by_layer(source: Source | FileSource, images: np.ndarray | None, formats: Mapping[str, str]) -> bytes:
    """A file whose layers have formats of their own.

    Args:
        source: The network or the float32 file.
        images: Images to calibrate on, or `None` if no format needs any.
        formats: Names or patterns of layers -> format; of several that match, the last one counts.

    Raises:
        ImportError: If litert-quantizer is not installed.
        ValueError: If a pattern matches no layer.
    """
    from tfjointrd.export.file_graph import read_file
    from tfjointrd.export.int8_scales import with_usable_scales, with_whole_biases
    from tfjointrd.export.interpreter import quiet
    from tfjointrd.export.samples import with_pixel_limits

    quantizer = _library()
    content = source.float32_file()
    graph = read_file(content, source.layers, None if source.layers is None else source.name)
    recipe = [entry for step in graph.operators for entry in _entries(step, _format_of(step, graph, formats))]
    recipe += _ends(source, formats)
    with quiet():
        made = quantizer.Quantizer(bytearray(content), recipe)
        ranges = None if images is None else _ranges(content, recipe, graph, with_pixel_limits(images))
        if ranges is not None and "int16x8" in formats.values():
            ranges = _without_powers_of_two(ranges)
        written = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return with_usable_scales(with_whole_biases(bytes(written.quantized_model), content))


def _library():
    try:
        import litert_quantizer
    except ImportError as error:
        raise ImportError(
            "Files of this number format are made by litert-quantizer. Install it with "
            f"`pip install 'tfjointrd[phones]'`, or choose converter='tensorflow'. Python says: {error}"
        ) from error
    return litert_quantizer


def _format_of(step: Operator, graph: FileGraph, formats: Mapping[str, str]) -> str:
    """The format of an operator: that of the last pattern that matches one of its layers."""
    from tfjointrd.surgery.name_patterns import matching

    chosen = FLOAT32
    for pattern, name in formats.items():
        if pattern == "*" or set(matching(graph.layers, [pattern], "quantization")) & {*step.layers}:
            chosen = name
    return chosen


def _entries(step: Operator, chosen: str) -> list[dict[str, Any]]:
    """What the recipe says of an operator. An expression stands once in a recipe, so that two differ by a group."""
    settings = _COMPUTED_IN_FLOAT.get((chosen, step.kind), _SETTINGS[chosen])
    expressions = (f"^{re.escape(step.scope)}$", f"^(?:{re.escape(step.scope)})$")
    return [
        {"regex": expression, "operation": "*", "algorithm_key": algorithm, "op_config": setting}
        for expression, (algorithm, setting) in zip(expressions, settings, strict=False)
    ]


def _ends(source: Source | FileSource, formats: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the recipe says of input and output."""
    bits = {"int8": 8, "int16": 16}
    found = []
    for operation, number in (("INPUT", source.input_type), ("OUTPUT", source.output_type)):
        setting = _BYTES_IN if number == "uint8" else {}
        if number in bits:
            setting = _setting(_WEIGHTS, _tensor(bits[number], symmetric=number == "int16"))
        algorithm = _MIN_MAX if setting else _NOT_AT_ALL
        found.append({"regex": ".*", "operation": operation, "algorithm_key": algorithm, "op_config": setting})
    return found


def _ranges(content: bytes, recipe: list, graph: FileGraph, images: np.ndarray) -> dict[str, Any]:
    """The lowest and highest value of each tensor over all images.

    The library's own way is a moving average, which lies within what occurs: a pixel of 255 would be cut off.
    """
    from litert_quantizer import calibrator, recipe_manager
    from litert_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    found = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    names = graph.signature[0]
    name = names.get(graph.inputs[0])
    signature = found.get_signature_list()
    found.calibrate({next(iter(signature)): [{name: image[None]} for image in images]}, manager)
    return found.get_model_qsvs()


def _without_powers_of_two(ranges: dict[str, Any]) -> dict[str, Any]:
    """Ranges, those widened by 1 % whose scale in int16 would be next to a power of two.

    The runtime adds int16 tensors of such scales by shifts. It takes them for powers of two within 0.1 % and then
    refuses the file where a sum's scale is smaller than a summand's.
    """
    import numpy as np

    found = {}
    for name, limits in ranges.items():
        largest = max((float(np.abs(limits[side]).max()) for side in ("min", "max") if side in limits), default=0.0)
        exponent = np.log2(largest / 32767) if largest else 0.5
        wide = abs(exponent - round(exponent)) < 2e-3
        found[name] = {side: value * np.float32(1.01) for side, value in limits.items()} if wide else limits
    return found
