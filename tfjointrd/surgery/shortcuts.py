"""Plain networks: the same layers without their shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np

from tfjointrd.surgery.graph import Call, Graph, Ref, substitute


def remove_shortcuts(model: keras.Model, keep_projections: bool = False, name: str | None = None) -> keras.Model:
    """Builds the plain network: every addition is replaced by its main branch.

    Of the tensors an addition takes, the main branch is the one with the most convolutions and dense layers of its
    own; the others are shortcuts. Layers that only served a shortcut disappear, and so does stochastic depth, a dropout
    of whole images at the end of a main branch. Additions of equally deep branches are
    not shortcuts and stay, and so do concatenations.

    Args:
        model: A functional or Sequential network with shortcuts, from `tfjointrd.models`, `keras.applications` or
            your own. It is not changed.
        keep_projections: Keep the shortcuts that do something, that is, hold weights or change the shape (the
            authors' `keepdownsampling`), and remove only identities.
        name: The new network's name; `plain_` and the old one's by default.

    Returns:
        A functional `keras.Model`. Remaining layers keep their names and weights; only a batch normalisation whose
        gamma is zero throughout, as some networks initialise the last one of a block, starts at one instead, because
        without a shortcut it would let nothing pass.

    Raises:
        ValueError: If `model` is not functional, or no shortcut is found.

    Example:

    >>> plain = remove_shortcuts(tfjointrd.models.resnet20())
    >>> any(isinstance(layer, keras.layers.Add) for layer in plain.layers)
    False

    Reference:
        Residual Distillation (NeurIPS 2020), section 1.
    """
    graph = Graph.of(model)
    ancestors = graph.ancestors()
    instead = {
        call.output: _without_drop_path(graph, main)
        for call, main, shortcuts in _additions(graph, ancestors)
        if not keep_projections or all(_is_identity(main, shortcut, ancestors) for shortcut in shortcuts)
    }
    if not instead:
        kind = "identity shortcut" if keep_projections else "shortcut"
        raise ValueError(
            f"Expected `model` to have a {kind} (an addition to skip). Received: '{model.name}', with none."
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
        if graph.layers[call.layer].cls.__name__ == "Add" and len(call.inputs) > 1:
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
        if issubclass(spec.cls, keras.layers.BatchNormalization) and spec.config["scale"]:
            values = plain.weights(name)
            if not values["gamma"].any():
                weights[name] = {**values, "gamma": np.ones_like(values["gamma"])}
    return weights


def _without_drop_path(graph: Graph, main: Ref) -> Ref:
    """The main branch in front of a dropout of whole images (stochastic depth), which needs a shortcut beside it."""
    spec = graph.layers[main.layer]
    noise_shape = spec.config.get("noise_shape") if issubclass(spec.cls, keras.layers.Dropout) else None
    if noise_shape is None or any(size != 1 for size in noise_shape[1:]):
        return main
    return next(call for call in graph.calls if call.output == main).inputs[0]


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


def _is_identity(main: Ref, shortcut: Ref, ancestors) -> bool:
    """Whether a shortcut hands on a tensor as it is: without layers of its own between the fork and the addition."""
    return shortcut in ancestors[main]
