"""Physically narrower networks: layers rebuilt with fewer channels, weights sliced to match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import keras
import numpy as np

from tfjointrd.layers.positions import positions_of
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.narrow_forms import Kept, check_narrow_forms, kept_entries, narrow_spec
from tfjointrd.surgery.read_graph import read_graph

Weights = Mapping[str, Mapping[str, np.ndarray]]


def slim(model: keras.Model, keep: Mapping[str, Iterable[int]], name: str | None = None) -> keras.Model:
    """Builds the narrow network that keeps only these channels.

    Args:
        model: A functional or Sequential network.
        keep: Layer name -> positions of the output channels to keep, or a boolean mask with an entry for each channel,
            for convolution and dense layers. Naming one layer of a group tied by additions is enough. Where named
            layers of a group disagree, the channel stays. Layers that are not named, nor tied to a named one, keep all
            channels.
        name: The new network's name; the old one by default.

    Returns:
        An ordinary functional `keras.Model` of standard layers, with the matching slices of the weights. Where the
        dropped channels carried only zeros, it computes the same function as `model`, unless a layer normalisation
        counts them.

    Raises:
        ValueError: If a layer is not known to surgery or has no narrow form, a name is not a convolution or dense
            layer, a position does not exist, a layer would be left without channels, or a named layer's channels all
            have to stay.

    Example:

    >>> network = tfjointrd.models.resnet20()
    >>> narrow = slim(network, {"stage2_block1_conv1": range(16)})
    >>> narrow.get_layer("stage2_block1_conv1").filters
    16
    """
    graph = read_graph(model)
    graph.check_tied()
    channels = Channels(graph)
    keep = {layer: list(positions) for layer, positions in keep.items()}
    kept = channels.keep(keep)
    for layer, positions in keep.items():
        width, why = channels.width(layer), channels.fixed(layer)
        if len(positions_of(positions, width)) < width and why is not None:
            raise ValueError(
                f"Expected `keep` to name layers that can be narrowed. Received: '{layer}', whose "
                f"{width} channels all have to stay ({why})."
            )
    check_narrow_forms(graph, kept)
    weights = {layer: graph.weights(layer) for layer in graph.layers}
    return slim_graph(graph, kept).build(name, slim_weights(graph, kept, weights))


def slim_graph(graph: Graph, kept: Kept) -> Graph:
    """`graph` with the layers made as narrow as `kept`, the kept positions of each tensor, says."""
    return replace(
        graph,
        layers={call.layer: narrow_spec(graph, kept, call.layer) for call in graph.calls},
        shapes={ref: (*shape[:-1], len(kept[ref])) if ref in kept else shape for ref, shape in graph.shapes.items()},
        sources={},
    )


def slim_weights(
    graph: Graph, kept: Kept, weights: Weights, layers: Iterable[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """The slices of `weights` that belong to the kept channels.

    Args:
        graph: The full network.
        kept: Kept positions of each tensor.
        weights: The full weights by layer and weight name.
        layers: Names of the layers; all by default.

    Returns:
        The narrow weights by layer and weight name.
    """
    narrow = {}
    for name in graph.layers if layers is None else layers:
        entries = kept_entries(graph, kept, name, weights[name])
        narrow[name] = {key: _slice(value, entries[key]) for key, value in weights[name].items()}
    return narrow


def _slice(value: np.ndarray, positions: list[np.ndarray | None]) -> np.ndarray:
    for axis, kept in enumerate(positions):
        if kept is not None:
            value = np.take(value, kept, axis=axis)
    return value
