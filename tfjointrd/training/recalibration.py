"""Batch normalisations' statistics measured anew."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfjointrd.data.batches import batches
from tfjointrd.progress import followed
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.pixel_range import check_pixels
from tfjointrd.surgery.weights import nested_layers

_BATCH_SIZE = 128


def recalibrate_batchnorm(model: keras.Model, data: Any, steps: int | None = None) -> keras.Model:
    """Measures the moving means and variances of a network's batch normalisations on data, and changes nothing else.

    A network computes something else in inference than in training if its statistics are those of another network or
    older than its weights. A small network from `adjoin(..., batch_normalization="shared")` has the statistics of the
    full one, for example. Every statistic becomes the plain mean over the batches, and over the calls of a layer that
    is called several times. Batch normalisations within layers of your own and within wrappers such as
    `TimeDistributed` are measured too, and frozen ones; all other layers run as in inference, so dropout is off.

    Args:
        model: A functional or Sequential network. It is changed in place.
        data: Images in any form that `tfjointrd.data.batches` describes, best as they come in the training, augmented.
            No labels are needed. Arrays are taken in batches of 128.
        steps: Number of batches; by default one pass over `data`.

    Returns:
        `model`.

    Raises:
        ValueError: If `model` is not functional or has no batch normalisation, or `data` is no images of the
            network's shape, or lies between 0 and 1 while the network begins by rescaling pixels from 0 to 255.

    Example:

    >>> small = tfjointrd.adjoin(tfjointrd.models.resnet20(), 2, batch_normalization="shared").small()
    >>> small = recalibrate_batchnorm(small, np.random.uniform(0, 255, (256, 32, 32, 3)))

    Reference:
        Universally Slimmable Networks (https://arxiv.org/abs/1903.05134), section 3.3.
    """
    functional(model)  # refuses others
    found = normalizations(model)
    if not found:
        raise ValueError(f"Expected `model` to have batch normalisations. Received: '{model.name}' without any.")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"Expected `steps` to be a whole number from 1 on, or None. Received: steps={steps!r}.")

    shape = model.inputs[0].shape[1:] if len(model.inputs) == 1 else None
    given = itertools.islice(batches(data, _BATCH_SIZE, shape=shape), steps)
    first = next(given)  # `batches` raises where there is none
    if shape is not None:
        check_pixels(keras.ops.convert_to_numpy(first[0]), model, "data")
    with _measuring(found):
        for images, _ in followed(
            itertools.chain([first], given), "recalibrating batch normalisations", data if steps is None else None
        ):
            model(images, training=False)
    return model


def has_batchnorm(model: keras.Model) -> bool:
    """Whether there are statistics to recalibrate."""
    return bool(normalizations(model))


def normalizations(layer: keras.Layer) -> list[keras.layers.BatchNormalization]:
    """The batch normalisations of a network or a layer, at any depth, each once."""
    return [inner for inner in nested_layers(layer) if isinstance(inner, keras.layers.BatchNormalization)]


@contextmanager
def _measuring(layers: list[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Lets batch normalisations measure the means over all their calls, whatever the layers around them do."""
    settings = [(layer, layer.momentum, layer.trainable) for layer in layers]
    try:
        for layer in layers:
            layer.trainable = True  # a frozen one would not measure
            layer.call = _measuring_call(layer)  # of this one object, in front of its class's
        yield
    finally:
        for layer, momentum, trainable in settings:
            layer.momentum, layer.trainable = momentum, trainable
            vars(layer).pop("call", None)


def _measuring_call(layer: keras.layers.BatchNormalization):
    call, calls = layer.call, itertools.count()
    signature = inspect.signature(call)

    def measure(*args, **kwargs):
        number = next(calls)
        layer.momentum = number / (number + 1)
        bound = signature.bind(*args, **kwargs)
        bound.arguments["training"] = True
        return call(*bound.args, **bound.kwargs)

    return measure
