"""The sets of channels that a network can be pruned by, and the weights that belong to each of their channels.

A unit is what can only be kept or dropped as a whole: a channel and all that are tied to it, across all layers. Units
that run through the same tensors are interchangeable and make up a tied set. A set is what pruning chooses from, what
sorting permutes, and what an importance criterion scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from tfjointrd.layers.weight_names import is_kernel
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Ref
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import IN, OUT, describe, rule_for


@dataclass(frozen=True)
class TiedSet:
    """Units that are interchangeable: any of them can be dropped, and where nothing holds them, they can change places.

    Attributes:
        name: The name of its first layer; with the position of its first channel where a layer has several sets.
        layers: Names of the convolution and dense layers that make its channels, in network order.
        units: Ids of the units, in the order of their channels in the first layer.
        channels: Number of channels that a unit has in the first layer: 1, or those of a group of a grouped
            convolution.
        stays: Why all of its channels have to stay; `None` if they need not.
        in_order: Why its channels cannot change places, so that the first ones are kept; `None` if they can.
    """

    name: str
    layers: tuple[str, ...]
    units: tuple[int, ...]
    channels: int
    stays: str | None = None
    in_order: str | None = None

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Slices:
    """One weight of a layer, cut into the parts that belong to the units of a tied set.

    Attributes:
        layer: The layer's name.
        weight: The weight's name, such as `"kernel"`, `"bias"` or `"gamma"`.
        role: `"out"`: what computes the channels. `"in"`: what a layer takes from them. `"channel"`: what a layer has
            for each of them, as a batch normalisation or a depthwise convolution.
        values: `(units, entries)`.
    """

    layer: str
    weight: str
    role: str
    values: np.ndarray

    @property
    def is_kernel(self) -> bool:
        """Whether it is of a kernel, which multiplies channels and is more than a scale."""
        return is_kernel(self.weight)

    @property
    def is_scale(self) -> bool:
        """Whether it is the scale of a normalisation."""
        return self.weight in ("gamma", "scale") and self.role == "channel"


@dataclass(frozen=True)
class Site:
    """Where one weight of a layer has entries for the units of a tied set.

    Attributes:
        tied: The set's name.
        layer: The layer's name.
        weight: The weight's name.
        role: As for `Slices`.
        axis: The axis of the weight along which units differ.
        entries: `(units, n)` positions along it.
    """

    tied: str
    layer: str
    weight: str
    role: str
    axis: int
    entries: np.ndarray


class TiedSets:
    """All tied sets of a network, those that have to stay among them.

    Args:
        channels: The network's channels.

    Attributes:
        channels: The network's channels.
        sets: The sets in network order.
    """

    def __init__(self, channels: Channels):
        self.channels, graph = channels, channels.graph
        known = np.unique(np.concatenate(list(channels.ids.values())))
        self._root = np.zeros(known[-1] + 1, int)
        self._root[known] = channels.roots(known)
        self._roots = {ref: self._root[ids] for ref, ids in channels.ids.items()}
        self._outputs = {call.layer: call.output for call in reversed(graph.calls)}
        self.sets = self._found(self._held())
        self._places = np.full((len(self._root), 2), -1)
        for number, tied in enumerate(self.sets):
            self._places[list(tied.units)] = [(number, place) for place in range(len(tied))]
        self._positions: dict[Ref, dict[int, np.ndarray]] = {}
        self._weights: dict[str, dict[str, np.ndarray]] | None = None

    def __iter__(self) -> Iterator[TiedSet]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    def _held(self) -> dict[int, str]:
        """Units that layers match by their place, and by which."""
        graph, found = self.channels.graph, {}
        for call in graph.calls:
            if describe(graph.layers[call.layer]).matches_by_place:
                for root in np.concatenate([self._roots[ref] for ref in (*call.inputs, call.output)]).tolist():
                    found.setdefault(root, f"'{call.layer}' matches channels by their place")
        return found

    def _found(self, held: dict[int, str]) -> list[TiedSet]:
        stays, seen = self.channels.reasons(), set()
        marks: dict[int, list] = {}
        for number, (ref, ids) in enumerate(self.channels.ids.items()):
            if id(ids) not in seen:  # layers that pass channels on share the array
                seen.add(id(ids))
                for root, count in zip(*np.unique(self._roots[ref], return_counts=True), strict=True):
                    marks.setdefault(int(root), []).append((number, int(count)))
        classes: dict[tuple, list[int]] = {}  # by the tensors that a unit runs through
        makers: dict[int, list[str]] = {}
        for layer in self.channels.producers():
            roots = self._roots[self._outputs[layer]]
            for root in dict.fromkeys(roots.tolist()):
                makers.setdefault(root, []).append(layer)
        for root, layers in makers.items():
            key = (*marks[root], stays.get(root), held.get(root), *layers)
            classes.setdefault(key, []).append(root)
        found, names = [], set()
        for units in classes.values():
            layers = makers[units[0]]
            first = self._roots[self._outputs[layers[0]]]
            position = int(np.flatnonzero(first == units[0])[0])
            name = layers[0] if layers[0] not in names else f"{layers[0]}:{position}"
            names.add(name)
            count = int(np.sum(first == units[0]))
            found.append(TiedSet(name, tuple(layers), tuple(units), count, stays.get(units[0]), held.get(units[0])))
        return found

    # === Where the units are ===

    def positions(self, ref: Ref) -> dict[int, np.ndarray]:
        """Where the units of each set are in a tensor.

        Returns:
            Number of the set -> `(units, channels of a unit)` positions.
        """
        if ref in self._positions:
            return self._positions[ref]
        places = self._places[self._roots[ref]]
        found = self._positions[ref] = {}
        for number in dict.fromkeys(places[:, 0].tolist()):
            if number >= 0:
                here = np.flatnonzero(places[:, 0] == number)
                ordered = here[np.argsort(places[here, 1], kind="stable")]
                found[number] = ordered.reshape(len(self.sets[number]), -1)
        return found

    def kept_positions(self, kept: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
        """Layer name -> positions of the output channels to keep, as `slim` and `adjoin(widths=...)` take them.

        Args:
            kept: Name of a set -> numbers of the units to keep; sets that are not named stay whole.

        Returns:
            For each layer that loses channels, in network order.
        """
        numbers = {tied.name: number for number, tied in enumerate(self.sets)}
        dropped = np.zeros(len(self._root), bool)
        for name, places in kept.items():
            units = self.sets[numbers[name]].units
            dropped[np.delete(units, np.asarray(places, int))] = True
        found = {}
        for layer in self.channels.producers():
            gone = dropped[self._roots[self._outputs[layer]]]
            if gone.any():
                found[layer] = np.flatnonzero(~gone).tolist()
        return found

    # === Weights ===

    def sites(self) -> list[Site]:
        """Where the weights of layers have entries for the units of sets that need not stay."""
        graph, found = self.channels.graph, []
        first = {call.layer: call for call in reversed(graph.calls)}
        for layer, weights in self.weights().items():
            spec = graph.layers[layer]
            rule = rule_for(layer, spec)
            for weight, value in weights.items():
                for axis, kind in enumerate(rule.axes_of(spec.config, weight, value.shape)):
                    if kind is None:
                        continue
                    role = "out" if kind == OUT else "in" if rule.producer else "channel"
                    ref = first[layer].output if kind == OUT else first[layer].inputs[0]
                    times = 1 if kind in (IN, OUT) else kind[1]
                    for number, places in self.positions(ref).items():
                        tied = self.sets[number]
                        if tied.stays is None:
                            entries = (places[..., None] * times + np.arange(times)).reshape(len(tied), -1)
                            found.append(Site(tied.name, layer, weight, role, axis, entries))
        return found

    def slices(self) -> dict[str, list[Slices]]:
        """By the name of each set that need not stay, the parts of all weights that belong to its units.

        Raises:
            ValueError: If a weight is not a finite number, or all kernels are zero.
        """
        found: dict[str, list[Slices]] = {tied.name: [] for tied in self.sets if tied.stays is None}
        for site in self.sites():
            value = np.moveaxis(self.weights()[site.layer][site.weight], site.axis, 0)
            parts = np.take(value, site.entries, axis=0).reshape(len(site.entries), -1)
            found[site.tied].append(Slices(site.layer, site.weight, site.role, parts))
        return found

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """The weights of the layers that have some for channels, by layer and weight name.

        Raises:
            ValueError: If a weight is not a finite number, or all kernels are zero.
        """
        if self._weights is None:
            graph = self.channels.graph
            self._weights = {
                layer: graph.weights(layer)
                for layer, spec in graph.layers.items()
                if rule_for(layer, spec).weight_axes(spec.config)
            }
            for layer, weights in self._weights.items():
                for name, value in weights.items():
                    if not np.isfinite(value).all():
                        raise ValueError(
                            f"Expected `model` to have finite weights. Received: '{graph.name}', where '{name}' of "
                            f"layer '{layer}' has NaN or infinite values, as after a training that diverged."
                        )
            kernels = [x for weights in self._weights.values() for name, x in weights.items() if is_kernel(name)]
            if kernels and not any(np.any(kernel) for kernel in kernels):
                raise ValueError(
                    f"Expected `model` to have weights to be compared. Received: '{graph.name}', whose kernels are "
                    "all zero."
                )
        return self._weights

    def forget_weights(self) -> None:
        """Lets go of the copies; they are read anew when they are asked for."""
        self._weights = None


def tied_sets(model: keras.Model) -> list[TiedSet]:
    """The tied sets of a network: which layers have to be narrowed together, and what cannot be.

    Args:
        model: A functional or Sequential network.

    Returns:
        The sets in network order; `stays` and `in_order` say what holds them.

    Raises:
        ValueError: If a layer is not known to surgery.

    Example:

    >>> [tied.name for tied in tied_sets(tfjointrd.models.cifar_resnet(8))][:3]
    ['stem_conv', 'stage1_block1_conv1', 'stage2_block1_conv1']
    """
    return TiedSets(Channels(read_graph(model))).sets
