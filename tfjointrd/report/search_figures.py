"""Figures of searches: which widths were chosen, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from tfjointrd.extras import require
from tfjointrd.report.figures import rows_of, save

_GATES = ("epoch", "group", "alpha", "probability")


def width_figure(architecture: Mapping[str, Any], path: str | PathLike | None = None):
    """Draws the width of each layer that was chosen, as bars over those of the full network.

    Args:
        architecture: What `DAN.architecture()` returns.
        path: Where to write a PNG; its folder is made.

    Returns:
        The matplotlib `Axes`.

    Raises:
        ValueError: If `architecture` lacks the widths.

    Example:

    >>> axes = width_figure(json.loads(Path("runs/search_resnet20_a2_cifar10/architecture.json").read_text()))
    """
    missing = [key for key in ("widths", "full_widths") if not architecture.get(key)]
    if missing:
        raise ValueError(f"Expected `architecture` to have {missing}. Received: {dict(architecture)}")
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    layers = list(architecture["full_widths"])
    full, kept = ([architecture[key][layer] for layer in layers] for key in ("full_widths", "widths"))
    with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook", font_scale=0.8):
        figure = Figure(figsize=(max(5.0, 0.32 * len(layers) + 1.2), 4.2), dpi=160, layout="constrained")
        axes = figure.subplots()
        axes.bar(layers, full, color="0.88", label="full network")
        axes.bar(layers, kept, color=seaborn.color_palette("colorblind")[0], width=0.6, label="chosen")
        for place, width in enumerate(kept):
            axes.text(place, width, f"{width}", ha="center", va="bottom", fontsize=7)
        axes.set_ylabel("Channels")
        axes.grid(False, axis="x")
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        axes.margins(x=0.01)
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
        seaborn.despine(ax=axes)
    save(figure, path)
    return axes


def gate_figure(history: Sequence[Mapping[str, Any]] | str | PathLike, path: str | PathLike | None = None):
    """Draws the probability of each candidate of each gate over the epochs of a search, a heat map for each alpha.

    Args:
        history: `GateRecorder.history`, or the `.csv` file that it wrote (`gates.csv` of a search by recipe).
        path: Where to write a PNG; its folder is made.

    Returns:
        The matplotlib `Axes`, an array `(alphas,)`.

    Raises:
        ValueError: If there are no rows, or a row lacks an entry.

    Example:

    >>> axes = gate_figure("runs/search_resnet20_a2_cifar10/seed0/gates.csv")
    """
    rows = rows_of(history, _GATES)
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    groups = list(dict.fromkeys(row["group"] for row in rows))
    alphas, epochs = (sorted({float(row[key]) for row in rows}) for key in ("alpha", "epoch"))
    values = np.full((len(alphas), len(groups), len(epochs)), np.nan)
    for row in rows:
        place = alphas.index(float(row["alpha"])), groups.index(row["group"]), epochs.index(float(row["epoch"]))
        values[place] = float(row["probability"])
    with seaborn.axes_style("white"), seaborn.plotting_context("notebook", font_scale=0.8):
        size = 2.3 * len(alphas) + 2.6, 0.24 * len(groups) + 1.3
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        axes = figure.subplots(1, len(alphas), sharey=True, squeeze=False)[0]
        for ax, alpha, table in zip(axes, alphas, values, strict=True):
            drawn = ax.pcolormesh(epochs, range(len(groups)), table, cmap="viridis", vmin=0, vmax=1, shading="nearest")
            ax.set_title(f"alpha {alpha:g}", fontsize=10)
            ax.set_xlabel("Epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_yticks(range(len(groups)), groups, fontsize=7)
        axes[0].invert_yaxis()
        figure.colorbar(drawn, ax=axes, label="Probability")
    save(figure, path)
    return axes
