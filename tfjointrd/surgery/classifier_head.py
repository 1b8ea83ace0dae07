"""A trained network with a new classifier, for other classes than those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import keras

from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, refs_in, substitute
from tfjointrd.surgery.narrow_forms import without_arrays
from tfjointrd.surgery.output_activation import SIGMOID, SOFTMAX, final_activation
from tfjointrd.surgery.read_graph import read_graph

# What stands for yes or no of one unit, and for one of several classes.
_OF_ONE = {"sigmoid": "softmax", "log_sigmoid": "log_softmax"}
_OF_SEVERAL = {several: one for one, several in _OF_ONE.items()}


def new_head(
    model: keras.Model, num_classes: int, input_shape: Sequence[int] | None = None, name: str | None = None
) -> keras.Model:
    """Gives a trained network a new last `Dense` layer; all other layers keep their weights.

    Args:
        model: A functional or Sequential classifier that ends in a `Dense` layer, with a softmax behind it or without.
            It is not changed. A sigmoid of one unit, which tells two classes apart, becomes a softmax for several
            units, and a softmax becomes a sigmoid for one unit. Sigmoids of several units stay.
        num_classes: Number of units of the new layer, whose weights are drawn as those of a new network. It learns,
            also where the network is frozen.
        input_shape: `(height, width, channels)` of the images to come; as before by default. Another height and width
            need a network that is convolutional up to a global pooling. If the images have one channel and the network
            takes several, the channel is repeated in front of it.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` with the same layer names.

    Raises:
        ValueError: If the network does not end in a `Dense` layer, has several inputs or outputs, cannot take images of
            `input_shape`, or ends in a function that does not serve `num_classes`; the message names the layer.

    Example:

    >>> network = new_head(tfjointrd.models.resnet20(num_classes=10), num_classes=67, input_shape=(64, 64, 3))
    >>> network.output_shape
    (None, 67)
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"Expected `num_classes` to be a positive integer. Received: num_classes={num_classes!r}.")
    graph = read_graph(model)
    graph.check_tied()
    head = _head(graph)
    spec, one_unit = graph.layers[head], graph.layers[head].config["units"] == 1
    without = {} if spec.config["units"] == num_classes else without_arrays(spec.config)
    specs = {**graph.layers, head: spec.with_config(units=num_classes, trainable=True, **without)}
    ahead = {ref.layer for call in graph.calls if call.layer == head for ref in graph.ancestors()[call.output]} - {head}
    for key, spec in specs.items():
        activation = None if key in ahead else spec.config.get("activation")
        activation = activation if isinstance(activation, str) else None
        if activation in _OF_ONE and num_classes > 1 and one_unit:
            specs[key] = spec.with_config(activation=_OF_ONE[activation])
        elif activation in _OF_SEVERAL and num_classes == 1:
            specs[key] = spec.with_config(activation=_OF_SEVERAL[activation])
        elif key not in ahead and spec.cls is keras.layers.Softmax and num_classes == 1:
            specs[key] = LayerSpec(
                keras.layers.Activation, {"name": key, "activation": "sigmoid", "dtype": spec.config["dtype"]}
            )
            calls = [replace(call, kwargs={}) if call.layer == key else call for call in graph.calls]  # no mask
            graph = replace(graph, calls=calls)
    sources = {key: layer for key, layer in graph.sources.items() if key != head}
    graph = replace(graph, layers=specs, sources=sources)
    if input_shape is None:
        return _checked(graph.build(name), model, num_classes, one_unit)
    reshaped = _with_input(graph, tuple(input_shape))
    try:
        network = reshaped.build(name)
    except ValueError as error:
        raise ValueError(
            "Expected `model` to be convolutional up to a global pooling, so that it takes images of another size. "
            f"Received: '{model.name}' for images of {model.input_shape[1:]} and input_shape={tuple(input_shape)}. "
            f"Keras says: {error}"
        ) from error
    return _checked(network, model, num_classes, one_unit)


def _checked(network: keras.Model, before: keras.Model, num_classes: int, one_unit: bool) -> keras.Model:
    """The network, unless it ends in a function that was not recognised and does not serve that many classes."""
    if one_unit == (num_classes == 1):
        return network
    ending = final_activation(network)
    if ending == (SOFTMAX if num_classes == 1 else SIGMOID):
        raise ValueError(
            f"Expected `model` without a {ending} behind its last Dense layer, or with it as an activation by name, "
            f"which is replaced. Received: '{before.name}' and num_classes={num_classes}. Take the network up to that "
            "layer: `keras.Model(model.input, model.get_layer(NAME).output)`."
        )
    return network


def _head(graph: Graph) -> str:
    """The last layer with a kernel, if it is a `Dense` layer whose units are the classes."""
    output = graph.single_output()
    ancestors, kernels = graph.ancestors()[output], graph.kernel_layers()
    calls = [call for call in graph.calls if call.output in ancestors and call.layer in kernels]
    if not calls:
        raise ValueError(f"Expected `model` to end in a Dense layer. Received: '{graph.name}', without any.")
    head = calls[-1].layer
    spec = graph.layers[head]
    if spec.cls is not keras.layers.Dense:
        raise ValueError(
            f"Expected `model` to end in a Dense layer. Received: '{graph.name}', whose last layer with a kernel is "
            f"'{head}' ({spec.cls.__name__})."
        )
    shape = graph.shapes[output]
    if len(shape) != 2 or shape[-1] != spec.config["units"] or [call.layer for call in calls].count(head) > 1:
        raise ValueError(
            f"Expected `model` to end in a Dense layer whose units are the classes. Received: '{graph.name}' with "
            f"outputs of shape {shape} behind '{head}', {spec.config['units']} units."
        )
    return head


def _with_input(graph: Graph, input_shape: tuple[int, ...]) -> Graph:
    """The graph for images of another shape; its tensors' shapes are those of the old one."""
    source = _single_input(graph)
    shape = graph.shapes[source]
    if len(shape) != 4 or len(input_shape) != 3:
        raise ValueError(
            "Expected a network for images and `input_shape` as (height, width, channels). Received: a network for "
            f"inputs of shape {shape} and input_shape={input_shape}."
        )
    if input_shape[-1] not in (shape[-1], 1):
        raise ValueError(
            f"Expected images of {shape[-1]} channels, or of one, which is repeated. Received: "
            f"input_shape={input_shape} for '{graph.name}'."
        )
    spec = graph.layers[source.layer].with_config(batch_shape=(None, *input_shape))
    graph = replace(graph, layers={**graph.layers, source.layer: spec})
    return graph if input_shape[-1] == shape[-1] else _repeated(graph, source, shape[-1])


def _single_input(graph: Graph) -> Ref:
    refs = list(refs_in(graph.inputs))
    if len(refs) != 1:
        raise ValueError(f"Expected a network with one input. Received: '{graph.name}' with {len(refs)} inputs.")
    return refs[0]


def _repeated(graph: Graph, source: Ref, channels: int) -> Graph:
    """The graph with a layer behind the input that repeats its one channel."""
    name = "repeated_channel"
    while name in graph.layers:
        name += "_"
    spec = LayerSpec(keras.layers.Concatenate, {"axis": -1, "name": name})
    repeat = Call(name, args=([source] * channels,))

    def instead(ref: Ref) -> Ref:
        return repeat.output if ref == source else ref

    calls = [
        replace(call, args=substitute(call.args, instead), kwargs=substitute(call.kwargs, instead))
        for call in graph.calls
    ]
    calls.insert(1 + next(place for place, call in enumerate(calls) if call.output == source), repeat)
    return replace(graph, layers={**graph.layers, name: spec}, calls=calls)
