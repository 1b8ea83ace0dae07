"""A network with new weights, but for what a training would not have changed."""

from __future__ import annotations

import keras

from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.weights import assign_weights, weights_of


def with_new_weights(graph: Graph, trained: keras.Model) -> keras.Model:
    """Builds a network anew: frozen layers and normalisations that were adapted to data keep what they have.

    Args:
        graph: The network's graph.
        trained: A network of that graph, which has the weights to keep.
    """
    network = graph.build(graph.name)
    for key, spec in graph.layers.items():
        if not spec.config.get("trainable", True) or spec.cls is keras.layers.Normalization:
            assign_weights(network.get_layer(key), weights_of(trained.get_layer(key)))
    return network
