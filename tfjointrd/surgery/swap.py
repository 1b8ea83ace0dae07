"""The same network with other layer classes of the same configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import keras

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.surgery.read_graph import read_graph


def swap_layers(model: keras.Model, classes: Mapping[type, type], name: str | None = None) -> keras.Model:
    """Rebuilds a network with some layer classes replaced by others of the same configuration and weights.

    Args:
        model: A functional or Sequential network. It is not changed.
        classes: Old class -> new class.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` with the same layer names and weights.

    Raises:
        ValueError: If `model` is not functional.
    """
    graph = read_graph(model)
    layers = {key: replace(spec, cls=classes.get(spec.cls, spec.cls)) for key, spec in graph.layers.items()}
    return replace(graph, layers=layers).build(name)


def with_fused_batch_normalization(model: keras.Model) -> keras.Model:
    """The same network on TensorFlow's fused batch normalisation, for faster training and for several devices.

    Undone by `with_keras_batch_normalization`; networks for deployment hold Keras' own layers only.
    """
    return swap_layers(model, {keras.layers.BatchNormalization: FusedBatchNormalization})


def with_keras_batch_normalization(model: keras.Model) -> keras.Model:
    """The same network with Keras' own batch normalisation, so that its files load without this package."""
    return swap_layers(model, {FusedBatchNormalization: keras.layers.BatchNormalization})
