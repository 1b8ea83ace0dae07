"""The graph of a `.tflite` file: its operators, the tensors between them, and the Keras layers that they come from."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tfjointrd.extras import require

_IDENTIFIER = b"TFL3"
CASTS = ("QUANTIZE", "DEQUANTIZE")  # from one number format to another
_SAME_VALUES = (*CASTS, "CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_WEIGHTS = ("FLOAT32", "FLOAT16", "INT8", "INT4")  # sizes and axes, and biases of integer layers, are others


@dataclass(frozen=True)
class Operator:
    """One operator of a file.

    Attributes:
        kind: What it is, as `"CONV_2D"`.
        inputs: Indices of the tensors it takes that another operator computes, or that are the file's input.
        constants: Indices of those that are stored in the file: weights, biases, sizes.
        outputs: Indices of what it computes.
        scope: The names of its outputs, as litert-quantizer writes them for its regular expressions.
        layers: The Keras layers that it computes, one or several that were fused, as far as names tell.
    """

    kind: str
    inputs: tuple[int, ...]
    constants: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class FileGraph:
    """What a file computes.

    Attributes:
        operators: In the order in which they run.
        inputs: Indices of the file's inputs.
        outputs: Indices of its outputs.
        types: Number format of each tensor, as `"INT8"`.
        sizes: Bytes that each tensor takes in the file; 0 if it is computed.
        shapes: Shape of each tensor.
        signature: Names of inputs and outputs for callers: `(tensor index -> name, tensor index -> name)`.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    types: tuple[str, ...]
    sizes: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    signature: tuple[dict[int, str], dict[int, str]]

    @property
    def layers(self) -> list[str]:
        """All layers that operators are known to come from."""
        return list(dict.fromkeys(name for step in self.operators for name in step.layers))

    @functools.cached_property
    def makers(self) -> dict[int, Operator]:
        """The operator that computes each tensor."""
        return {output: step for step in self.operators for output in step.outputs}

    def maker(self, tensor: int, through: Iterable[str] = CASTS) -> Operator | None:
        """The operator that computes a tensor, ahead of operators of these kinds; `None` for the file's input."""
        step = self.makers.get(tensor)
        while step is not None and step.kind in through and step.inputs:
            step = self.makers.get(step.inputs[0])
        return step

    def weights(self, step: Operator) -> int | None:
        """The largest stored tensor of weights that an operator takes, also by way of a cast; `None` if it has none."""
        casts = (self.makers.get(index) for index in step.inputs)
        cast = [made.constants[0] for made in casts if made is not None and made.kind in CASTS and made.constants]
        stored = [index for index in (*step.constants, *cast) if self.types[index] in _WEIGHTS]
        return max(stored, key=lambda index: self.sizes[index], default=None)


def unpack(content: bytes):
    """A file as the classes of its schema, `ModelT` and others, with all that is stored in it.

    Raises:
        ValueError: If it is no `.tflite` file, or not all of one.
    """
    schema = require("ai_edge_litert.schema_py_generated")
    if content[4:8] != _IDENTIFIER:
        raise ValueError("Expected a .tflite file, which has 'TFL3' as its bytes 4 to 8. Received: another file")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # whatever reading beyond the end leads to
        raise ValueError(f"Expected a whole .tflite file. Received: one that breaks off ({error})") from error
    for buffer in model.buffers:
        if buffer.offset > 1:  # litert-quantizer puts what buffers hold behind all else
            buffer.data = np.frombuffer(content[buffer.offset : buffer.offset + buffer.size], "uint8")
            buffer.offset = buffer.size = 0
    return model


def pack(model, size: int) -> bytes:
    """The file of what `unpack` returned, changed or not; `size`: about how many bytes that will be."""
    import flatbuffers

    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def with_batch_of_one(content: bytes) -> bytes:
    """A file that takes one image at a time, of one that takes any number; others as they are.

    TensorFlow's converter writes such files. LiteRT.js refuses to run them.
    """
    model = unpack(content)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    if not any(
        tensor.shapeSignature is not None and np.min(tensor.shapeSignature, initial=0) < 0 for tensor in tensors
    ):
        return content
    for tensor in tensors:
        tensor.shapeSignature = None
    return pack(model, len(content))


def read_file(content: bytes, known: Iterable[str] | None = None, network: str | None = None) -> FileGraph:
    """Reads a file.

    Args:
        content: The `.tflite` file's content.
        known: Names of the Keras layers that may be in it. By default every part of a tensor's name counts as one.
        network: Name of the Keras network that it was made from.

    Raises:
        ValueError: If it is no `.tflite` file, or not all of one.
    """
    schema = require("ai_edge_litert.schema_py_generated")
    model = unpack(content)
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    codes = [
        (code.customCode or b"").decode() or kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for code in model.operatorCodes
    ]
    graph = model.subgraphs[0]
    names = [(tensor.name or b"").decode() for tensor in graph.tensors]
    data = [model.buffers[tensor.buffer].data for tensor in graph.tensors]
    sizes = tuple(0 if found is None else len(found) for found in data)
    known = None if known is None else set(known)
    operators = []
    for step in graph.operators:
        taken = [int(i) for i in step.inputs if i >= 0]
        outputs = tuple(int(i) for i in step.outputs if i >= 0)
        constants = tuple(i for i in taken if sizes[i])
        of_outputs, of_constants = (_layers([names[i] for i in side], known, network) for side in (outputs, constants))
        scope = ";".join(names[i] for i in outputs if names[i]) + ";"
        inputs = tuple(i for i in taken if not sizes[i])
        operators.append(
            Operator(codes[step.opcodeIndex], inputs, constants, outputs, scope, tuple(of_outputs or of_constants))
        )
    signature = model.signatureDefs[0] if model.signatureDefs else None
    taken_as, returned_as = (
        {int(entry.tensorIndex): entry.name.decode() for entry in side}
        for side in ((signature.inputs, signature.outputs) if signature else ((), ()))
    )
    inputs, outputs = (tuple(int(i) for i in np.atleast_1d(side)) for side in (graph.inputs, graph.outputs))
    shapes = tuple(tuple(map(int, () if t.shape is None else t.shape)) for t in graph.tensors)
    formats = tuple(types[t.type] for t in graph.tensors)
    return FileGraph(tuple(operators), inputs, outputs, formats, sizes, shapes, (taken_as, returned_as))


def takes_pixels(content: bytes) -> bool:
    """Whether a float32 file begins by making pixels from 0 to 255 smaller: a product with less than a tenth."""
    graph, model = read_file(content), unpack(content)
    first = next((step for step in graph.operators if graph.inputs[0] in step.inputs), None)
    if first is None or first.kind != "MUL" or not first.constants:
        return False
    stored = model.buffers[model.subgraphs[0].tensors[first.constants[0]].buffer].data
    return bool(np.abs(np.frombuffer(bytes(stored), "<f4")).max() < 0.1)


def final_operator(graph: FileGraph, output: int) -> str | None:
    """The kind of the operator that an output's values come from, as `"SOFTMAX"`; `None` for the file's input."""
    step = graph.maker(output, through=_SAME_VALUES)
    return None if step is None else step.kind


def names_classes(graph: FileGraph, output: int) -> bool:
    """Whether an output of several channels is not a sigmoid's, as yes or no for each channel is."""
    return final_operator(graph, output) != "LOGISTIC"


def in_integers(content: bytes) -> bool:
    """Whether all operators of a file, but for casts, compute in integers."""
    graph = read_file(content)
    return not any(
        graph.types[output] == "FLOAT32"
        for step in graph.operators
        for output in step.outputs
        if step.kind not in CASTS
    )


def _layers(names: list[str], known: set[str] | None, network: str | None) -> list[str]:
    """The layers that tensors' names speak of.

    TensorFlow's converter names a tensor `network/layer/operation`, and what it fuses by all parts, with `;` between
    them. Behind the network's name stands a number if it was called before, and then one behind each layer's name, the
    first that leads to no name of that call.
    """
    found = []
    for name in ";".join(names).split(";"):
        first, *parts = name.split("/")
        called_before = re.search(r"_\d+$", first.removeprefix(network or "")) is not None
        for part in parts:
            bare = re.sub(r"_\d+$", "", part)
            candidates = (bare, part) if called_before else (part, bare)
            chosen = next((name for name in candidates if known is None or name in known), None)
            if chosen is not None:
                found.append(chosen)
                break  # what follows is the operation, which may bear another layer's name
    return list(dict.fromkeys(found))
