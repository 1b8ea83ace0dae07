"""How far a network is to be pruned: which of its sets may lose units, what they cost, and how many may stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfjointrd.surgery import kept_cost
from tfjointrd.surgery.budgets import read_table, share_of
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.pruning_steps import PruningSteps
from tfjointrd.surgery.tied_sets import TiedSets
from tfjointrd.surgery.widths import staying

SCOPES = ("global", "layer")


class PruningPlan:
    """The arguments of `tfjointrd.prune` but for the criterion, checked against a network.

    Args:
        graph: The network.
        target_macs: As for `tfjointrd.prune`, and so are all others.
        target_parameters: Weights that may be left.
        target_latency_ms: Milliseconds that may be left.
        latency_table: What layers take.
        ratio: The part of the channels to drop.
        scope: What is ranked together.
        round_to: Multiple that widths are rounded to.
        keep: Layers that stay full.
        min_channels: The fewest channels of a layer.

    Attributes:
        sets: The network's tied sets.
        counted: What is limited: `"macs"`, `"parameters"`, `"latency_ms"` or `"channels"`.
        cost: That, as a function of how many units each set keeps.
        full: That of the full network.
        argument: The name of the target that was given: `"target_macs"`, ..., `"ratio"`, or `"scope"` for ratios by
            layer.

    Raises:
        ValueError: As for `tfjointrd.prune`.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        target_macs: float | None = None,
        target_parameters: float | None = None,
        target_latency_ms: float | None = None,
        latency_table: Any = None,
        ratio: float | None = None,
        scope: str | Mapping[str, float] = "global",
        round_to: int = 8,
        keep: Iterable[str] | str | None = (),
        min_channels: int | None = None,
    ):
        targets = {
            "target_macs": target_macs,
            "target_parameters": target_parameters,
            "target_latency_ms": target_latency_ms,
            "ratio": ratio,
        }
        self.argument, value = one_target(targets, scope)
        min_channels = round_to if min_channels is None else min_channels
        for key, number in {"round_to": round_to, "min_channels": min_channels}.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"Expected `{key}` to be a whole number from 1 on. Received: {key}={number!r}.")
        table = read_table(latency_table)
        if self.argument == "target_latency_ms" and table is None:
            raise ValueError(f"Expected `latency_table` for {self.argument}={value}. Received: latency_table=None.")
        self.sets = TiedSets(Channels(graph))
        self.steps = PruningSteps(self.sets, _held(self.sets, staying(graph, keep)), round_to, min_channels)
        self.scope = scope
        self.ratios: dict[str, float] = {}
        if isinstance(scope, Mapping):
            self.ratios = _ratios_by_set(self.steps, scope)
        elif ratio is not None:
            self.ratios = dict.fromkeys(self.steps.names(), ratio)
        self._costs = _costs(self.sets, table, needed=self.argument)
        self.counted = self.argument.removeprefix("target_")
        self.counted = self.counted if self.counted in self._costs else "channels"
        self.cost = self._costs.get(self.counted, self.steps.channels)
        self._value = value
        self.full, self.limit = self._ends()  # refused before scores are computed, which may take long

    def _ends(self) -> tuple[float, float]:
        """The full network's cost, and the most that may be left of it.

        Raises:
            ValueError: If even the narrowest network costs more than a target; the message names that.
        """
        full, least = (self.cost(counts) for counts in (self.steps.full(), self.steps.narrowest()))
        if self.argument == "scope":
            return full, full
        if self.argument == "ratio":
            return full, max((1 - self._value) * full, least)
        hint = "A lower `round_to` or `min_channels`, or fewer layers in `keep`, may allow less."
        reached = least / full, 1.0, "pruning reaches", (hint, "")
        return full, share_of(self.argument, self._value, full, *reached) * full

    def counts(
        self, scores: Mapping[str, np.ndarray], name: str, amount: float = 1.0, most: Sequence[int] | None = None
    ) -> list[int]:
        """The number of units that each set keeps.

        Args:
            scores: The units' scores by the set's name.
            name: The criterion's name, for reasons why sets stay.
            amount: How much of the way from the full network to the target is gone, from 0 to 1.
            most: How many units each set may have left; all by default.
        """
        self.steps.rank(scores, f"importance '{name}' says nothing of it")
        if self.argument == "scope" or (self.argument == "ratio" and self.scope == "layer"):
            found = self.steps.by_ratio({key: ratio * amount for key, ratio in self.ratios.items()})
            return found if most is None else [min(pair) for pair in zip(found, most, strict=True)]
        self.full, self.limit = self._ends()  # sets without scores stay
        limit = self.full - amount * (self.full - self.limit)
        return self.steps.within(self.cost, limit, uniform=self.scope == "layer", most=most)

    def described(self, counts: Sequence[int], kept: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What stays, layer by layer, why some layers stay full, and what it all costs; see `prune_architecture`.

        Args:
            counts: How many units each set keeps.
            kept: Which ones, by the name of each set that loses some.
        """
        return {
            **_kept(self.sets, self.steps, kept),
            **{
                key: (float if name == "latency_ms" else round)(cost(of))
                for name, cost in self._costs.items()
                for key, of in ((name, counts), (f"full_{name}", self.steps.full()))
            },
        }


def one_target(targets: Mapping[str, float | None], scope: Any) -> tuple[str, Any]:
    """The one target that was given, its argument and value; `scope` where it holds ratios.

    Args:
        targets: All targets and `ratio` by name; `None` for those that were not given.
        scope: As for `tfjointrd.prune`.

    Raises:
        ValueError: If none or several were given, or one is out of its range.
    """
    given = {key: value for key, value in targets.items() if value is not None}
    by_pattern = isinstance(scope, Mapping)
    if len(given) + by_pattern != 1:
        raise ValueError(
            f"Expected one of {', '.join(f'`{key}`' for key in targets)} and `scope={{pattern: ratio}}`. Received: "
            f"{given or 'none of them'}{f', scope={dict(scope)}' if by_pattern else ''}."
        )
    if not by_pattern and scope not in SCOPES:
        raise ValueError(f"Expected `scope` to be one of {SCOPES} or ratios by layer. Received: scope={scope!r}.")
    if by_pattern and not scope:
        raise ValueError("Expected `scope` to hold ratios by layer or pattern. Received: scope={}.")
    ratios = dict(scope) if by_pattern else {"ratio": given.get("ratio", 0.5)}
    for key, value in ratios.items():
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not (number and 0 < value < 1):
            place = f"scope['{key}']" if by_pattern else key
            raise ValueError(f"Expected `{place}`, the part to drop, between 0 and 1. Received: {place}={value!r}.")
    return ("scope", scope) if by_pattern else next(iter(given.items()))


def _held(sets: TiedSets, stays: Mapping[str, str]) -> dict[str, str]:
    """Why sets have to stay, by name."""
    found = {}
    for tied in sets:
        kept = [layer for layer in tied.layers if layer in stays]
        if tied.stays is not None:
            found[tied.name] = tied.stays
        elif kept:
            found[tied.name] = stays[kept[0]] if kept[0] == tied.layers[0] else f"tied to '{kept[0]}'"
    return found


def _ratios_by_set(steps: PruningSteps, scope: Mapping[str, float]) -> dict[str, float]:
    """The part of each set to drop.

    Raises:
        ValueError: If a pattern matches no layer, or none that can be narrowed.
    """
    sets, found = steps.sets, {}
    layers = sets.channels.producers()
    for pattern, ratio in scope.items():
        named = set(matching(layers, [pattern], "scope"))
        touched = [tied for tied in sets if named & set(tied.layers)]
        found.update({tied.name: ratio for tied in touched if tied.name not in steps.reasons})
        if not any(tied.name in found for tied in touched):
            first = touched[0]
            raise ValueError(
                f"Expected `scope` to name layers that can be narrowed. Received: '{pattern}', whose channels all have "
                f"to stay: '{first.name}' ({steps.reasons[first.name]})."
            )
    return found


def _costs(sets: TiedSets, table: Any, needed: str) -> dict[str, kept_cost.Cost]:
    """What can be counted, by name.

    Raises:
        ValueError: If that which is needed cannot.
    """
    makers = {"macs": kept_cost.macs, "parameters": kept_cost.parameters}
    if table is not None:
        makers["latency_ms"] = lambda sets: kept_cost.latency(sets, table)
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make(sets)
        except ValueError:
            if needed == f"target_{name}":
                raise
    return found


def _kept(sets: TiedSets, steps: PruningSteps, units: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What stays, layer by layer, and why some layers stay full."""
    kept = sets.kept_positions(units)
    layers = sets.channels.producers()
    reasons = {
        layer: steps.reasons.get(tied.name, "ranks above what was dropped")
        for tied in sets
        for layer in tied.layers
        if layer not in kept
    }
    return {
        "kept": kept,
        "widths": {layer: len(positions) for layer, positions in kept.items()},
        "full_widths": {layer: sets.channels.width(layer) for layer in kept},
        "kept_full": {layer: reasons[layer] for layer in layers if layer in reasons},
    }
