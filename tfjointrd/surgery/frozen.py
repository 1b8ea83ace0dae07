"""Networks with frozen layers, as transfer learning leaves them, in trainings that need these to learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import keras

from tfjointrd.layers.adjoined import AdjoinedLayer
from tfjointrd.layers.weight_names import is_kernel
from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery.graph import Graph


def warn_of_shared_frozen_layers(network: keras.Model, name: str) -> None:
    """Warns if small networks share kernels that do not learn.

    Args:
        network: An adjoined network.
        name: The name of the network that it was made of.
    """
    layers = [layer for layer in network.layers if isinstance(layer, AdjoinedLayer)]
    frozen = [layer.name for layer in layers if not layer.full.trainable and _has_kernel(layer.full)]
    if not frozen:
        return
    own = any(layer.own for layer in layers)
    _warn(
        name,
        frozen,
        "The small network uses slices of their weights, which do not adapt to its widths: of it, only "
        f"{'its own batch normalisations and ' if own else ''}layers that are not frozen learn. See 'Frozen layers' in "
        "`help(tfjointrd.adjoin)`.",
    )


def warn_of_frozen_student(graph: Graph) -> None:
    """Warns if kernels of a student without shortcuts do not learn."""
    frozen = [name for name in graph.layers if name in graph.kernels and not _trainable(graph, name)]
    if frozen:
        _warn(graph.name, frozen, "Without the shortcuts that they were trained with, these have to learn anew.")


def warn_of_frozen_pruned(graph: Graph, layers: Iterable[str]) -> None:
    """Warns if layers whose channels are dropped do not learn.

    Args:
        graph: The network.
        layers: Names of layers that lose channels.
    """
    frozen = [name for name in layers if name in graph.kernels and not _trainable(graph, name)]
    if frozen:
        _warn(graph.name, frozen, "They lose channels, and what is left of them does not adapt.")


def _trainable(graph: Graph, name: str) -> bool:
    return graph.layers[name].config.get("trainable", True)


def _has_kernel(layer: keras.Layer) -> bool:
    return any(is_kernel(weight.name) for weight in layer.weights)


def _warn(network: str, frozen: Sequence[str], why: str) -> None:
    warnings.warn(
        f"'{network}' has {len(frozen)} frozen layer{'s' if len(frozen) > 1 else ''} (trainable=False), '{frozen[0]}' "
        f"{'the first of them' if len(frozen) > 1 else 'by name'}. {why} To let them learn, set "
        "`trainable = True` of each, or of the base that holds them, before, and train with a low learning rate. (The "
        "whole network's does nothing where it is True already.)",
        stacklevel=stacklevel_outside_the_package(),
    )
