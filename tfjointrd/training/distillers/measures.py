"""How tensors are compared: what several methods measure by."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfjointrd.training.distillers.distiller import cast


def flat(tensor):
    """One vector for each image, `(batch, numbers)`."""
    tensor = cast(tensor)
    return ops.reshape(tensor, (ops.shape(tensor)[0], int(np.prod(tensor.shape[1:]))))


def unit(vectors):
    """Vectors `(..., numbers)` of Euclidean length 1; zero stays zero."""
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors / ops.sqrt(ops.maximum(squares, 1e-24))


def mean_of_each(values):
    """The mean of what an image has, `(batch,)`."""
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


def pooling_matrix(size: int, smaller: int) -> np.ndarray:
    """The means of `size` numbers over `smaller` windows, `(smaller, size)`; windows share numbers where need be."""
    matrix = np.zeros((smaller, size), "float32")
    for i in range(smaller):
        first, end = i * size // smaller, -(-(i + 1) * size // smaller)
        matrix[i, first:end] = 1 / (end - first)
    return matrix
