"""Which activation a classifier ends in: softmax, sigmoid or none."""

from __future__ import annotations

import keras

from tfjointrd.surgery.graph import Graph, Ref
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.rules.activations import ends_in


def final_activation(network: keras.Model | Graph, output: Ref | None = None) -> str | None:
    """By what a classifier returns probabilities, read from the layers that make its output.

    Args:
        network: The network or its graph.
        output: One of its outputs; by default the only one.

    Returns:
        `"softmax"` or `"sigmoid"`, or `None` for logits.
    """
    graph = network if isinstance(network, Graph) else read_graph(network)
    ref = output or graph.single_output()
    while True:
        spec, call = graph.layers[ref.layer], graph.producer(ref)
        activation = ends_in(spec)
        if activation in ("softmax", "sigmoid"):
            return activation
        if not call.inputs or not describe(spec).keeps_probabilities:
            return None
        ref = call.inputs[0]
