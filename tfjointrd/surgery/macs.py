"""Multiply-accumulates of single layers, counted as the papers count them.

One multiply-accumulate (MAC) for each kernel weight at each position where the kernel is applied. Biases,
normalisation, activations, pooling and merges are free. A layer class with weights that nobody has told how to count
is unknown, which is not the same as free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

Shape = tuple[int, ...]
Counter = Callable[[Any, Sequence[Shape], Shape], int]

_COUNTERS: dict[type, Counter] = {}
# Operators that multiply tensors with each other; layers without a counter are judged by their weights.
_MULTIPLYING = """
    Matmul Dot Einsum Tensordot Inner Outer Vdot Correlate Attention AdditiveAttention DotProductAttention
    Conv ConvTranspose DepthwiseConv SeparableConv
"""


def register_macs(layer_class: type, count: Counter) -> None:
    """Teaches the report a layer class of your own and its subclasses.

    Args:
        layer_class: A subclass of `keras.Layer`.
        count: `(layer, input_shapes, output_shape) -> MACs` of one call. The shapes include the batch axis.

    Raises:
        ValueError: If `layer_class` is not a layer class.

    Example:

    >>> register_macs(keras.layers.UnitNormalization, lambda layer, input_shapes, output_shape: 0)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise ValueError(
            f"Expected `layer_class` to be a subclass of keras.Layer. Received: layer_class={layer_class!r}"
        )
    _COUNTERS[layer_class] = count


def layer_macs(layer: Any, input_shapes: Sequence[Shape], output_shapes: Sequence[Shape]) -> int | None:
    """MACs of one call of a layer, `None` where they are not known.

    Args:
        layer: A layer, or an operator such as the one behind `x + y`.
        input_shapes: Shapes of the tensors it takes.
        output_shapes: Shapes of the tensors it returns.
    """
    counter = next((_COUNTERS[base] for base in type(layer).__mro__ if base in _COUNTERS), None)
    if counter is not None and len(input_shapes) == len(output_shapes) == 1:
        return counter(layer, input_shapes, output_shapes[0])
    if getattr(layer, "weights", ()) or type(layer).__name__ in _MULTIPLYING.split():
        return None
    return 0


def kernel_parameters(layer: Any) -> int:
    """Number of weights in a layer's kernels: no biases, no normalisation, no embeddings."""
    return sum(math.prod(weight.shape) for weight in getattr(layer, "weights", ()) if "kernel" in weight.name)


def _positions(layer, shape: Shape) -> int:
    """In how many places of a batch of images a kernel is applied."""
    spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    return shape[0] * math.prod(spatial)


def _convolution(layer, input_shapes, output_shape):
    return kernel_parameters(layer) * _positions(layer, output_shape)


def _transposed_convolution(layer, input_shapes, output_shape):
    """The kernel is applied once for each position of the input."""
    return kernel_parameters(layer) * _positions(layer, input_shapes[0])


def _dense(layer, input_shapes, output_shape):
    return kernel_parameters(layer) * math.prod(input_shapes[0][:-1])


def _free(layer, input_shapes, output_shape):
    return 0


for _rank in (1, 2, 3):
    register_macs(getattr(layers, f"Conv{_rank}D"), _convolution)
    register_macs(getattr(layers, f"Conv{_rank}DTranspose"), _transposed_convolution)
for _name in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"):
    register_macs(getattr(layers, _name), _convolution)
register_macs(layers.Dense, _dense)
for _class in (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.Embedding,
):
    register_macs(_class, _free)
