"""Multiply-accumulates of single layers, counted as the papers count them.

One multiply-accumulate (MAC) for each kernel weight at each position where the kernel is applied. Biases,
normalisation, activations, pooling and merges are free.
"""

from __future__ import annotations

import math
from typing import Any

from tfjointrd.layers.weight_names import is_kernel
from tfjointrd.surgery.rules.rule import Shape
from tfjointrd.surgery.weights import nested_layers

_MAY_BE_PACKED = ("kernel", "embeddings")


def weight_sizes(layer: Any) -> list[tuple[Any, int]]:
    """A layer's weights and how many numbers each stands for; a quantised one may hold several in a byte."""
    weights = getattr(layer, "weights", ())
    packed: dict[int, int] = {}
    for inner in nested_layers(layer) if weights else ():
        if getattr(inner, "quantization_mode", None):
            named = [weight for weight in inner.weights if hasattr(inner, weight.name)]
            packed |= {id(w): math.prod(getattr(inner, w.name).shape) for w in named if w.name in _MAY_BE_PACKED}
    return [(weight, packed.get(id(weight), math.prod(weight.shape))) for weight in weights]


def kernel_parameters(layer: Any) -> int:
    """Number of weights in a layer's kernels: no biases, no normalisation, no embeddings."""
    return sum(size for weight, size in weight_sizes(layer) if is_kernel(weight.name))


def convolution(layer, input_shapes, output_shape) -> int:
    """The kernel is applied once for each position of the output."""
    return kernel_parameters(layer) * _positions(layer, output_shape)


def transposed_convolution(layer, input_shapes, output_shape) -> int:
    """The kernel is applied once for each position of the input."""
    return kernel_parameters(layer) * _positions(layer, input_shapes[0])


def dense(layer, input_shapes, output_shape) -> int:
    """The kernel is applied once for each vector of the input."""
    return kernel_parameters(layer) * math.prod(input_shapes[0][:-1])


def free(layer, input_shapes, output_shape) -> int:
    """Nothing is multiplied by a kernel."""
    return 0


def unknown(layer, input_shapes, output_shape) -> None:
    """Tensors are multiplied with each other, and nobody has said how many times, which is not the same as free."""
    return None


def _positions(layer, shape: Shape) -> int:
    """In how many places of a batch of images a kernel is applied."""
    spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    return shape[0] * math.prod(spatial)
