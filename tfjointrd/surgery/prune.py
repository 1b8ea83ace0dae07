"""Structured pruning: a trained network in, a physically narrower one at a budget out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfjointrd.surgery.frozen import warn_of_frozen_pruned
from tfjointrd.surgery.importance.criterion import name_of, resolve, scores_of
from tfjointrd.surgery.pruning_plan import PruningPlan
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.slim import slim


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

    Channels that are tied across layers are dropped together. The result is a narrow network with the weights of the
    channels that stay. It is less accurate at first, so train it afterwards. Frozen layers stay frozen, and a
    warning says so: set `trainable = True` of the base that holds them first.

    Args:
        model: A functional or Sequential network, best a trained one. It is not changed.
        importance: How channels are ranked. On weights: `"l1"`, `"l2"`, `"gamma"` (of batch normalisations),
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
            `{pattern: ratio}`: layers that match, and layers tied to them, lose that part. Other layers stay full, the
            last match counts, and neither a target nor `ratio` is given.
        round_to: Layers keep a multiple of this many channels, or all.
        keep: Names or patterns of layers that stay at full width; `None` for the stem and the first stage.
        min_channels: The fewest channels that a layer may keep; `round_to` by default.
        data: Images, with labels where the criterion needs them, in any form that `tfjointrd.data.batches` describes.
        name: The new network's name; the old one by default.

    Returns:
        An ordinary `keras.Model` at or just below the budget: with one more step of width in any layer it would exceed
        the budget. `tfjointrd.surgery.prune_architecture` returns the channels that are kept.

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


def prune_architecture(model: keras.Model, importance: Any = "l2", *, data: Any = None, **budget) -> dict[str, Any]:
    """The channels that `prune` keeps, as a plain dict for JSON.

    Args:
        model: See `prune`, which describes all arguments.
        importance: How channels are ranked.
        data: Images.
        **budget: The target or `ratio`, `latency_table`, `scope`, `round_to`, `keep` and `min_channels`.

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
    criterion = resolve(importance, data)
    graph = read_graph(model)
    plan = PruningPlan(graph, **budget)
    counts = plan.counts(scores_of(model, plan.sets, criterion, data), name_of(importance))
    found = plan.described(counts, plan.steps.kept(counts))
    warn_of_frozen_pruned(graph, found["kept"])
    return {"importance": name_of(importance), **found}
