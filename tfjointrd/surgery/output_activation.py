"""Which activation a classifier ends in: softmax, sigmoid or none; and the loss that fits it."""

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


def ends_in_softmax(network: keras.Model | Graph, output: Ref | None = None) -> bool:
    """Whether a classifier returns the probabilities of classes of which one is right; see `final_activation`."""
    return final_activation(network, output) == "softmax"


def default_loss(network: keras.Model | Graph, output: Ref | None = None) -> keras.losses.Loss:
    """Cross-entropy on logits or probabilities as the network returns them.

    With integer labels, one class of several; binary, with labels 0 and 1, for one output, or several of a sigmoid.

    Args:
        network: The network or its graph.
        output: One of its outputs; by default the only one.
    """
    graph = network if isinstance(network, Graph) else read_graph(network)
    output = output or graph.single_output()
    activation = final_activation(graph, output)
    if activation == "sigmoid" or graph.shapes[output][-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits=activation is None)
    return categorical(activation == "softmax")


def categorical(probabilities: bool) -> keras.losses.Loss:
    """Cross-entropy with integer labels, on probabilities or else on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)
