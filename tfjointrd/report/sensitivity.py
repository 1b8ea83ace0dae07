"""How much accuracy a network loses as each part of it alone is pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import keras
import numpy as np

from tfjointrd.data.batches import accuracy, batches
from tfjointrd.extras import require
from tfjointrd.report.figures import rows_of, save
from tfjointrd.surgery import Channels, read_graph, slim
from tfjointrd.surgery.graph import LayerSpec
from tfjointrd.surgery.importance.criterion import resolve, scores_of
from tfjointrd.surgery.importance.feature_maps import image_shape
from tfjointrd.surgery.pruning_steps import PruningSteps
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.tied_sets import TiedSets
from tfjointrd.surgery.weights import assign_weights

_COLUMNS = ("set", "ratio", "accuracy")
_MOST_NUMBERS = 40  # sets up to which the cells of the figure hold their numbers


def sensitivity(
    model: keras.Model, data: Any, importance: Any = "l2", ratios: Sequence[float] = (0.25, 0.5, 0.75)
) -> list[dict[str, Any]]:
    """Measures accuracy with a part of the channels of each tied set dropped, one set at a time, without training.

    A set holds layers whose channels are tied, by additions for example. They can only be pruned together. Every
    measurement is a pass over the images.

    Args:
        model: A functional or Sequential classifier with one output. It is not changed.
        data: Images with labels in any form that `tfjointrd.data.batches` describes; criteria that need data see them
            too. They are held in memory.
        importance: As for `tfjointrd.prune`: which channels go first.
        ratios: The parts of the channels to drop, between 0 and 1.

    Returns:
        A row for each set and ratio, and one with ratio 0 for the whole network: `set`, its name, that of its first
        layer; `layers`, the names of all its layers; `ratio`; `channels`, how many of the first layer's are left;
        `accuracy`, 0 to 1.

    Raises:
        ValueError: If `ratios` are not between 0 and 1, there are no labels, or for what
            `tfjointrd.surgery.channel_importance` refuses.

    Example:

    >>> rows = sensitivity(network, validation, "l1", ratios=(0.5,))
    >>> [row["accuracy"] for row in rows if row["set"] == "stage3_block1_conv1"]
    [...]

    Reference:
        Pruning Filters for Efficient ConvNets (https://arxiv.org/abs/1608.08710), section 3.2.
    """
    ratios = _checked(ratios)
    graph = read_graph(model)
    graph.single_output()
    criterion = resolve(importance, data)
    sets = TiedSets(Channels(graph))
    stay = {tied.name: tied.stays for tied in sets if tied.stays is not None}
    steps = PruningSteps(sets, stay, round_to=1, min_channels=1)
    held = list(batches(data, 128, shape=image_shape(model)))
    if any(labels is None for _, labels in held):
        raise ValueError("Expected `data` with labels, (images, labels). Received: images alone.")
    steps.rank(scores_of(model, sets, criterion, held), "without scores")
    network = _Zeroed(sets, held)
    whole, rows = network.accuracy({}), []
    for number, tied in enumerate(sets):
        if tied.name in steps.reasons:
            continue
        for ratio in (0.0, *ratios):
            counts = steps.full()
            counts[number] = steps.by_ratio({tied.name: ratio})[number]
            kept = steps.kept(counts)
            rows.append(
                {
                    "set": tied.name,
                    "layers": list(tied.layers),
                    "ratio": ratio,
                    "channels": counts[number] * tied.channels,
                    "accuracy": network.accuracy(kept) if kept else whole,
                }
            )
    return rows


def _checked(ratios: Iterable[float]) -> list[float]:
    found = list(ratios) if isinstance(ratios, Iterable) else [ratios]
    if not found or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < 1 for x in found):
        raise ValueError(f"Expected `ratios` between 0 and 1, at least one. Received: ratios={ratios!r}.")
    return sorted(set(found))


def _counts(spec: LayerSpec) -> bool:
    """Whether a layer divides by a statistic of all channels."""
    return describe(spec).normalizes == "channels" or spec.cls.__name__ in ("UnitNormalization", "Normalize")


class _Zeroed:
    """A copy of a network in which the weights of dropped channels are zero, which is the same function as without.

    It is built and compiled once. Where a layer normalisation counts channels, the narrow network is built instead, and
    where a norm over channels may follow an activation that makes something of zeros.
    """

    def __init__(self, sets: TiedSets, held: list):
        graph = sets.channels.graph
        self.sets, self.held, self.network = sets, held, graph.build()
        self.sites: dict[str, list] = {}
        for site in sets.sites():
            self.sites.setdefault(site.tied, []).append(site)
        counting = [call.output for call in graph.calls if _counts(graph.layers[call.layer])]
        self.counted = {sets.sets[number].name for ref in counting for number in sets.positions(ref)}

    def accuracy(self, kept: Mapping[str, np.ndarray]) -> Any:
        """Accuracy with some units of some sets left, by the set's name."""
        if self.counted & kept.keys():
            return accuracy(slim(self.network, self.sets.kept_positions(kept)).predict_on_batch, self.held)
        changed = {}
        for name, units in kept.items():
            for site in self.sites[name]:
                weights = changed.setdefault(
                    site.layer, {k: v.copy() for k, v in self.sets.weights()[site.layer].items()}
                )
                dropped = np.delete(site.entries, units, axis=0).ravel()
                np.moveaxis(weights[site.weight], site.axis, 0)[dropped] = 0
        for layer, weights in changed.items():
            assign_weights(self.network.get_layer(layer), weights)
        try:
            return accuracy(self.network.predict_on_batch, self.held)
        finally:
            for layer in changed:
                assign_weights(self.network.get_layer(layer), self.sets.weights()[layer])


def sensitivity_figure(rows: Sequence[Mapping[str, Any]] | str | PathLike, path: str | PathLike | None = None):
    """Draws accuracy by tied set and part of its channels that is dropped, as a heat map.

    Args:
        rows: What `sensitivity` returns, or a `.csv` file of that.
        path: Where to write a PNG; its folder is made.

    Returns:
        The matplotlib `Axes`.

    Raises:
        ValueError: If there are no rows, or a row lacks an entry.

    Example:

    >>> axes = sensitivity_figure(sensitivity(network, validation, ratios=(0.5,)))
    """
    rows = rows_of(rows, _COLUMNS)
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    names = list(dict.fromkeys(row["set"] for row in rows))
    ratios = sorted({float(row["ratio"]) for row in rows})
    values = np.full((len(names), len(ratios)), np.nan)
    for row in rows:
        values[names.index(row["set"]), ratios.index(float(row["ratio"]))] = 100 * float(row["accuracy"])
    with seaborn.axes_style("white"), seaborn.plotting_context("notebook", font_scale=0.8):
        size = 0.7 * len(ratios) + 3.2, 0.24 * len(names) + 1.3
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        axes = figure.subplots()
        seaborn.heatmap(
            values,
            ax=axes,
            cmap="viridis",
            vmin=np.nanmin(values),
            vmax=np.nanmax(values),
            annot=len(names) <= _MOST_NUMBERS,
            fmt=".1f",
            annot_kws={"fontsize": 7},
            xticklabels=[f"{100 * ratio:g} %" for ratio in ratios],
            yticklabels=names,
            cbar_kws={"label": "Accuracy (%)"},
        )
        axes.set_xlabel("Channels dropped")
        axes.tick_params(axis="y", labelsize=7, rotation=0)
    save(figure, path)
    return axes
