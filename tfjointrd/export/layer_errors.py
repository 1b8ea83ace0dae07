"""Where a `.tflite` file departs from its network, layer by layer."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.export.file_graph import CASTS, FileGraph, Operator, read_file
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.source import file_name
from tfjointrd.surgery.graph import Call, Graph, Ref, refs_in, substitute
from tfjointrd.surgery.output_activation import output_names
from tfjointrd.surgery.read_graph import read_graph

_AT_ONCE = 8  # images whose activations are in memory


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output in a file is from that in the network.

    Attributes:
        layer: The Keras layer.
        fused: The layers that the file computes together with it, itself included.
        operator: The file's operator, as `"CONV_2D"`.
        weights: Number format of its weights, as `"INT8"`; empty if it has none.
        activations: Number format of its output.
        error: The error of its output: root mean square of the difference, as a share of that of the network's output.
            It holds what earlier layers did wrong.
        own_error: Likewise, against what the network's layer makes of the inputs that the file has there. This is what
            the layer itself does wrong.
    """

    layer: str
    fused: tuple[str, ...]
    operator: str
    weights: str
    activations: str
    error: float
    own_error: float


@dataclass
class _Match:
    """A layer's output in the file, and its sums of squares."""

    operator: Operator
    tensor: int
    error: float = 0.0
    own_error: float = 0.0
    reference: float = 0.0


def layer_errors(path: str | os.PathLike, network: keras.Model, images: Any) -> list[LayerError]:
    """Compares the layers of a file with those of its network.

    A layer is found by the names that TensorFlow's converter and litert-quantizer give to tensors. Left out is what is
    called several times, what leaves no trace in the names, and layers of one name in several networks within.

    Args:
        path: The file, in any number format.
        network: The Keras network that it was made from.
        images: Array `(count, height, width, channels)`, in the range that the network takes.

    Returns:
        The layers, that with the largest error of its own first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, or the images have another shape than it takes.
    """
    images = np.asarray(images, "float32")
    runner = TFLiteModel(path, keep_tensors=True)
    runner.check_images(images)
    keras_graph = read_graph(network)
    file_graph = read_file(Path(path).read_bytes(), _told_apart(keras_graph), network.name)
    matches = _matches(file_graph, keras_graph, runner)
    tensors = {name: Ref(name) for name in matches}
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        in_file = _run(runner, part, {name: match.tensor for name, match in matches.items()})
        inputs = dict.fromkeys(refs_in(keras_graph.inputs), part)
        expected = _Evaluation(keras_graph, inputs)
        for name, match in matches.items():
            known = {ref: in_file[other] for other, ref in tensors.items() if other != name}
            own = _Evaluation(keras_graph, inputs | known)(tensors[name])
            reference = expected(tensors[name])
            match.error += float(np.sum(np.square(in_file[name] - reference)))
            match.own_error += float(np.sum(np.square(in_file[name] - own)))
            match.reference += float(np.sum(np.square(reference)))
    found = [_layer_error(name, match, file_graph) for name, match in matches.items()]
    return sorted(found, key=lambda one: -one.own_error)


def _told_apart(network: Graph) -> list[str]:
    """The layers whose names in the file no other layer bears, as one of another network within may."""
    own = {name: getattr(network.sources[name], "name", name) for name in network.layers}
    bearers = Counter(own.values())
    return [name for name in network.layers if bearers[own[name]] == 1]


def _matches(file: FileGraph, network: Graph, runner: TFLiteModel) -> dict[str, _Match]:
    """For each layer, the tensor of the file that is its output: the last one that bears its name."""
    order = {call.layer: place for place, call in enumerate(network.calls)}
    calls = [call.layer for call in network.calls]
    last = _last_layers(file, network)
    found: dict[str, _Match] = {}
    for step in file.operators:
        if step.kind in CASTS or len(step.outputs) != 1:
            continue
        names = [name for name in step.layers if name in order]
        name = last.get(step.outputs[0]) or max(names, key=order.__getitem__, default=None)
        if name is None or calls.count(name) > 1:
            continue
        if tuple(network.shapes[Ref(name)][1:]) == runner.shape_of(step.outputs[0])[1:]:
            found[name] = _Match(step, step.outputs[0])
    return found


def _last_layers(file: FileGraph, network: Graph) -> dict[int, str]:
    """The layers that make the network's outputs, by the tensors of the file that they are."""
    refs = dict(zip(map(file_name, output_names(network)), network.output_refs(), strict=True))
    tensors = {name: index for index, name in file.signature[1].items()}
    if len(refs) == 1:
        tensors = dict.fromkeys(refs, file.outputs[0])
    found = {refs[name]: file.maker(tensor) for name, tensor in tensors.items() if name in refs}
    return {step.outputs[0]: ref.layer for ref, step in found.items() if step is not None}


def _run(runner: TFLiteModel, images: np.ndarray, tensors: Mapping[str, int]) -> dict[str, np.ndarray]:
    """What the file's tensors hold, in floats, for all images."""
    found: dict[str, list] = {name: [] for name in tensors}
    for image in images:
        runner.predict(image[None])
        for name, index in tensors.items():
            found[name].append(runner.tensor(index))
    return {name: np.concatenate(values) for name, values in found.items()}


def _layer_error(name: str, match: _Match, file: FileGraph) -> LayerError:
    step, scale = match.operator, max(match.reference, float(np.finfo("float32").tiny))
    weights = file.weights(step)
    return LayerError(
        layer=name,
        fused=step.layers,
        operator=step.kind,
        weights="" if weights is None else file.types[weights],
        activations=file.types[match.tensor],
        error=float(np.sqrt(match.error / scale)),
        own_error=float(np.sqrt(match.own_error / scale)),
    )


class _Evaluation:
    """Computes tensors of a network from known ones, each once."""

    def __init__(self, graph: Graph, known: Mapping[Ref, Any]):
        self.graph, self.known = graph, dict(known)
        self.calls: dict[tuple[str, int], Call] = {(call.layer, call.number): call for call in graph.calls}

    def __call__(self, ref: Ref) -> np.ndarray:
        """The value of a tensor."""
        return keras.ops.convert_to_numpy(self._value(ref))

    def _value(self, ref: Ref):
        pending: list[Ref] = [ref]
        while pending:  # and no recursion, for deep networks
            top = pending[-1]
            call = self.calls[top.layer, top.call]
            missing = [] if top in self.known else [other for other in call.inputs if other not in self.known]
            if missing:
                pending.extend(missing)
                continue
            if top not in self.known:
                self._compute(call)
            pending.pop()
        return self.known[ref]

    def _compute(self, call: Call) -> None:
        run: Any = self.graph.sources[call.layer]
        args, kwargs = (substitute(part, self.known.__getitem__) for part in (call.args, call.kwargs))
        if "training" in inspect.signature(run.call).parameters:  # which `model(x, training=False)` sets for all
            kwargs = {**kwargs, "training": False}
        for index, value in enumerate(keras.tree.flatten(run(*args, **kwargs))):
            self.known[Ref(call.layer, call.number, index)] = value
