"""Structured pruning: a trained network in, a physically narrower one at a budget out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery import kept_cost
from tfjointrd.surgery.budgets import read_table, share_of
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.importance.criterion import name_of, resolve, scores_of
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.pruning_steps import PruningSteps
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.slim import slim
from tfjointrd.surgery.tied_sets import TiedSets
from tfjointrd.surgery.widths import staying

SCOPES = ("global", "layer")


def prune(
    model: keras.Model,
    importance: Any = "l2",
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
    data: Any = None,
    name: str | None = None,
) -> keras.Model:
    """Drops the least important channels of a network until it keeps to a budget.

    Channels that belong together, across all layers, go together. A narrow network with the weights of those that stay
    comes out, ready to be trained on; what it lost, a short training brings back.

    Args:
        model: A functional or Sequential network, best a trained one. It is not changed.
        importance: By what channels are ranked. On weights: `"l1"`, `"l2"`, `"gamma"` (of batch normalisations),
            `"fpgm"`, `"lamp"`, `"nisp"`, `"random"`. On `data`: `"taylor"` (with labels), `"hrank"`, `"nisp"`. Or a
            criterion with options, such as `tfjointrd.surgery.importance.L2(reduction="max")`, a function of the
            weights' slices, or scores from `tfjointrd.surgery.channel_importance`.
        target_macs: The multiply-accumulates that may be left: a whole number, or up to 1.0 a part of the network's.
        target_parameters: The same for the number of weights.
        target_latency_ms: The same for milliseconds of one image by `latency_table`.
        latency_table: Layer name -> `[input width, output width, milliseconds]`, or a JSON file of that, as
            `tfjointrd.report.layer_latencies(model, keep=())` measures it.
        ratio: The part of the channels to drop, between 0 and 1, in place of a target.
        scope: `"global"`: channels of all layers are ranked together. `"layer"`: each layer loses the same part.
            `{pattern: ratio}`: that part of the layers that match, and of those tied to them; others stay full, the
            last match counts, and neither a target nor `ratio` is given.
        round_to: Layers keep a multiple of this many channels, or all.
        keep: Names or patterns of layers that stay at full width; `None` for the stem and the first stage.
        min_channels: The fewest channels that a layer may keep; `round_to` by default.
        data: Images, with labels where the criterion needs them, in any form that `tfjointrd.data.batches` describes.
        name: The new network's name; the old one by default.

    Returns:
        An ordinary `keras.Model` at or just below the budget: no layer could be one step wider within it.
        `tfjointrd.surgery.prune_architecture` says which channels that are.

    Raises:
        ValueError: If no or several of the targets and `ratio` are given; if a target is below what the narrowest
            network costs, `ratio` is not between 0 and 1, or nothing can be pruned; if `scope` names a layer that
            cannot be narrowed; or for what `tfjointrd.surgery.channel_importance` refuses.

    Example:

    >>> small = prune(network, "l2", target_macs=0.5)
    >>> small = prune(network, "taylor", ratio=0.3, scope="layer", data=train)

    Reference:
        DepGraph (https://arxiv.org/abs/2301.12900) for pruning tied channels together; criteria name their papers.
    """
    architecture = prune_architecture(
        model,
        importance,
        target_macs=target_macs,
        target_parameters=target_parameters,
        target_latency_ms=target_latency_ms,
        latency_table=latency_table,
        ratio=ratio,
        scope=scope,
        round_to=round_to,
        keep=keep,
        min_channels=min_channels,
        data=data,
    )
    return slim(model, architecture["kept"], name)


def prune_architecture(
    model: keras.Model,
    importance: Any = "l2",
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
    data: Any = None,
) -> dict[str, Any]:
    """What `prune` keeps, as a plain dict that JSON takes.

    Args:
        model: As for `prune`, and so are all others.
        importance: The criterion.
        target_macs: Multiply-accumulates that may be left.
        target_parameters: Weights that may be left.
        target_latency_ms: Milliseconds that may be left.
        latency_table: What layers take.
        ratio: The part of the channels to drop.
        scope: What is ranked together.
        round_to: Multiple that widths are rounded to.
        keep: Layers that stay full.
        min_channels: The fewest channels of a layer.
        data: Images.

    Returns:
        `importance`: its name; `kept`: by the name of each layer that is narrowed, the positions of the channels that
        stay, which `slim` and `adjoin(widths=...)` take; `widths` and `full_widths`: how many these are and were, for
        `tfjointrd.report.width_figure`; `kept_full`: why layers stay full; `macs` and `parameters` of the narrow
        network and `full_macs` and `full_parameters`; with a latency table `latency_ms` and `full_latency_ms`. Costs
        that cannot be counted are left out, unless they are the target.

    Example:

    >>> architecture = prune_architecture(network, target_parameters=0.5)
    >>> small = tfjointrd.slim(network, architecture["kept"])
    >>> adjoined = tfjointrd.adjoin(network, widths=architecture["kept"])
    """
    targets = {
        "target_macs": target_macs,
        "target_parameters": target_parameters,
        "target_latency_ms": target_latency_ms,
        "ratio": ratio,
    }
    argument, value = _one_of(targets, scope)
    min_channels = round_to if min_channels is None else min_channels
    for key, number in {"round_to": round_to, "min_channels": min_channels}.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"Expected `{key}` to be a whole number from 1 on. Received: {key}={number!r}.")
    table = read_table(latency_table)
    if argument == "target_latency_ms" and table is None:
        raise ValueError(f"Expected `latency_table` for {argument}={value}. Received: latency_table=None.")
    criterion = resolve(importance, data)
    graph = read_graph(model)
    sets = TiedSets(Channels(graph))
    steps = PruningSteps(sets, _held(sets, staying(graph, keep)), round_to, min_channels)
    ratios = _ratios_by_set(steps, scope) if isinstance(scope, Mapping) else dict.fromkeys(steps.names(), ratio)
    costs = _costs(sets, table, needed=argument)
    cost = costs.get(argument.removeprefix("target_"), steps.channels)
    _limit(argument, value, cost, steps)  # refused before scores are computed, which may take long
    scores = scores_of(model, sets, criterion, data)
    steps.rank(scores, f"importance '{name_of(importance)}' says nothing of it")
    if argument == "scope" or (argument == "ratio" and scope == "layer"):
        counts = steps.by_ratio(ratios)
    else:
        counts = steps.within(cost, _limit(argument, value, cost, steps), uniform=scope == "layer")
    return {
        "importance": name_of(importance),
        **_kept(sets, steps, counts),
        **{
            key: (float if name == "latency_ms" else round)(one(of))
            for name, one in costs.items()
            for key, of in ((name, counts), (f"full_{name}", steps.full()))
        },
    }


def _one_of(targets: Mapping[str, float | None], scope: Any) -> tuple[str, Any]:
    """The one target that was given, its argument and value; `scope` where it holds ratios."""
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


def _limit(argument: str, value: Any, cost: kept_cost.Cost, steps: PruningSteps) -> float:
    """The most that may be left of a cost.

    Raises:
        ValueError: If even the narrowest network costs more than a target; the message names that.
    """
    full, least = cost(steps.full()), cost(steps.narrowest())
    if argument == "scope":
        return full
    if argument == "ratio":
        return max((1 - value) * full, least)
    return share_of(argument, value, full, least / full, 1.0, "pruning reaches") * full


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


def _kept(sets: TiedSets, steps: PruningSteps, counts: list[int]) -> dict[str, Any]:
    """What stays, layer by layer, and why some layers stay full."""
    kept = sets.kept_positions(steps.kept(counts))
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
