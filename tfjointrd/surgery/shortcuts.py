"""Plain networks: the same layers without their shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np

from tfjointrd.surgery.channels import check_channels_last
from tfjointrd.surgery.graph import Call, Graph, Ref, sizes_error, substitute
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import describe

DOWNSAMPLING = "downsampling"


def remove_shortcuts(model: keras.Model, keep_projections: bool | str = False, name: str | None = None) -> keras.Model:
    """Builds the plain network: every addition is replaced by its main branch.

    Of the tensors an addition takes, the main branch is the one with the most convolutions and dense layers of its
    own; the others are shortcuts. Layers that only served a shortcut disappear, and so does stochastic depth at the
    end of a main branch: a dropout of whole images, or a layer of a class `StochasticDepth` or `DropPath`. Additions of
    equally deep branches are not shortcuts and stay, and so do concatenations. What else scales a branch down beside
    its shortcut, as the LayerScale of ConvNeXt does by 1e-6, stays too: start such layers at one.

    Args:
        model: A functional or Sequential network with shortcuts, from `tfjointrd.models`, `keras.applications` or
            your own. It is not changed.
        keep_projections: `True` keeps the shortcuts that do something, that is, hold weights or change the shape, and
            removes only identities. `"downsampling"` keeps those that change the resolution alone, as the authors do
            (their `keepdownsampling`): none in the first stage of a bottleneck network, whose projection only adds
            channels.
        name: The new network's name; `plain_` and the old one's by default.

    Returns:
        A functional `keras.Model`. Remaining layers keep their names and weights; only a batch normalisation whose
        gamma is zero throughout, as some networks initialise the last one of a block, starts at one instead, because
        without a shortcut it would let nothing pass.

    Raises:
        ValueError: If `model` is not functional, no shortcut is found, or `keep_projections` is none of these values;
            with `"downsampling"`, if the network's input size is not known or its channels are not the last axis.

    Example:

    >>> plain = remove_shortcuts(tfjointrd.models.resnet20())
    >>> any(isinstance(layer, keras.layers.Add) for layer in plain.layers)
    False

    Reference:
        Residual Distillation (NeurIPS 2020), section 1.
    """
    if not isinstance(keep_projections, bool) and keep_projections != DOWNSAMPLING:
        raise ValueError(
            f"Expected `keep_projections` to be True, False or '{DOWNSAMPLING}'. "
            f"Received: keep_projections={keep_projections!r}."
        )
    graph = read_graph(model)
    if keep_projections == DOWNSAMPLING:
        check_channels_last(graph)
    ancestors = graph.ancestors()
    instead = {
        call.output: _without_drop_path(graph, main)
        for call, main, others in _additions(graph, ancestors)
        if not any(_stays(graph, main, shortcut, ancestors, keep_projections) for shortcut in others)
    }
    if not instead:
        kinds = {False: "a shortcut", True: "an identity shortcut", DOWNSAMPLING: "a shortcut within a resolution"}
        raise ValueError(
            f"Expected `model` to have {kinds[keep_projections]} (an addition to skip). "
            f"Received: '{model.name}', with none."
        )

    def resolve(ref: Ref) -> Ref:
        while ref in instead:
            ref = instead[ref]
        return ref

    calls = [
        replace(call, args=substitute(call.args, resolve), kwargs=substitute(call.kwargs, resolve))
        for call in graph.calls
    ]
    plain = replace(graph, calls=calls, outputs=substitute(graph.outputs, resolve)).pruned()
    return plain.build(name or f"plain_{model.name}", _weights(plain))


def shortcuts(graph: Graph) -> list[str]:
    """Names of the additions that have a shortcut, in network order."""
    return [call.layer for call, _, _ in _additions(graph, graph.ancestors())]


def _additions(graph: Graph, ancestors) -> Iterator[tuple[Call, Ref, list[Ref]]]:
    """Every addition that has shortcuts, with its main branch and these."""
    for call in graph.calls:
        if describe(graph.layers[call.layer]).joins == "add" and len(call.inputs) > 1:
            main, others = _branches(graph, call, ancestors)
            # Where the main branch has another shape, the other tensor is broadcast to it: no shortcut.
            if main is not None and graph.shapes[main] == graph.shapes[call.output]:
                yield call, main, others


def _weights(plain: Graph) -> dict[str, dict[str, np.ndarray]]:
    """Gammas of one for the batch normalisations that start at zero.

    Some networks start each block's last batch normalisation at gamma = 0, so that the block begins as its shortcut.
    Without the shortcut nothing would ever pass.
    """
    weights = {}
    for name, spec in plain.layers.items():
        if describe(spec).normalizes == "batch" and spec.config.get("scale", True):
            values = plain.weights(name)
            if not values["gamma"].any():
                weights[name] = {**values, "gamma": np.ones_like(values["gamma"])}
    return weights


def _without_drop_path(graph: Graph, main: Ref) -> Ref:
    """The main branch in front of a dropout of whole images (stochastic depth), which needs a shortcut beside it."""
    spec = graph.layers[main.layer]
    noise_shape = spec.config.get("noise_shape") if issubclass(spec.cls, keras.layers.Dropout) else None
    whole_images = noise_shape is not None and all(size == 1 for size in noise_shape[1:])
    if not whole_images and spec.cls.__name__ not in ("StochasticDepth", "DropPath"):
        return main
    return graph.producer(main).inputs[0]


def _branches(graph: Graph, call: Call, ancestors) -> tuple[Ref | None, list[Ref]]:
    """The main branch and the shortcuts of an addition; no main branch where two are equally deep."""
    kernels = graph.kernel_layers()
    depths = []
    for ref in call.inputs:
        others = frozenset().union(*(ancestors[other] for other in call.inputs if other != ref))
        depths.append(sum(own.layer in kernels for own in ancestors[ref] - others))
    deepest = max(depths)
    if depths.count(deepest) != 1:
        return None, []
    main = call.inputs[depths.index(deepest)]
    return main, [ref for ref in call.inputs if ref != main]


def _stays(graph: Graph, main: Ref, shortcut: Ref, ancestors, keep_projections: bool | str) -> bool:
    """Whether a shortcut is one of those to keep."""
    own = ancestors[shortcut] - ancestors[main]  # nothing for an identity
    if keep_projections == DOWNSAMPLING:
        forks = {ref for call in graph.calls if call.output in own for ref in call.inputs} & ancestors[main]
        return any(_resolution(graph, fork) != _resolution(graph, shortcut) for fork in forks)
    return keep_projections and bool(own)


def _resolution(graph: Graph, ref: Ref) -> tuple:
    resolution = graph.shapes[ref][1:-1]
    if None in resolution:
        raise sizes_error(graph.name, graph.shapes[ref], f"since keep_projections='{DOWNSAMPLING}'", ref.layer)
    return resolution
