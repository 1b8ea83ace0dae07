"""Masks of all weights of a network by which units of its tied sets are still there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tfjointrd.surgery.tied_sets import TiedSets

# For each axis of a weight along which units differ: the axis, and for each entry along it the place of its unit.
Axes = list[tuple[int, np.ndarray]]


class UnitMasks:
    """One number for each unit of all sets that need not stay, 1 or 0, and where weights find theirs.

    Args:
        sets: The network's tied sets.

    Attributes:
        size: How many numbers there are. The last stands for all channels of no such set, and is always 1.
    """

    def __init__(self, sets: TiedSets):
        self.sets = sets
        self._places: dict[str, slice] = {}
        self.size = 1
        for tied in sets:
            if tied.stays is None:
                self._places[tied.name] = slice(self.size - 1, self.size - 1 + len(tied))
                self.size += len(tied)

    def axes(self) -> dict[tuple[str, str], Axes]:
        """By layer and weight name, where the entries of each axis find their units."""
        found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        for site in self.sets.sites():
            size = self.sets.weights()[site.layer][site.weight].shape[site.axis]
            axes = found.setdefault((site.layer, site.weight), {})
            index = axes.setdefault(site.axis, np.full(size, self.size - 1, "int32"))
            places = np.arange(self.size)[self._places[site.tied]]
            index[site.entries] = places[:, None]
        return {key: sorted(axes.items()) for key, axes in found.items()}

    def of_sets(self, kept: Mapping[str, Iterable[int]]) -> np.ndarray:
        """The numbers, `(size,)`, where sets keep these of their units; sets that are not named stay whole."""
        alive = np.ones(self.size, "float32")
        for name, units in kept.items():
            part = alive[self._places[name]]
            part[:] = 0
            part[np.asarray(list(units), int)] = 1
        return alive

    def by_set(self, alive: np.ndarray) -> dict[str, np.ndarray]:
        """For each set that has lost units, the numbers of those that it has kept."""
        parts = {name: alive[place] > 0.5 for name, place in self._places.items()}
        return {name: np.flatnonzero(part) for name, part in parts.items() if not part.all()}

    def counts(self, alive: np.ndarray) -> list[int]:
        """How many units each set has left, in the order of the sets."""
        kept = self.by_set(alive)
        return [len(kept.get(tied.name, tied.units)) for tied in self.sets]
