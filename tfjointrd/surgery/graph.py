"""A Keras network as plain data: its layers, their calls, and the tensors between them.

`model.get_config()` of a functional network is a graph: every layer with its calls, every call with the tensors it
takes. `.keras` files are made of it, so it is stable and public. All surgery reads that graph once, edits it, and
builds a new network by calling layers through the ordinary Keras API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.weights import assign_weights, settle, weights_of


@dataclass(frozen=True)
class Ref:
    """One tensor of a network: output `index` of the `call`-th call of `layer`."""

    layer: str
    call: int = 0
    index: int = 0


@dataclass(frozen=True)
class LayerSpec:
    """What it takes to make a layer again: its class and its configuration.

    `cls` is a `keras.Layer` class, or the class of an operator such as the one behind `x + y`.
    """

    cls: type
    config: dict[str, Any]

    def make(self):
        """A new, unbuilt layer; a `ValueError` that names the layer where its class cannot make one."""
        try:
            return self.cls.from_config(self.config)
        except Exception as error:
            raise ValueError(
                f"Layer '{self.config.get('name')}' ({self.cls.__name__}) cannot be made again from its configuration. "
                "Give it a `get_config`, register functions and classes that it uses with "
                "`keras.saving.register_keras_serializable`, and write a Lambda with `keras.ops`. "
                f"Keras says: {error}"
            ) from error

    def with_config(self, **changes: Any) -> LayerSpec:
        """The same class with some configuration entries replaced."""
        return replace(self, config={**self.config, **changes})


@dataclass(frozen=True)
class Call:
    """One call of a layer. `args` and `kwargs` are its arguments, with a `Ref` where a tensor stood."""

    layer: str
    number: int = 0
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Ref]:
        """The tensors this call takes, in the order of its arguments."""
        return list(refs_in([self.args, self.kwargs]))

    @property
    def output(self) -> Ref:
        """The (first) tensor this call returns."""
        return Ref(self.layer, self.number)


def refs_in(structure: Any) -> Iterator[Ref]:
    """All tensors in `structure` (nested lists, tuples and dicts), in order."""
    if isinstance(structure, Ref):
        yield structure
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from refs_in(item)
    elif isinstance(structure, Mapping):
        for item in structure.values():
            yield from refs_in(item)


def substitute(structure: Any, function: Callable[[Ref], Any]) -> Any:
    """`structure` (nested lists, tuples and dicts) with every `Ref` replaced by `function(ref)`."""
    if isinstance(structure, Ref):
        return function(structure)
    if isinstance(structure, list):
        return [substitute(item, function) for item in structure]
    if isinstance(structure, tuple):
        return tuple(substitute(item, function) for item in structure)
    if isinstance(structure, dict):
        return {key: substitute(item, function) for key, item in structure.items()}
    return structure


@dataclass
class Graph:
    """A functional network as layers, calls in topological order, and the tensors that go in and out.

    Attributes:
        name: The network's name.
        layers: `LayerSpec` by layer name.
        calls: The calls, each after those whose tensors it takes.
        inputs: The structure of input `Ref`s.
        outputs: The structure of output `Ref`s.
        shapes: Shape of every tensor, batch axis first (`None` where unknown).
        sources: The original layer objects by name, for their weights. Empty once a layer was replaced.
        kernels: Names of the layers that hold a kernel.
    """

    name: str
    layers: dict[str, LayerSpec]
    calls: list[Call]
    inputs: Any
    outputs: Any
    shapes: dict[Ref, tuple]
    sources: dict[str, Any]
    kernels: frozenset[str]

    @classmethod
    def of(cls, model: keras.Model) -> Graph:
        """Reads a functional or Sequential network; nested networks are written out layer by layer.

        Args:
            model: A built `keras.Model`.

        Raises:
            ValueError: If `model` is not functional, that is, if its layers are only known to its Python code.
        """
        return _Reader().read(functional(model))

    def consumers(self) -> dict[Ref, list[Call]]:
        """For every tensor, the calls that take it."""
        found: dict[Ref, list[Call]] = {}
        for call in self.calls:
            for ref in call.inputs:
                found.setdefault(ref, []).append(call)
        return found

    def ancestors(self) -> dict[Ref, frozenset[Ref]]:
        """For every tensor, itself and all tensors it is computed from."""
        found: dict[Ref, frozenset[Ref]] = {}
        for call in self.calls:
            taken = (found[replace(ref, index=0)] for ref in call.inputs)
            found[call.output] = frozenset({call.output}).union(*taken)
        return found

    def merges(self) -> list[Call]:
        """Additions and concatenations of several tensors of the output's resolution: where paths meet."""
        return [
            call
            for call in self.calls
            if self.layers[call.layer].cls.__name__ in ("Add", "Concatenate")
            and len(call.inputs) > 1
            and len(self.shapes[call.output]) > 3
            and all(self.shapes[ref][1:-1] == self.shapes[call.output][1:-1] for ref in call.inputs)
        ]

    def output_refs(self) -> list[Ref]:
        """The output tensors, flat."""
        return list(refs_in(self.outputs))

    def single_output(self, argument: str = "model") -> Ref:
        """The one output of a classifier.

        Args:
            argument: The argument's name, for the error message.

        Raises:
            ValueError: If the network has several outputs.
        """
        refs = self.output_refs()
        if len(refs) != 1:
            raise ValueError(f"Expected `{argument}` to have one output. Received: '{self.name}' with {len(refs)}.")
        return refs[0]

    def kernel_layers(self) -> set[str]:
        """Names of the layers that hold a kernel: convolutions and dense layers of any kind."""
        return {name for name in self.kernels if name in self.layers}

    def weights(self, name: str) -> dict[str, np.ndarray]:
        """The original weights of layer `name` by variable name."""
        return weights_of(self.sources.get(name))

    def pruned(self) -> Graph:
        """The graph without the calls and layers that no output needs; inputs stay."""
        needed, calls = set(self.output_refs()) | set(refs_in(self.inputs)), []
        produced = {(ref.layer, ref.call) for ref in needed}
        for call in reversed(self.calls):
            if (call.layer, call.number) in produced:
                calls.append(call)
                produced.update((ref.layer, ref.call) for ref in call.inputs)
        calls.reverse()
        used = {call.layer for call in calls}
        return replace(self, calls=calls, layers={n: spec for n, spec in self.layers.items() if n in used})

    def build(self, name: str | None = None, weights: Mapping[str, Mapping[str, np.ndarray]] | None = None):
        """Builds a network of new layers.

        Args:
            name: The network's name; the original one by default.
            weights: Weights by layer and variable name for layers that should not start from the original's.

        Returns:
            A functional `keras.Model`. Layers whose weights fit keep the original values.

        Raises:
            ValueError: If a weight has another shape than the layer built here.
        """
        layers = {key: spec.make() for key, spec in self.layers.items()}
        model = self.assemble(lambda call, *args, **kwargs: layers[call.layer](*args, **kwargs), layers, name)
        for key, layer in layers.items():
            if key in (weights or {}):
                assign_weights(layer, weights[key])
            elif getattr(self.sources.get(key), "weights", ()):
                settle(layer, self.sources[key].get_weights())  # by position: names need not differ in a layer
        return model

    def assemble(self, apply: Callable, layers: Mapping[str, Any], name: str | None = None) -> keras.Model:
        """Calls `apply(call, *args, **kwargs)` for each call in order and makes a model of the results."""
        tensors: dict[tuple[str, int], Any] = {}

        def tensor(ref: Ref):
            value = tensors[ref.layer, ref.call]
            return value[ref.index] if isinstance(value, (list, tuple)) else value

        for call in self.calls:
            if issubclass(self.layers[call.layer].cls, keras.layers.InputLayer):
                tensors[call.layer, call.number] = layers[call.layer].output
                continue
            args, kwargs = substitute(call.args, tensor), substitute(call.kwargs, tensor)
            tensors[call.layer, call.number] = apply(call, *args, **kwargs)
        return keras.Model(substitute(self.inputs, tensor), substitute(self.outputs, tensor), name=name or self.name)


def functional(model: keras.Model, argument: str = "model") -> keras.Model:
    """`model` as a functional network, the form that all surgery works on.

    Args:
        model: A functional or a built Sequential `keras.Model`.
        argument: The argument's name, for the error message.

    Raises:
        ValueError: If `model` is something else, or was never built.
    """
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(f"Expected `{argument}` to be built. Received: the unbuilt Sequential '{model.name}'.")
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            f"Expected `{argument}` to be a functional keras.Model (made by `keras.Model(inputs, outputs)`), whose "
            f"layers can be read and rebuilt. Received: {model!r} of type {type(model).__name__}."
            + (" Take its `full()` or `small()`." if hasattr(model, "small") else "")
        )
    return model


class _Reader:
    """Turns the nested configuration of a network into one flat graph."""

    def __init__(self):
        self.layers: dict[str, LayerSpec] = {}
        self.sources: dict[str, Any] = {}
        self.shapes: dict[Ref, tuple] = {}
        self.calls: dict[tuple[str, int], Call] = {}
        self.call_counts: dict[str, int] = {}
        self.inlined: dict[int, dict[str, str]] = {}

    def read(self, model: keras.Model) -> Graph:
        config = model.get_config()
        inputs, outputs = self._network(model, config, arguments=None)
        for ref, tensor in zip(keras.tree.flatten(outputs), keras.tree.flatten(model.outputs), strict=True):
            self.shapes[ref] = tuple(tensor.shape)
        kernels = frozenset(
            name
            for name, source in self.sources.items()
            if any("kernel" in variable.name for variable in getattr(source, "weights", ()))
        )
        calls = list(self.calls.values())
        return Graph(model.name, self.layers, calls, inputs, outputs, self.shapes, self.sources, kernels)

    def _network(self, model, config, arguments):
        """Reads one network. `arguments` are the outer tensors a nested network was called with."""
        operations = {operation.name: operation for operation in model.operations}
        names = self._names(model, operations, nested=arguments is not None)
        tensors: dict[tuple[str, int], Any] = {}
        if arguments is not None:
            for (name, number, _), ref in zip(_histories(config["input_layers"]), arguments, strict=True):
                tensors[name, number] = ref
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
                tensors[name, number] = self._call(operations[name], names[name], tuple(args), kwargs)
            if len(waiting) == len(pending):
                raise ValueError(f"The layers of '{model.name}' take tensors that the network does not produce.")
            pending = waiting

        def pick(history):
            name, number, index = history
            # Keras counts the node that a functional network is born with here, though not in calls' arguments.
            inner = isinstance(operations[name], keras.Model) and not isinstance(operations[name], keras.Sequential)
            return _pick(tensors, Ref(name, number - inner, index))

        return _map_histories(config["input_layers"], pick), _map_histories(config["output_layers"], pick)

    def _names(self, model, operations, nested):
        """Layer names of one network in the flat graph; those of a nested one get its name in front if taken."""
        if id(model) not in self.inlined:
            taken = set(self.layers)
            self.inlined[id(model)] = {n: f"{model.name}_{n}" if nested and n in taken else n for n in operations}
        return self.inlined[id(model)]

    def _call(self, operation, name, args, kwargs):
        if isinstance(operation, keras.Model):
            inner = functional(operation)
            kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
            _, outputs = self._network(inner, inner.get_config(), list(refs_in([args, kwargs])))
            return outputs
        self.layers.setdefault(name, LayerSpec(type(operation), {**operation.get_config(), "name": name}))
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


def _pick(tensors, ref: Ref) -> Ref:
    """The flat graph's name for tensor `ref` of the network being read."""
    value = tensors[ref.layer, ref.call]
    if isinstance(value, Ref):
        return replace(value, index=ref.index) if ref.index else value
    return list(refs_in(value))[ref.index]


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


def _decode(value: Any) -> Any:
    """A call's serialised arguments with a `Ref` for each tensor and Python values for the rest."""
    if _is_keras_tensor(value):
        return Ref(*value["config"]["keras_history"])
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__":
            return tuple(_decode(item) for item in value["items"])
        if "class_name" in value:
            return keras.saving.deserialize_keras_object(dict(value))
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_decode(item) for item in value]
    return value


def _is_history(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str)


def _histories(structure: Any) -> Iterator[tuple]:
    if _is_history(structure):
        yield tuple(structure)
    else:
        for item in structure.values() if isinstance(structure, Mapping) else structure:
            yield from _histories(item)


def _map_histories(structure: Any, function: Callable) -> Any:
    if _is_history(structure):
        return function(structure)
    if isinstance(structure, Mapping):
        return {key: _map_histories(item, function) for key, item in structure.items()}
    return [_map_histories(item, function) for item in structure]
