"""Scales of an int8 file that XNNPACK, the processor backend of TFLite, accepts, and in which biases have room.

A layer whose channels all died passes on nothing but zeros, and calibration gives them a scale of next to nothing.
XNNPACK then refuses the whole file: input scale times weight scale must not exceed 256 times the output scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfjointrd.export.file_graph import pack, unpack
from tfjointrd.extras import require

schema = require("ai_edge_litert.schema_py_generated")
_MOST = 2.0**7  # half of that
_OP = schema.BuiltinOperator
# Operators with weights: where among their inputs the images, the weights and the bias are.
_WEIGHTED = {
    _OP.CONV_2D: (0, 1, 2),
    _OP.DEPTHWISE_CONV_2D: (0, 1, 2),
    _OP.FULLY_CONNECTED: (0, 1, 2),
    _OP.TRANSPOSE_CONV: (2, 1, 3),
}
_MOST_BIAS = 2.0**30  # half of what int32 holds
_BIASES = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
# Operators whose inputs and outputs share one scale.
_UNSCALED = {
    *(_OP.CONCATENATION, _OP.RESHAPE, _OP.SQUEEZE, _OP.EXPAND_DIMS, _OP.TRANSPOSE, _OP.PAD, _OP.PADV2),
    *(_OP.SLICE, _OP.STRIDED_SLICE, _OP.SPLIT, _OP.SPLIT_V, _OP.GATHER, _OP.MAXIMUM, _OP.MINIMUM),
    *(_OP.MAX_POOL_2D, _OP.AVERAGE_POOL_2D, _OP.RESIZE_BILINEAR, _OP.RESIZE_NEAREST_NEIGHBOR),
}


def with_usable_scales(content: bytes) -> bytes:
    """An int8 file whose next to nothing scales are raised to the least that XNNPACK takes.

    Where all channels of a layer died, that is less than the quantization of what they are computed from. Where one
    channel with huge weights died beside others that live, these are quantized more coarsely than calibration would.

    Args:
        content: A `.tflite` file.

    Returns:
        The file with these scales, and the biases that follow from them, replaced; `content` itself if there are none.
    """
    model = unpack(content)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    changed = False
    for graph in model.subgraphs:
        raised: set[int] = set()
        while _raise_scales(codes, graph, raised):
            changed = True
        _rescale_biases(model, codes, graph, raised)
    return _packed(model, len(content)) if changed else content


def with_whole_biases(content: bytes, float32_content: bytes) -> bytes:
    """A file of litert-quantizer in which biases that it cut off are whole.

    Where all weights of a channel, or all of a layer's inputs, are next to zero, so are their scales, whose product is
    the bias's scale, and a bias in int32 does not reach far enough. The channel's weights get a larger scale.

    Args:
        content: The file.
        float32_content: The file that it was made from.

    Returns:
        The file with these weights and biases replaced; `content` itself if there are none.
    """
    model, original = unpack(content), unpack(float32_content)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    changed = False
    for graph, before in zip(model.subgraphs, original.subgraphs, strict=True):
        stored = {tensor.name: original.buffers[tensor.buffer].data for tensor in before.tensors}
        for step in graph.operators:
            indices = _WEIGHTED.get(codes[step.opcodeIndex], (0, 0, len(step.inputs)))
            if indices[2] >= len(step.inputs) or step.inputs[indices[2]] < 0:
                continue
            x, weights, bias = (graph.tensors[step.inputs[place]] for place in indices)
            if bias.type in _BIASES and stored.get(bias.name) is not None:
                changed |= _make_room(model, x, weights, bias, np.frombuffer(bytes(stored[bias.name]), "<f4"))
    return _packed(model, len(content)) if changed else content


def _make_room(model: Any, x, weights, bias, values: np.ndarray) -> bool:
    """Raises the weights' scales so that the bias fits; whether it did not."""
    scale = weights.quantization.scale.astype("float64")
    least = np.abs(values) / (_MOST_BIAS * _scale(x))
    raised = np.maximum(scale, least if len(scale) > 1 else least.max())
    if np.array_equal(raised, scale):
        return False
    shape = [1] * len(weights.shape)
    shape[weights.quantization.quantizedDimension if len(scale) > 1 else 0] = -1
    kept = np.frombuffer(bytes(model.buffers[weights.buffer].data), "int8").reshape(weights.shape)
    _store(model, weights, np.round(kept * (scale / raised).reshape(shape)).astype("int8"))
    weights.quantization.scale = raised.astype("float32")
    bias.quantization.scale = (raised * _scale(x)).astype("float32")
    _store(model, bias, np.round(values / (raised * _scale(x))).astype(_BIASES[bias.type]))
    return True


def _store(model: Any, tensor: Any, values: np.ndarray) -> None:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), "uint8")
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)


def _packed(model: Any, size: int) -> bytes:
    used = {
        entry.buffer for entry in (*(model.metadata or ()), *(t for graph in model.subgraphs for t in graph.tensors))
    }
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None  # what was replaced
    return pack(model, size)


def _raise_scales(codes: list[int], graph: Any, raised: set[int]) -> bool:
    """One pass over the operators; whether it raised a scale. Adds what it raised to `raised`."""
    before = {i: _scale(graph.tensors[i]) for i in raised}
    for step in graph.operators:
        code, tensors = codes[step.opcodeIndex], graph.tensors
        ins = [i for i in step.inputs if i >= 0 and _is_int8(tensors[i])]
        outs = [i for i in step.outputs if _is_int8(tensors[i])]
        if not ins or not outs:
            continue
        scales, lowest = [_scale(tensors[i]) for i in ins], 0.0
        if code in _WEIGHTED:
            x, weights, _ = _WEIGHTED[code]
            lowest = _scale(tensors[step.inputs[x]]) * tensors[step.inputs[weights]].quantization.scale.max() / _MOST
        elif code in (_OP.ADD, _OP.SUB):
            lowest = max(scales) / _MOST
        elif code == _OP.MUL:
            lowest = float(np.prod(scales)) / _MOST
        elif code in _UNSCALED and raised & {*ins, *outs}:
            outs = [*ins, *outs]
            lowest = max(_scale(tensors[i]) for i in outs)
        for i in outs:
            if _scale(tensors[i]) < lowest:
                tensors[i].quantization.scale = np.array([lowest], "float32")
                raised.add(i)
    return before != {i: _scale(graph.tensors[i]) for i in raised}


def _rescale_biases(model: Any, codes: list[int], graph: Any, raised: set[int]) -> None:
    """Biases in units of their layer's input scale times the weights' scales, where the former was raised."""
    for step in graph.operators:
        x, weights, bias = _WEIGHTED.get(codes[step.opcodeIndex], (0, 0, len(step.inputs)))
        if bias >= len(step.inputs) or step.inputs[bias] < 0 or step.inputs[x] not in raised:
            continue
        x, weights, bias = (graph.tensors[step.inputs[i]] for i in (x, weights, bias))
        scale = np.asarray(_scale(x) * weights.quantization.scale, "float32")
        values = np.frombuffer(bytes(model.buffers[bias.buffer].data), "<i4") * (bias.quantization.scale / scale)
        bias.quantization.scale = scale
        _store(model, bias, np.round(values).astype("<i4"))


def _is_int8(tensor: Any) -> bool:
    quantization = tensor.quantization
    return tensor.type == schema.TensorType.INT8 and quantization is not None and quantization.scale is not None


def _scale(tensor: Any) -> float:
    return float(tensor.quantization.scale[0])
