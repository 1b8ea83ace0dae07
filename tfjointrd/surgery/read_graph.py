"""Reads a Keras network into a `Graph`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import keras

from tfjointrd.layers.weight_names import is_kernel
from tfjointrd.surgery.composite import may_be_composite, network_of, part_names
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, functional, is_functional, refs_in, substitute


def read_graph(model: keras.Model) -> Graph:
    """Reads a functional or Sequential network; nested networks are written out layer by layer.

    Layers of nested networks that lead to none of the outputs are left out. A layer of a class without a
    rule (`register_rule`) is written out too, as the layers and operators that it calls, where that is the same
    function. They are named after the attributes that hold them: `self.conv` of `block1` becomes `block1_conv`.

    Args:
        model: A built `keras.Model`.

    Raises:
        ValueError: If `model` is not functional, that is, if its layers are only known to its Python code.

    Example:

    >>> graph = read_graph(tfjointrd.models.resnet20())
    >>> graph.layers["stage1_block1_conv1"].cls.__name__
    'Conv2D'
    """
    return _Reader().read(functional(model)).pruned()


def sized(graph: Graph, size: int = 256) -> dict[Ref, tuple]:
    """The shapes of a network's tensors; where they are not known, those for images of this many pixels a side."""
    inputs = set(refs_in(graph.inputs))
    if not any(None in shape[1:] for shape in graph.shapes.values()):
        return graph.shapes
    shapes = {
        ref: (*shape[:1], *(axis or size for axis in shape[1:])) if ref in inputs else shape
        for ref, shape in graph.shapes.items()
    }
    return {**shapes, **_inferred(graph.calls, graph.layers, graph.sources, shapes)}


def _inferred(calls, layers, sources, shapes) -> dict[Ref, tuple]:
    """The shapes of all tensors, from those of the inputs."""
    tensors: dict[Ref, Any] = {}
    for call in calls:
        if issubclass(layers[call.layer].cls, keras.layers.InputLayer):
            tensors[call.output] = keras.KerasTensor(shapes[call.output], layers[call.layer].config["dtype"])
            continue
        args, kwargs = (substitute(part, tensors.__getitem__) for part in (call.args, call.kwargs))
        found = keras.tree.flatten(sources[call.layer].compute_output_spec(*args, **kwargs))
        tensors.update({replace(call.output, index=index): tensor for index, tensor in enumerate(found)})
    return {ref: tuple(tensor.shape) for ref, tensor in tensors.items()}


class _Reader:
    """Turns the nested configuration of a network into one flat graph."""

    def __init__(self) -> None:
        self.layers: dict[str, LayerSpec] = {}
        self.sources: dict[str, Any] = {}
        self.shapes: dict[Ref, tuple] = {}
        self.calls: dict[tuple[str, int], Call] = {}
        self.call_counts: dict[str, int] = {}
        self.names: dict[int, str] = {}  # of layers, by the object: names of nested ones need not differ
        self.inner: list[keras.Model] = []  # networks that layers stand for; kept, so that no two layers have one `id`

    def read(self, model: keras.Model) -> Graph:
        """The graph of a functional network."""
        config = model.get_config()
        self.names = {id(layer): layer.name for layer in model.operations if not isinstance(layer, keras.Model)}
        inputs, outputs = self._network(model, config, arguments=None)
        for refs, ends in ((inputs, model.inputs), (outputs, model.outputs)):
            for ref, tensor in zip(keras.tree.flatten(refs), keras.tree.flatten(ends), strict=True):
                self.shapes[ref] = tuple(tensor.shape)
        self._infer_unused()
        self._infer_sizes(set(refs_in(inputs)))
        kernels = frozenset(
            name
            for name, source in self.sources.items()
            if any(is_kernel(variable.name) for variable in getattr(source, "weights", ()))
        )
        calls = list(self.calls.values())
        return Graph(model.name, self.layers, calls, inputs, outputs, self.shapes, self.sources, kernels)

    def _infer_unused(self) -> None:
        """Shapes of tensors that calls with several outputs return and nobody takes."""
        for call in self.calls.values():
            source = self.sources[call.layer]
            count = len(keras.tree.flatten(source.output))
            if count > 1 and any(replace(call.output, index=index) not in self.shapes for index in range(count)):
                parts = (call.args, call.kwargs)
                args, kwargs = (substitute(part, lambda ref: keras.KerasTensor(self.shapes[ref])) for part in parts)
                for index, tensor in enumerate(keras.tree.flatten(source.compute_output_spec(*args, **kwargs))):
                    self.shapes.setdefault(replace(call.output, index=index), tuple(tensor.shape))

    def _infer_sizes(self, inputs: set[Ref]) -> None:
        """Sizes within nested networks that were made for images of any size, and are called with ones of a known."""
        if any(None in self.shapes[ref][1:] for ref in inputs):
            return
        if not any(None in shape[1:] for shape in self.shapes.values()):
            return
        self.shapes.update(_inferred(self.calls.values(), self.layers, self.sources, self.shapes))

    def _network(self, model: keras.Model, config: dict[str, Any], arguments: Sequence[Ref] | None) -> tuple[Any, Any]:
        """Reads one network. `arguments` are the outer tensors a nested network was called with."""
        operations = {operation.name: operation for operation in model.operations}
        tensors: dict[tuple[str, int], Any] = {}
        if arguments is not None:
            places = keras.tree.flatten(_map_histories(config["input_layers"], lambda history: Ref(*history)))
            for place, ref in zip(places, arguments, strict=True):
                tensors[place.layer, place.call] = ref
        pending = [
            (layer["name"], number, node)
            for layer in config["layers"]
            for number, node in enumerate(layer["inbound_nodes"] or [None])
        ]
        while pending:
            waiting = []
            for name, number, node in pending:
                if (name, number) in tensors:
                    continue
                args, kwargs = _decode(node["args"] if node else []), _decode(node["kwargs"] if node else {})
                if any((ref.layer, ref.call) not in tensors for ref in refs_in([args, kwargs])):
                    waiting.append((name, number, node))
                    continue
                self._record_shapes(node, tensors)
                args, kwargs = (substitute(part, lambda ref: _pick(tensors, ref)) for part in (args, kwargs))
                tensors[name, number] = self._call(operations[name], model, tuple(args), kwargs, node)
            if len(waiting) == len(pending):
                raise ValueError(f"The layers of '{model.name}' take tensors that the network does not produce.")
            pending = waiting

        def pick(history):
            name, number, index = history
            # Keras counts the node that a functional network is born with here, though not in calls' arguments.
            return _pick(tensors, Ref(name, number - is_functional(operations[name]), index))

        return _map_histories(config["input_layers"], pick), _map_histories(config["output_layers"], pick)

    def _name(self, operation, model) -> str:
        """A layer's name in the flat graph; one of a nested network gets that one's in front if it is taken."""
        if id(operation) not in self.names:
            name = operation.name
            while name in self.names.values():
                name = f"{model.name}_{name}"
            self.names[id(operation)] = name
        return self.names[id(operation)]

    def _name_parts(self, outer: str, layer, network) -> None:
        """Names what a composite layer calls: its own name, then the attribute or, where there is none, the class."""
        attributes, taken = part_names(layer), set(self.names.values())
        for operation in network.operations:
            if id(operation) in self.names or isinstance(operation, keras.layers.InputLayer):
                continue
            own = attributes.get(id(operation)) or _snake(type(operation).__name__)
            numbers = (f"{outer}_{own}" + (f"_{number}" if number else "") for number in count())
            self.names[id(operation)] = next(name for name in numbers if name not in taken)
            taken.add(self.names[id(operation)])

    def _inner_network(self, operation, model, node) -> keras.Model | str:
        """The network that a layer stands for; or why it stands for none, if its class is not known."""
        nested = isinstance(operation, keras.Model)
        if not nested and not may_be_composite(operation):
            return ""
        try:
            inner = functional(operation) if nested else None
        except ValueError as error:
            inner, reason = None, error
        if inner is None:
            args, kwargs = (_decode(node[part], _symbolic) for part in ("args", "kwargs"))
            inner = network_of(operation, tuple(args), kwargs)
            if isinstance(inner, str):
                if nested:
                    raise ValueError(f"{reason} The layers that it calls cannot be read either: {inner}.") from reason
                return inner
            self._name(operation, model)
        if id(operation) in self.names:  # a composite layer, or a network within one
            self._name_parts(self.names[id(operation)], operation, inner)
        self.inner.append(inner)
        return inner

    def _call(self, operation, model, args, kwargs, node):
        inner = self._inner_network(operation, model, node)
        if isinstance(inner, keras.Model):
            kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
            by_name = args and isinstance(args[0], Mapping) and is_functional(operation)
            if by_name and operation.inputs == inner.inputs:  # its own graph, and not what its class calls
                args = (_by_name(inner, args[0]), *args[1:])
            given = [value for value in keras.tree.flatten([args, kwargs]) if isinstance(value, Ref)]
            _, outputs = self._network(inner, inner.get_config(), given)
            return outputs
        name = self._name(operation, model)
        config = {**operation.get_config(), "name": name}
        self.layers.setdefault(name, LayerSpec(type(operation), config, inner))
        self.sources.setdefault(name, operation)
        number = self.call_counts.get(name, 0)
        self.call_counts[name] = number + 1
        self.calls[name, number] = Call(name, number, args, kwargs)
        if isinstance(operation, keras.layers.InputLayer):
            self.shapes[Ref(name, number)] = tuple(operation.batch_shape)
        return Ref(name, number)

    def _record_shapes(self, node, tensors):
        for tensor in _keras_tensors(node):
            self.shapes[_pick(tensors, Ref(*tensor["keras_history"]))] = tuple(tensor["shape"])


def _snake(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])|(?<=D)(?=[A-Z][a-z])", "_", name).lower()


def _pick(tensors, ref: Ref) -> Ref:
    """The flat graph's name for tensor `ref` of the network being read."""
    value = tensors[ref.layer, ref.call]
    if isinstance(value, Ref):
        return replace(value, index=ref.index) if ref.index else value
    return keras.tree.flatten(value)[ref.index]  # as Keras numbers them: those of a dict by their keys in order


def _by_name(network: keras.Model, tensors: Mapping[str, Any]) -> Any:
    """The tensors that a network takes, out of those that it is called with by name."""
    if isinstance(network.input, Mapping):
        return {name: tensors[name] for name in network.input}
    return [tensors[tensor.name] for tensor in network.inputs]


def _is_keras_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__"


def _keras_tensors(structure: Any) -> Iterator[dict]:
    if _is_keras_tensor(structure):
        yield structure["config"]
    elif isinstance(structure, Mapping):
        for item in structure.values():
            yield from _keras_tensors(item)
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from _keras_tensors(item)


def _ref(tensor: Mapping) -> Ref:
    return Ref(*tensor["keras_history"])


def _symbolic(tensor: Mapping) -> keras.KerasTensor:
    return keras.KerasTensor(tensor["shape"], tensor["dtype"])


def _decode(value: Any, tensor: Callable[[Mapping], Any] = _ref) -> Any:
    """A call's serialised arguments with a `Ref` for each tensor, or what `tensor` makes, and Python values else."""
    if _is_keras_tensor(value):
        return tensor(value["config"])
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__":
            return tuple(_decode(item, tensor) for item in value["items"])
        if "class_name" in value:
            return keras.saving.deserialize_keras_object(dict(value))
        return {key: _decode(item, tensor) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_decode(item, tensor) for item in value]
    return value


def _is_history(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str)


def _map_histories(structure: Any, function: Callable) -> Any:
    if _is_history(structure):
        return function(structure)
    if isinstance(structure, Mapping):
        return {key: _map_histories(item, function) for key, item in structure.items()}
    return [_map_histories(item, function) for item in structure]
