"""Single layers with fewer channels: their configuration, their part of the weights, and whether they can be made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, substitute
from tfjointrd.surgery.rules import rule_for
from tfjointrd.surgery.rules.rule import Config
from tfjointrd.surgery.weights import weights_of

Kept = Mapping[Ref, np.ndarray]


def narrow_spec(graph: Graph, kept: Kept, name: str) -> LayerSpec:
    """The specification of layer `name` in the narrow network, where the kept positions of each tensor are these."""
    spec, call = graph.layers[name], _first_call(graph, name)
    outputs = [kept[ref] for ref in graph.outputs_of(call) if ref in kept]
    kept_in = kept[call.inputs[0]] if call.inputs else outputs[0]
    changes = rule_for(name, spec).narrow(spec.config, kept_in, outputs[0] if len(outputs) == 1 else outputs)
    return spec.with_config(**changes, **({} if _same(graph, kept, call) else without_arrays(spec.config)))


def kept_entries(
    graph: Graph, kept: Kept, name: str, weights: Mapping[str, np.ndarray]
) -> dict[str, list[np.ndarray | None]]:
    """What the narrow network takes of the weights of layer `name`: for each axis positions, or `None` for all."""
    spec, call = graph.layers[name], _first_call(graph, name)
    ends = [call.inputs[0] if call.inputs else call.output, call.output]
    kept_in, kept_out = (None if _whole(graph, kept, ref) else kept[ref] for ref in ends)
    return rule_for(name, spec).kept_entries(spec.config, weights, kept_in, kept_out)


def check_narrow_forms(graph: Graph, kept: Kept) -> None:
    """Makes every layer of the narrow network once, and calls it on tensors of the shapes that it will get.

    What a layer cannot do is found here, rather than when a training begins or when the narrow network is taken out.

    Args:
        graph: The full network.
        kept: The kept positions of each tensor.

    Raises:
        ValueError: If a layer has no form of that width; the message names it.
    """
    made: dict[str, Any] = {}
    tried: set[str] = set()  # layers alike are tried once
    for call in graph.calls:
        spec = graph.layers[call.layer]
        if _same(graph, kept, call) or not call.inputs or (alike := _description(graph, kept, call)) in tried:
            continue
        tried.add(alike)
        try:
            if call.layer not in made:
                made[call.layer] = narrow_spec(graph, kept, call.layer).make()
            _check(graph, kept, call, made[call.layer])
        except Exception as error:
            widths = ", ".join(f"{len(kept[ref])} of {graph.shapes[ref][-1]}" for ref in call.inputs)
            raise ValueError(
                f"Layer '{call.layer}' ({spec.cls.__name__}) of '{graph.name}' has no form with fewer channels. "
                f"Expected one that takes {widths} channels. Keep this layer and those before it at full width, or add "
                f"a rule for its narrow form with `tfjointrd.surgery.register_rule`. What went wrong: {error}"
            ) from error


def _check(graph: Graph, kept: Kept, call: Call, layer: Any) -> None:
    """Calls a narrow layer as in training, and compares what it returns and its weights with what is expected."""

    def narrow(ref: Ref) -> tuple:
        return (*graph.shapes[ref][:-1], len(kept[ref]))

    args, kwargs = (substitute(part, lambda ref: keras.KerasTensor(narrow(ref))) for part in (call.args, call.kwargs))
    if "training" in inspect.signature(layer.call).parameters and kwargs.get("training") is None:
        kwargs["training"] = True
    found = [tuple(tensor.shape) for tensor in keras.tree.flatten(layer(*args, **kwargs))]
    expected = [narrow(ref) for ref in graph.outputs_of(call)]
    if [shape[-1] for shape in found] != [shape[-1] for shape in expected]:
        raise ValueError(f"it returns the shapes {found}, expected {expected}.")
    activation = getattr(layer, "activation", None)
    if isinstance(activation, keras.Layer):  # which would make its weights later
        activation.build(expected[0])
        if activation.weights:
            raise ValueError("its activation is a layer with weights. Write that layer behind it.")
    source = graph.sources.get(call.layer)
    weights = weights_of(source)
    entries = kept_entries(graph, kept, call.layer, weights)
    for name, value in weights_of(layer).items() if source is not None else ():
        slices = tuple(
            n if one is None else len(one) for one, n in zip(entries[name], weights[name].shape, strict=True)
        )
        if slices != value.shape:
            raise ValueError(
                f"its weight '{name}' has the shape {value.shape}, and the kept part of the full layer's weight has "
                f"{slices} (of {weights[name].shape})."
            )


def _first_call(graph: Graph, name: str) -> Call:
    return next(call for call in graph.calls if call.layer == name)


def _whole(graph: Graph, kept: Kept, ref: Ref) -> bool:
    """Whether all channels of a tensor are kept, in their order."""
    return np.array_equal(kept[ref], np.arange(graph.shapes[ref][-1] or 0))


def _description(graph: Graph, kept: Kept, call: Call) -> str:
    """What the narrow form of a layer depends on, and how it is called, in words."""
    spec = graph.layers[call.layer]
    config = {key: value for key, value in spec.config.items() if key != "name"}
    sizes = [(graph.shapes[ref], hash(kept[ref].tobytes())) for ref in (*call.inputs, *graph.outputs_of(call))]
    weights = [tuple(weight.shape) for weight in getattr(graph.sources.get(call.layer), "weights", ())]
    arguments = substitute([call.args, call.kwargs], lambda ref: len(kept[ref]))
    return repr((spec.cls, config, sizes, weights, arguments))


def _same(graph: Graph, kept: Kept, call: Call) -> bool:
    """Whether a call loses no channel, neither of what it takes nor of what it returns."""
    return all(_whole(graph, kept, ref) for ref in (*call.inputs, *graph.outputs_of(call)) if ref in kept)


def without_arrays(config: Config) -> Config:
    """Zeros for initial values with an entry for each channel, of which a narrow layer gets its part as weights."""

    def is_array(initializer: Any) -> bool:
        value = initializer.get("config", {}).get("value") if isinstance(initializer, Mapping) else None
        value = value["config"].get("value") if isinstance(value, Mapping) and "config" in value else value
        return np.ndim(value) > 0

    zeros = keras.saving.serialize_keras_object(keras.initializers.Zeros())
    return {key: zeros for key, value in config.items() if key.endswith("initializer") and is_array(value)}
