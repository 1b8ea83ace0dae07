"""A Keras network as plain data: its layers, their calls, and the tensors between them.

`model.get_config()` of a functional network is a graph: every layer with its calls, every call with the tensors it
takes. `.keras` files are made of it, so it is stable and public. All surgery reads that graph once (`read_graph`),
edits it, and builds a new network by calling layers through the ordinary Keras API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

    `cls` is a `keras.Layer` class, or the class of an operator such as the one behind `x + y`. `opaque` says why the
    layer is not written out as the layers that it calls, where that was tried.
    """

    cls: type
    config: dict[str, Any]
    opaque: str = ""

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
        """The (first) tensor this call returns; `Graph.outputs_of` has all."""
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


def pick(outputs: Any, ref: Ref):
    """The tensor `ref` of what its call returned: a tensor, or a structure of several."""
    return keras.tree.flatten(outputs)[ref.index]


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

    def outputs_of(self, call: Call) -> list[Ref]:
        """All tensors that a call returns."""
        found, ref = [], call.output
        while ref in self.shapes:
            found.append(ref)
            ref = replace(ref, index=ref.index + 1)
        return found

    def consumers(self) -> dict[Ref, list[Call]]:
        """For every tensor, the calls that take it."""
        found: dict[Ref, list[Call]] = {}
        for call in self.calls:
            for ref in call.inputs:
                found.setdefault(ref, []).append(call)
        return found

    def producer(self, ref: Ref) -> Call:
        """The call that returns a tensor."""
        return next(call for call in self.calls if (call.layer, call.number) == (ref.layer, ref.call))

    def ancestors(self) -> dict[Ref, frozenset[Ref]]:
        """For every tensor, the calls that it is computed from, its own among them.

        Each call stands as its `output`, whichever of its outputs are taken.
        """
        found: dict[Ref, frozenset[Ref]] = {}
        for call in self.calls:
            taken = (found[replace(ref, index=0)] for ref in call.inputs)
            found[call.output] = frozenset({call.output}).union(*taken)
        others = {ref for call in self.calls for ref in call.inputs}.union(self.output_refs()) - found.keys()
        return found | {ref: found[replace(ref, index=0)] for ref in others}

    def until(self, ref: Ref) -> Graph:
        """The graph from the inputs to one tensor, which is its output."""
        return replace(self, outputs=ref).pruned()

    def check_sizes(self, why: str) -> None:
        """Looks at whether the size of every tensor is known.

        Args:
            why: What needs the sizes, for the error message.

        Raises:
            ValueError: If one is not.
        """
        unknown = [(ref, shape) for ref, shape in self.shapes.items() if None in shape[1:]]
        if unknown:
            raise sizes_error(self.name, unknown[0][1], why, unknown[0][0].layer)

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
        layers = {name: spec for name, spec in self.layers.items() if name in used}
        shapes = {ref: shape for ref, shape in self.shapes.items() if (ref.layer, ref.call) in produced}
        return replace(self, calls=calls, layers=layers, shapes=shapes)

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
        given = {} if weights is None else weights
        layers = {key: spec.make() for key, spec in self.layers.items()}
        model = self.assemble(lambda call, *args, **kwargs: layers[call.layer](*args, **kwargs), layers, name)
        for key, layer in layers.items():
            if key in given:
                assign_weights(layer, given[key])
            elif getattr(self.sources.get(key), "weights", ()):
                settle(layer, self.sources[key].get_weights())  # by position: names need not differ in a layer
        return model

    def check_tied(self) -> None:
        """Looks at whether two layers share a weight, which in a network of new layers each would have for itself.

        Raises:
            ValueError: If they do.
        """
        owners: dict[int, str] = {}
        for name in self.layers:
            for weight in getattr(self.sources.get(name), "weights", ()):
                if owners.setdefault(id(weight), name) != name:
                    raise ValueError(
                        f"Expected layers with weights of their own. Received: '{self.name}', where "
                        f"'{owners[id(weight)]}' and '{name}' share '{weight.name}', and would no longer in a network "
                        "of new layers. Call one layer twice, or let one layer do what both do."
                    )

    def assemble(
        self, apply: Callable, layers: Mapping[str, Any], name: str | None = None, model_class: type = keras.Model
    ):
        """Calls `apply(call, *args, **kwargs)` for each call in order and makes a model of the results.

        Args:
            apply: The function.
            layers: The input layers by name, at least.
            name: The model's name; the network's by default.
            model_class: `keras.Model`, or that of another Keras.
        """
        tensors: dict[tuple[str, int], Any] = {}

        def tensor(ref: Ref):
            return pick(tensors[ref.layer, ref.call], ref)

        for call in self.calls:
            if issubclass(self.layers[call.layer].cls, keras.layers.InputLayer):
                tensors[call.layer, call.number] = layers[call.layer].output
                continue
            args, kwargs = substitute(call.args, tensor), substitute(call.kwargs, tensor)
            tensors[call.layer, call.number] = apply(call, *args, **kwargs)
        return model_class(substitute(self.inputs, tensor), substitute(self.outputs, tensor), name=name or self.name)


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
    if type(model).__name__ != "Functional":  # a subclass, whose configuration may be its constructor's arguments
        if any("call" in cls.__dict__ for cls in type(model).__mro__[: _functional_class_at(model)]):
            raise ValueError(
                f"Expected `{argument}` to compute what its layers do. Received: '{model.name}', whose class "
                f"{type(model).__name__} has a `call` of its own."
            )
        return keras.Model(model.input, model.output, name=model.name)
    return model


def sizes_error(name: str, shape: Sequence[int | None], why: str, layer: str | None = None) -> ValueError:
    """The error for a network of images of any size where one size has to be known.

    Args:
        name: The network's name.
        shape: A shape that is not known, batch axis first.
        why: What needs it.
        layer: The layer that returns a tensor of that shape; the input by default.
    """
    channels = shape[-1] if len(shape) == 4 and shape[-1] in (1, 3, 4) else 3
    return ValueError(
        f"Expected a network of known image size, {why}. Received: '{name}', where "
        f"{'the input' if layer is None else f'layer {layer!r}'} has the shape {tuple(shape)}. Give it a size, with "
        f"the height and width of your images: `keras.Sequential([keras.Input((96, 96, {channels})), network])`."
    )


def is_functional(operation: Any) -> bool:
    """Whether an operation is a network whose graph Keras has, apart from Sequential ones."""
    return any(cls.__name__ == "Functional" for cls in type(operation).__mro__)


def _functional_class_at(model: keras.Model) -> int:
    """The place of Keras' own class among those that a functional network inherits from."""
    return [cls.__name__ for cls in type(model).__mro__].index("Functional")
