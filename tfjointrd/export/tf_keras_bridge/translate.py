"""A Keras 3 network as a tf_keras network, and the weights back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfjointrd.export.samples import random_images
from tfjointrd.export.source import in_float32
from tfjointrd.export.tf_keras_bridge.layers import Part, translator
from tfjointrd.export.tf_keras_bridge.libraries import tf_keras
from tfjointrd.layers import DiracConv2D
from tfjointrd.surgery.dirac import fold
from tfjointrd.surgery.graph import Graph, functional
from tfjointrd.surgery.read_graph import read_graph

if TYPE_CHECKING:
    from tf_keras import Model as TFKerasModel


def to_tf_keras(network: keras.Model) -> TFKerasModel:
    """The same network in tf_keras, which tensorflow-model-optimization works on.

    Layers keep their names and their weights. Networks within the network are written out, Dirac convolutions become
    plain ones, and layers of this package become those of tf_keras.

    Args:
        network: A functional or Sequential network of Keras 3. It is not changed.

    Returns:
        A `tf_keras.Model` with the same outputs; the two are compared on random images.

    Raises:
        ValueError: If a layer has no equal in tf_keras; the message names the layer.
        ImportError: If tf_keras is not installed.

    Example:

    >>> old = to_tf_keras(network)
    >>> [layer.name for layer in old.layers] == [layer.name for layer in network.layers]
    True
    """
    network = prepared(network)
    return translated(network)[0]


def prepared(network: keras.Model) -> keras.Model:
    """The network in float32, with plain convolutions in the place of Dirac ones."""
    network = in_float32(functional(network, "network"))
    if any(isinstance(layer, DiracConv2D) for layer in network._flatten_layers()):
        network = fold(network)
    return network


def translated(network: keras.Model) -> tuple[TFKerasModel, dict[str, Any]]:
    """The network in tf_keras, and the tf_keras layers that have its layers' weights, by name."""
    graph = read_graph(network)
    old = tf_keras()
    parts: dict[str, Part] = {}
    functions: dict[str, Any] = {}
    for call in graph.calls:
        if call.layer in parts:
            continue
        parts[call.layer] = part = _part(graph, call)
        if issubclass(part.spec.cls, keras.layers.InputLayer):
            functions[call.layer] = old.layers.InputLayer(part.source.batch_shape[1:], name=call.layer)
        else:
            functions[call.layer] = translator(part)

    def apply(call, *args, **kwargs):
        _check_call(parts[call.layer], kwargs)
        tensors = (value for key, value in kwargs.items() if key not in ("training", "mask"))
        return functions[call.layer](*args, *tensors)

    model = graph.assemble(apply, functions, model_class=old.Model)
    carriers = {}
    for name, part in parts.items():
        weights = part.source.get_weights() if getattr(part.source, "weights", ()) else []
        if weights and part.layers and part.layers[0].weights:
            part.layers[0].set_weights(weights)
            carriers[name] = part.layers[0]
    _check_same(network, model)
    return model, carriers


def with_weights_of(network: keras.Model, layers: Mapping[str, Any]) -> keras.Model:
    """A copy of a Keras 3 network that has the weights of tf_keras layers, by name."""
    copy = read_graph(network).build()
    for name, layer in layers.items():
        copy.get_layer(name).set_weights(layer.get_weights())
    return copy


def _part(graph: Graph, call) -> Part:
    name = call.layer
    shapes = [tuple(graph.shapes[ref]) for ref in call.inputs], tuple(graph.shapes[call.output])
    return Part(name, graph.layers[name], graph.sources[name], call, shapes)


def _check_call(part: Part, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("training") or kwargs.get("mask") is not None:
        raise part.error("called with `training` or `mask`, which cannot be translated")


def _check_same(network: keras.Model, model: TFKerasModel) -> None:
    """Whether both return the same, but for rounding."""
    if any(None in tensor.shape[1:] for tensor in network.inputs):
        return
    inputs = [random_images(tuple(tensor.shape[1:]))[:3] for tensor in network.inputs]
    x = inputs[0] if len(inputs) == 1 else inputs
    ours, theirs = (keras.tree.flatten(one(x, training=False)) for one in (network, model))
    for expected, actual in zip(ours, theirs, strict=True):
        expected = keras.ops.convert_to_numpy(expected)
        error = np.abs(np.asarray(actual) - expected).max() / max(np.abs(expected).max(), 1e-30)
        if not error <= 1e-4:
            raise ValueError(
                f"Expected '{network.name}' to compute the same in tf_keras. Received: a difference of {error:.2g} of "
                "the largest output. Report the network's layers, please"
            )
