"""How far each tied set of a network may be pruned, in which steps, and how many of them keep to a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfjointrd.surgery.tied_sets import TiedSet, TiedSets


class PruningSteps:
    """The widths that each tied set may take, and the order in which its units go.

    Args:
        sets: The network's tied sets.
        reasons: Why sets have to stay, by name.
        round_to: Layers keep a multiple of this many channels, or all.
        min_channels: The fewest channels that a layer keeps.

    Attributes:
        sets: The network's tied sets.
        reasons: Why sets stay, by name: those given, and those that are too narrow.

    Raises:
        ValueError: If all have to stay; the message says why, layer by layer.
    """

    def __init__(self, sets: TiedSets, reasons: Mapping[str, str], round_to: int, min_channels: int):
        self.sets, self.reasons = sets, dict(reasons)
        self._round_down = round_to == 1
        self._allowed = [self._widths_of(tied, round_to, min_channels) for tied in sets]
        self._orders = [np.arange(len(tied))[::-1] for tied in sets]  # the units in the order in which they go
        self._scores: dict[str, np.ndarray] = {}
        self._check()

    def _widths_of(self, tied: TiedSet, round_to: int, min_channels: int) -> list[int]:
        """The numbers of units that a set may keep, falling."""
        whole = len(tied)
        if tied.name in self.reasons:
            return [whole]
        step = round_to // math.gcd(round_to, tied.channels)
        least = step * math.ceil(max(min_channels, 1) / (step * tied.channels))
        found = [whole, *range((whole - 1) // step * step, least - 1, -step)]
        if len(found) == 1:
            self.reasons[tied.name] = f"{whole * tied.channels} channels, the fewest that may be left"
        return found

    def _check(self) -> None:
        if len(self.reasons) == len(self.sets):
            layers = {layer: self.reasons[tied.name] for tied in self.sets for layer in tied.layers}
            listed = "; ".join(f"'{layer}' ({why})" for layer, why in layers.items())
            raise ValueError(
                f"Expected layers that can be pruned in network '{self.sets.channels.graph.name}'. Received: none: "
                f"{listed or 'it has no convolution or dense layer'}."
            )

    def names(self) -> list[str]:
        """Names of the sets that can be pruned."""
        return [tied.name for tied in self.sets if tied.name not in self.reasons]

    def full(self) -> list[int]:
        """The number of units of each set."""
        return [len(tied) for tied in self.sets]

    def narrowest(self) -> list[int]:
        """The fewest units that each set may keep."""
        return [allowed[-1] for allowed in self._allowed]

    def channels(self, counts: Sequence[int]) -> float:
        """The number of channels that sets which can be pruned have left."""
        pairs = zip(self.sets, counts, strict=True)
        return sum(count * tied.channels for tied, count in pairs if tied.name not in self.reasons)

    # === Which units go ===

    def rank(self, scores: Mapping[str, np.ndarray], without: str) -> None:
        """Takes the scores of each set's units.

        Args:
            scores: By the set's name. Units of equal scores go from the last on; those whose order is fixed, too.
            without: Why sets without scores stay.

        Raises:
            ValueError: If none can be pruned by them.
        """
        for number, tied in enumerate(self.sets):
            if tied.name in self.reasons:
                continue
            if tied.name not in scores:
                self.reasons[tied.name] = without
                self._allowed[number] = [len(tied)]
            elif tied.in_order is None:
                self._orders[number] = np.lexsort((-np.arange(len(tied)), scores[tied.name]))
        self._scores = dict(scores)
        self._check()

    def kept(self, counts: Sequence[int]) -> dict[str, np.ndarray]:
        """By the name of each set that loses some, the numbers of the units that it keeps, in rising order."""
        found = {}
        for tied, order, count in zip(self.sets, self._orders, counts, strict=True):
            if count < len(tied):
                found[tied.name] = np.sort(order[len(tied) - count :])
        return found

    # === How many go ===

    def by_ratio(self, ratios: Mapping[str, float]) -> list[int]:
        """The number of units that each set keeps when it loses about this part, by its name."""
        counts = self.full()
        for number, tied in enumerate(self.sets):
            left = (1 - ratios.get(tied.name, 0.0)) * len(tied)
            for place, switch in enumerate(self._switches(number), start=1):
                if left < switch - 1e-9:
                    counts[number] = self._allowed[number][place]
        return counts

    def _switches(self, number: int) -> list[float]:
        """Below how many units a set takes each smaller width: half-way to it, or at once with `round_to=1`."""
        allowed = self._allowed[number]
        pairs = zip(allowed, allowed[1:], strict=False)
        return [before if self._round_down else (before + after) / 2 for before, after in pairs]

    def within(
        self,
        cost: Callable[[Sequence[int]], float],
        limit: float,
        uniform: bool = False,
        most: Sequence[int] | None = None,
    ) -> list[int]:
        """The number of units that each set keeps at a budget.

        Steps are taken in rising order of the mean score of the units that go, until the cost is at or below the limit.
        Then, from the last step taken back, those that fit are undone.

        Args:
            cost: Of the number of units that each set keeps; falls with each of them.
            limit: The most that may be spent.
            uniform: Whether all sets are to lose about the same part, rather than what ranks lowest.
            most: How many units each set may have left; all by default.
        """
        most = self.full() if most is None else most
        steps = []
        for number in range(len(self.sets)):
            keys = self._parts(number) if uniform else self._means(number)
            # A step is never taken before the one that it follows.
            keys = np.maximum.accumulate(keys) if len(keys) else keys
            left = enumerate(keys, start=1)
            steps += [(key, number, place) for place, key in left if self._allowed[number][place] < most[number]]
        steps.sort()

        def after(taken: int) -> list[int]:
            counts = list(most)
            for _, number, place in steps[:taken]:
                counts[number] = self._allowed[number][place]
            return counts

        enough, too_few = len(steps), -1
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            enough, too_few = (middle, too_few) if cost(after(middle)) <= limit * (1 + 1e-9) else (enough, middle)
        return self._widened(
            after(enough), [(number, place) for _, number, place in steps[:enough]], cost, limit * (1 + 1e-9)
        )

    def _widened(self, counts: list[int], taken: list[tuple[int, int]], cost: Callable, limit: float) -> list[int]:
        """Undoes steps that the limit leaves room for, the highest-ranking first."""
        done: set[int] = set()  # once a set has no room, it never has again
        for number, place in reversed(taken):
            wider = [*counts[:number], self._allowed[number][place - 1], *counts[number + 1 :]]
            if number in done or cost(wider) > limit:
                done.add(number)
            else:
                counts = wider
        return counts

    def _means(self, number: int) -> list[float]:
        """The mean score of the units that each step drops."""
        tied, allowed = self.sets.sets[number], self._allowed[number]
        if len(allowed) == 1:
            return []
        scores = self._scores[tied.name][self._orders[number]]
        pairs = zip(allowed, allowed[1:], strict=False)
        return [scores[len(tied) - before : len(tied) - after].mean() for before, after in pairs]

    def _parts(self, number: int) -> list[float]:
        """The part of the set that is to go for each step to be taken."""
        return [1 - switch / len(self.sets.sets[number]) for switch in self._switches(number)]
