"""Batch normalisations' statistics measured anew."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import keras

from tfjointrd.data.batches import batches
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.read_graph import read_graph

_BATCH_SIZE = 128


def recalibrate_batchnorm(model: keras.Model, data: Any, steps: int | None = None) -> keras.Model:
    """Measures the moving means and variances of a network's batch normalisations on data, and changes nothing else.

    What a network computes while it is trained and what it computes afterwards differ where its statistics are another
    network's, as those of a small network from `adjoin(..., batch_normalization="shared")` are, or older than its
    weights. Every statistic becomes the plain mean over the batches (of a layer that is called several times, that of
    its last call has more weight); dropout is off.

    Args:
        model: A functional or Sequential network. It is changed in place.
        data: Images in any form that `tfjointrd.data.batches` describes, best as they come in the training, augmented.
            No labels are needed. Arrays are taken in batches of 128.
        steps: Number of batches; by default one pass over `data`.

    Returns:
        `model`.

    Raises:
        ValueError: If `model` is not functional or has no batch normalisation, or `data` is no images
            of the network's shape.

    Example:

    >>> small = tfjointrd.adjoin(tfjointrd.models.resnet20(), 2, batch_normalization="shared").small()
    >>> small = recalibrate_batchnorm(small, np.random.uniform(0, 255, (256, 32, 32, 3)))

    Reference:
        Universally Slimmable Networks (https://arxiv.org/abs/1903.05134), section 3.3.
    """
    graph = read_graph(model)
    found = _normalizations(graph)
    if not found:
        raise ValueError(f"Expected `model` to have batch normalisations. Received: '{model.name}' without any.")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"Expected `steps` to be a whole number from 1 on, or None. Received: steps={steps!r}.")

    def apply(call, *args, **kwargs):
        layer = graph.sources[call.layer]
        # All that ask are told: Keras hands what one layer is told on to those behind it.
        mode = {"training": layer in found} if _asks_for_training(layer) else {}
        return layer(*args, **{**kwargs, **mode})

    measuring = graph.assemble(apply, graph.sources)  # shares the layers
    settings = [(layer, layer.momentum, layer.trainable) for layer in found]
    try:
        for layer in found:
            layer.trainable = True  # a frozen one would not measure
        shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
        batched = itertools.islice(batches(data, _BATCH_SIZE, shape=shape), steps)
        for number, (images, _) in enumerate(batched, start=1):
            for layer in found:
                layer.momentum = (number - 1) / number
            measuring(images)
    finally:
        for layer, momentum, trainable in settings:
            layer.momentum, layer.trainable = momentum, trainable
    return model


def has_batchnorm(model: keras.Model) -> bool:
    """Whether there are statistics to recalibrate."""
    return bool(_normalizations(read_graph(model)))


def _asks_for_training(layer) -> bool:
    """Whether a layer, or an operator, computes something else in training."""
    return isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters


def _normalizations(graph: Graph) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in graph.sources.values() if isinstance(layer, keras.layers.BatchNormalization)]
