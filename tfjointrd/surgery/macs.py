"""Multiply-accumulates of layers, looked up in the table of rules.

The multiply-accumulates of a layer without a way to count them are unknown, not zero, if it has weights, is a Lambda or
is neither of Keras nor has a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfjointrd.surgery.rules import Rule, register_rule
from tfjointrd.surgery.rules.counters import unknown
from tfjointrd.surgery.rules.rule import Counter, Shape, rule_of


def register_macs(layer_class: type, count: Counter) -> None:
    """Adds a count of multiply-accumulates for a layer class of your own and its subclasses.

    Args:
        layer_class: A subclass of `keras.Layer`.
        count: `(layer, input_shapes, output_shape) -> MACs` of one call. The shapes include the batch axis.

    Raises:
        ValueError: If `layer_class` is not a layer class.

    Example:

    >>> register_macs(keras.layers.Attention, lambda layer, input_shapes, output_shape: 0)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise ValueError(
            f"Expected `layer_class` to be a subclass of keras.Layer. Received: layer_class={layer_class!r}"
        )
    register_rule(layer_class, Rule(macs=count))


def layer_macs(layer: Any, input_shapes: Sequence[Shape], output_shapes: Sequence[Shape]) -> int | None:
    """MACs of one call of a layer, `None` where they are not known.

    Args:
        layer: A layer, or an operator such as the one behind `x + y`.
        input_shapes: Shapes of the tensors it takes.
        output_shapes: Shapes of the tensors it returns.
    """
    count = rule_of(type(layer)).macs
    if count is not None and len(input_shapes) == len(output_shapes) == 1:
        return count(layer, input_shapes, output_shapes[0])
    described = rule_of(type(layer)).channels is not None or type(layer).__module__.startswith(("keras.", "tfjointrd."))
    if count is unknown or bool(getattr(layer, "weights", ())) or isinstance(layer, keras.layers.Lambda):
        return None
    return 0 if described else None
