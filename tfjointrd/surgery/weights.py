"""Weights of a layer by name, which is how slices of them find their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfjointrd.layers.weight_names import weight_name


def weights_of(layer: Any) -> dict[str, np.ndarray]:
    """The weights of a layer by variable name, e.g. `{"kernel": ..., "bias": ...}`; empty for an operator.

    Raises:
        ValueError: If two weights have the same name, as those of layers within a layer may.
    """
    weights = getattr(layer, "weights", ())
    names = [weight_name(layer, variable) for variable in weights]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Layer '{layer.name}' has several weights of one name ({sorted(names)}) and cannot be changed."
        )
    return {name: keras.ops.convert_to_numpy(variable.value) for name, variable in zip(names, weights, strict=True)}


def assign_weights(layer: Any, values: Mapping[str, np.ndarray]) -> None:
    """Sets the weights of `layer` by variable name.

    Raises:
        ValueError: If a weight is missing or has another shape; the message names the layer.
    """
    for variable in getattr(layer, "weights", ()):
        name = weight_name(layer, variable)
        if name not in values:
            raise ValueError(f"Layer '{layer.name}' has no value for its weight '{name}'.")
        if tuple(variable.shape) != tuple(np.shape(values[name])):
            raise ValueError(
                f"Layer '{layer.name}' expects its weight '{name}' in shape {tuple(variable.shape)}. "
                f"Received: shape {tuple(np.shape(values[name]))}."
            )
        variable.assign(values[name])
    settle(layer)


def nested_layers(layer: Any) -> list[keras.Layer]:
    """A layer or network and all layers within it, in attributes and in lists or dicts of attributes, each once."""
    found: dict[int, keras.Layer] = {}

    def visit(value: Any) -> None:
        if isinstance(value, keras.Layer) and id(value) not in found:
            found[id(value)] = value
            for inner in list(vars(value).values()):
                visit(inner)
        elif isinstance(value, (list, tuple, set, dict)):
            for inner in value.values() if isinstance(value, dict) else value:
                visit(inner)

    visit(layer)
    return list(found.values())


def settle(layer: Any, weights: list[np.ndarray] | None = None) -> None:
    """Lets a layer take note of weights it was given, or is given here: `Normalization` computes with copies."""
    if weights is not None:
        layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()
