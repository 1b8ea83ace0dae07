"""The same network with other layer classes of the same configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import keras

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.weight_names import weight_name
from tfjointrd.surgery.graph import Call
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.weights import assign_weights, settle, weights_of


def swap_layers(model: keras.Model, classes: Mapping[type, type], name: str | None = None) -> keras.Model:
    """Rebuilds a network with some layer classes replaced by others of the same configuration and weights.

    Args:
        model: A functional or Sequential network. It is not changed.
        classes: Old class -> new class.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` with the same layer names and weights.

    Raises:
        ValueError: If `model` is not functional, or a new class takes another configuration or has other weights.
    """
    graph = read_graph(model)
    graph.check_tied()
    swapped = {key for key, spec in graph.layers.items() if classes.get(spec.cls, spec.cls) is not spec.cls}
    layers = {
        key: replace(spec, cls=classes[spec.cls]) if key in swapped else spec for key, spec in graph.layers.items()
    }
    calls = [_without_mask(call) if call.layer in swapped else call for call in graph.calls]
    sources = {key: layer for key, layer in graph.sources.items() if key not in swapped}
    try:
        network = replace(graph, layers=layers, calls=calls, sources=sources).build(name)
        for key in swapped:
            _take_weights(network.get_layer(key), graph.sources[key])
        return network
    except (TypeError, ValueError) as error:
        pairs = ", ".join(f"{old.__name__} -> {new.__name__}" for old, new in classes.items())
        raise ValueError(
            f"Expected classes that take the same configuration, arguments and weights. Received: {pairs} for "
            f"'{model.name}'. {error}"
        ) from error


def _take_weights(layer: keras.Layer, source: keras.Layer) -> None:
    """Gives a layer another one's weights, by name if all are the same: a class may make them in another order."""
    own, others = ([weight_name(one, weight) for weight in one.weights] for one in (layer, source))
    if len(set(own)) == len(own) and set(own) == set(others):
        assign_weights(layer, weights_of(source))
    else:
        settle(layer, source.get_weights())


def _without_mask(call: Call) -> Call:
    """A call without the `mask` that Keras notes down as `None`, which not every class takes."""
    return replace(call, kwargs={key: value for key, value in call.kwargs.items() if key != "mask" or value})


def with_fused_batch_normalization(model: keras.Model) -> keras.Model:
    """The same network on TensorFlow's fused batch normalisation, for faster training and for several devices.

    Undone by `with_keras_batch_normalization`; networks for deployment hold Keras' own layers only.
    """
    return swap_layers(model, {keras.layers.BatchNormalization: FusedBatchNormalization})


def with_keras_batch_normalization(model: keras.Model) -> keras.Model:
    """The same network with Keras' own batch normalisation, so that its files load without this package."""
    return swap_layers(model, {FusedBatchNormalization: keras.layers.BatchNormalization})
