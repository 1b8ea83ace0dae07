"""Scales of an int8 file that XNNPACK, the processor backend of TFLite, accepts.

A layer whose channels all died passes on nothing but zeros, and calibration gives them a scale of next to nothing.
XNNPACK then refuses the whole file: a layer's input scale times its weights' may be at most 2^8 output scales.
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_MOST = 2.0**7  # half of that
_OPERATORS = schema.BuiltinOperator
_WEIGHTED = {_OPERATORS.CONV_2D, _OPERATORS.DEPTHWISE_CONV_2D, _OPERATORS.FULLY_CONNECTED}
# Their output has the scale of their input.
_UNSCALED = {_OPERATORS.MAX_POOL_2D, _OPERATORS.RESHAPE, _OPERATORS.PAD, _OPERATORS.TRANSPOSE}


def with_usable_scales(content: bytes) -> bytes:
    """An int8 file whose next to nothing scales are raised to the least that XNNPACK takes.

    What they stand for changes by less than the quantization of what it is computed from.

    Args:
        content: A `.tflite` file.

    Returns:
        The file with these scales, and the biases that follow from them, replaced; `content` itself if there are none.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    changed = [_raise_scales(model, graph) for graph in model.subgraphs]
    if not any(changed):
        return content
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _raise_scales(model: schema.ModelT, graph: schema.SubGraphT) -> bool:
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    steps = [(codes[step.opcodeIndex], step) for step in graph.operators]
    changed = set()
    for code, step in steps:
        inputs, output = [graph.tensors[i] if i >= 0 else None for i in step.inputs], graph.tensors[step.outputs[0]]
        if code in _WEIGHTED and _is_int8(inputs[0]) and _is_int8(output):
            if step.inputs[0] in changed and len(inputs) > 2 and inputs[2] is not None:
                _rescale_bias(model, *inputs[:3])
            lowest = _scale(inputs[0]) * inputs[1].quantization.scale.max() / _MOST
        elif code in _UNSCALED and step.inputs[0] in changed:
            lowest = _scale(inputs[0])
        else:
            lowest = 0.0
        if _is_int8(output) and _scale(output) < lowest:
            output.quantization.scale = np.array([lowest], "float32")
            changed.add(step.outputs[0])
    return bool(changed)


def _is_int8(tensor: schema.TensorT) -> bool:
    return tensor.type == schema.TensorType.INT8 and tensor.quantization is not None


def _scale(tensor: schema.TensorT) -> float:
    return float(tensor.quantization.scale[0])


def _rescale_bias(model: schema.ModelT, x: schema.TensorT, weights: schema.TensorT, bias: schema.TensorT) -> None:
    """The bias in units of its layer's new input scale times the weights' scales."""
    scale = np.asarray(_scale(x) * weights.quantization.scale, "float32")
    values = np.frombuffer(bytes(model.buffers[bias.buffer].data), "<i4") * (bias.quantization.scale / scale)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.round(values).astype("<i4").tobytes(), "uint8")
    bias.quantization.scale, bias.buffer = scale, len(model.buffers)
    model.buffers.append(buffer)
