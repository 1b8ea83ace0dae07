"""Layers that are made of other layers, written out as the network of these.

A block that someone wrote as a `keras.Layer` with convolutions inside is opaque to a graph. Its `call` says what it
does: called with symbolic tensors, it leaves a functional network of the layers and operators that it calls, with its
weights. It is taken only where nothing can be lost on that way; see `network_of`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops

from tfjointrd.layers.weight_names import weight_name
from tfjointrd.surgery.rules.rule import Rule, rule_of

_FOUND: WeakKeyDictionary[keras.Layer, dict[Any, keras.Model | str]] = WeakKeyDictionary()
_SIZE = 16  # of images of no size, where a layer and its network are compared
_TOLERANCES = {"float64": 1e-8, "float32": 1e-4}  # relative to the largest output; others compute in 16 bits


def may_be_composite(layer: Any) -> bool:
    """Whether a layer is of a class that nobody has described, and not one of Keras' own or of this package."""
    cls = type(layer)
    public = getattr(keras.layers, cls.__name__, None) is cls
    own = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return isinstance(layer, keras.Layer) and not public and not own and rule_of(cls) == Rule()


def network_of(layer: keras.Layer, args: tuple, kwargs: Mapping[str, Any]) -> keras.Model | str:
    """The layers that a layer calls as a functional network, with its weights, or why there is no such network.

    There is none where a weight of the layer belongs to none of these layers, where it calls others in training, adds
    a loss, draws random numbers or leaves Keras' functions. The network is run once beside the layer and has to compute
    the same.

    Args:
        layer: The layer, built.
        args: Arguments of its call, with a `keras.KerasTensor` for each tensor.
        kwargs: Likewise by name; a `mask` is left out.

    Returns:
        A functional `keras.Model` of the call's tensors, in their order; or a sentence on what stands against it.
    """
    kwargs = {key: value for key, value in kwargs.items() if key != "mask"}
    key = _key(layer, args, kwargs)
    found = _FOUND.setdefault(layer, {})
    if key not in found:
        try:
            found[key] = _written_out(layer, args, kwargs)
        except Exception as error:  # whatever a user's code raises when it is given symbolic tensors
            found[key] = f"it cannot be called with symbolic tensors ({_first_line(error)})"
    return found[key]


def part_names(layer: keras.Layer) -> dict[int, str]:
    """Names of the layers within a layer, by the object: the attributes that hold them, such as `conv` or `convs_0`.

    Keras numbers layers without a name by how many there are in a process, so that their names differ from one to the
    next.
    """
    common = vars(keras.Model() if isinstance(layer, keras.Model) else keras.Layer())
    names: dict[int, str] = {}

    def visit(value: Any, name: str) -> None:
        if isinstance(value, keras.Layer):
            names.setdefault(id(value), name)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                visit(item, f"{name}_{index}")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                visit(item, f"{name}_{key}")

    own = [attribute for attribute in vars(layer) if attribute not in common and not attribute.startswith("_self_")]
    for attribute in sorted(own, key=lambda attribute: attribute.startswith("_")):  # TensorFlow has lists of its own
        visit(vars(layer)[attribute], attribute.strip("_"))
    return names


def _key(layer: keras.Layer, args: tuple, kwargs: Mapping) -> tuple:
    """What the network depends on: shapes, types and other arguments, and which variables the layer has."""

    def described(value: Any) -> Any:
        return (value.shape, value.dtype) if isinstance(value, keras.KerasTensor) else repr(value)

    arguments = keras.tree.map_structure(described, [list(args), dict(kwargs)])
    return repr(arguments), tuple(id(variable) for variable in layer.variables)


def _written_out(layer: keras.Layer, args: tuple, kwargs: Mapping) -> keras.Model | str:
    if getattr(layer, "activity_regularizer", None) is not None:
        return "it has an activity regularizer"
    network, losses = _trace(layer, args, kwargs)
    if losses:
        return "it adds a loss"
    theirs = {id(variable) for variable in network.weights}
    own = [weight_name(layer, variable) for variable in layer.weights if id(variable) not in theirs]
    if own:
        return f"it has weights of its own ({', '.join(own)})"
    parameters = inspect.signature(layer.call).parameters
    if kwargs.get("training") is None and "training" in parameters:
        trained, losses = _trace(layer, args, {**kwargs, "training": True})
        if losses or _structure(trained) != _structure(network):
            return "it does something else in training"
    return network if _agree(layer, network, args, kwargs) else "the layers that it calls compute something else"


def _trace(layer: keras.Layer, args: tuple, kwargs: Mapping) -> tuple[keras.Model, list]:
    """The network of what the layer calls, and the losses that it adds. What it would assign is lost."""
    inputs = []

    def placeholder(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        inputs.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
        if keras.backend.is_float_dtype(value.dtype) and value.dtype != layer.compute_dtype:
            return ops.cast(inputs[-1], layer.compute_dtype)  # as Keras does before a layer's `call`
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(placeholder, (tuple(args), dict(kwargs)))
    with keras.StatelessScope(collect_losses=True) as scope:
        outputs = layer.call(*args, **kwargs)
    return keras.Model(inputs, outputs, name=layer.name), list(scope.losses)


def _structure(network: keras.Model) -> list:
    """What a network computes, apart from whether its layers are told that they train, in a form that compares."""
    places = {operation.name: place for place, operation in enumerate(network.operations)}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            if value.get("class_name") == "__keras_tensor__":
                name, *rest = value["config"]["keras_history"]
                return ["tensor", places[name], *rest]
            return {key: plain(item) for key, item in value.items() if key not in ("training", "mask", "name")}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    config = network.get_config()
    rows = []
    for operation, row in zip(network.operations, config["layers"], strict=True):
        layer = isinstance(operation, keras.Layer) and not isinstance(operation, keras.layers.InputLayer)
        rows.append([type(operation).__name__, id(operation) if layer else plain(row["config"]), row["inbound_nodes"]])
    outputs = keras.tree.flatten(network.outputs)
    return json.loads(json.dumps([plain(rows), [(tuple(y.shape), y.dtype) for y in outputs]], default=str))


def _agree(layer: keras.Layer, network: keras.Model, args: tuple, kwargs: Mapping) -> bool:
    """Whether the layer and its network compute the same of random numbers, outside training."""
    if kwargs.get("training") is None and "training" in inspect.signature(layer.call).parameters:
        kwargs = {**kwargs, "training": False}
    tolerance = _TOLERANCES.get(layer.compute_dtype, 0.03)
    for seed in range(2):  # twice, since a layer that draws random numbers may draw once what its network drew
        rng, arrays = np.random.default_rng(seed), []
        drawn = keras.tree.map_structure(lambda value: _random(value, rng, arrays), (tuple(args), dict(kwargs)))  # noqa: B023
        expected = keras.tree.flatten(layer(*drawn[0], **drawn[1]))
        found = keras.tree.flatten(network(arrays[0] if len(arrays) == 1 else arrays, training=False))
        if len(expected) != len(found) or not all(map(_close, expected, found, [tolerance] * len(found))):
            return False
    return True


def _random(value: Any, rng: np.random.Generator, arrays: list) -> Any:
    """An array in place of a symbolic tensor, which is added to `arrays`; other values as they are."""
    if not isinstance(value, keras.KerasTensor):
        return value
    shape = [1 if axis == 0 else size or _SIZE for axis, size in enumerate(value.shape)]
    drawn = rng.normal(size=shape) if keras.backend.is_float_dtype(value.dtype) else np.zeros(shape)
    arrays.append(ops.convert_to_tensor(drawn, dtype=value.dtype))
    return arrays[-1]


def _close(expected: Any, found: Any, tolerance: float) -> bool:
    expected, found = (ops.convert_to_numpy(ops.cast(x, "float64")) for x in (expected, found))
    if expected.shape != found.shape:
        return False
    scale = np.nanmax(np.abs(expected), initial=0)
    return np.allclose(found, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
