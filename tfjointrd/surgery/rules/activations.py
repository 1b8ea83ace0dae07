"""The activations by name: which there are, what they keep, and by which layer to make them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras

from tfjointrd.surgery.graph import LayerSpec
from tfjointrd.surgery.rules.rule import describe

# The ReLU and those that took its place: little where x is far below zero, about x where it is large.
_LIKE_RELU = "relu relu6 leaky_relu prelu elu selu celu silu gelu mish hard_silu"
_THROUGH_ZERO = "linear tanh hard_tanh tanh_shrink softsign soft_shrink hard_shrink"
_NOT_THROUGH_ZERO = "sigmoid hard_sigmoid log_sigmoid softplus exponential sparse_plus sparse_sigmoid squareplus"

LIKE_RELU = frozenset(_LIKE_RELU.split())
# Those that look at each element alone, by their name in `keras.activations`, and whether f(0) = 0.
ELEMENTWISE = {
    **dict.fromkeys(_LIKE_RELU.split(), True),
    **dict.fromkeys(_THROUGH_ZERO.split(), True),
    **dict.fromkeys(_NOT_THROUGH_ZERO.split(), False),
}
MIXING = ("softmax", "log_softmax", "sparsemax", "glu")  # those that look at all channels
_SYNONYMS = {"swish": "silu", "hard_swish": "hard_silu", "exp": "exponential"}
_LAYERS = {
    "relu": keras.layers.ReLU,
    "leaky_relu": keras.layers.LeakyReLU,
    "elu": keras.layers.ELU,
}


def activation_name(name: str) -> str:
    """The name in `keras.activations` of an activation, given as there or as the class of a layer or operator."""
    snake = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("re_lu", "relu")
    return _SYNONYMS.get(snake, snake)


def configured_activation(config: Mapping[str, Any]) -> str | None:
    """The name of the activation in a layer's configuration, `"linear"` where it names none; `None` if not Keras' own.

    Args:
        config: The configuration of a layer that takes an `activation`, such as `Conv2D`.
    """
    activation = config.get("activation") or "linear"
    if isinstance(activation, Mapping):  # a function of the user's, or a layer
        inner = activation.get("config")
        activation = inner if isinstance(inner, str) else str(activation.get("class_name"))
    name = activation_name(activation)
    return name if name in ELEMENTWISE or name in MIXING else None


def mixes_channels(config: Mapping[str, Any]) -> bool:
    """Whether the activation in a layer's configuration looks at all channels, as a softmax does."""
    return configured_activation(config) in MIXING or "softmax" in str(config.get("activation"))


def ends_in(spec: LayerSpec) -> str | None:
    """The activation that a layer ends in: its own, if it is one, or else that of its configuration."""
    own = describe(spec).activation
    return own if isinstance(own, str) else configured_activation(spec.config)


def activation_layer(spec: LayerSpec) -> keras.Layer:
    """A new layer that computes what an activation does, be it a layer or an operator.

    Args:
        spec: The layer or operator, an activation by its rule.
    """
    if issubclass(spec.cls, keras.Layer):
        return spec.make()
    name = describe(spec).activation
    options = {key: value for key, value in spec.config.items() if key != "name" and value is not None}
    if name not in _LAYERS:
        return keras.layers.Activation(name)
    return _LAYERS[name](**options)
