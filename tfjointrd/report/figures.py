"""Figures of results."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tfjointrd.extras import require
from tfjointrd.files import writing

# Marker areas in points squared, for the smallest and the largest network.
_AREAS = (50.0, 400.0)
_GRADIENTS = ("epoch", "stage", "own_norm", "teacher_norm", "cosine", "tail_weight")
_SIZES = {
    "peak_activation_bytes": ("Peak live activations", ((2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))),
    "parameters": ("Parameters", ((10**6, "M"), (10**3, "k"), (1, ""))),
}


def accuracy_against_cost(
    rows: Sequence[Mapping[str, Any]], path: str | PathLike | None = None, size: str = "peak_activation_bytes"
):
    """Draws accuracy against multiply-accumulates, one labelled point a network.

    The MACs' axis is logarithmic where the largest network has more than eight times those of the smallest.

    Args:
        rows: A mapping for each network with `name`, `accuracy` (0 to 1), `macs` and what `size` names.
        path: Where to write a PNG; its folder is made.
        size: What the markers' areas show: `"peak_activation_bytes"` or `"parameters"`.

    Returns:
        The matplotlib `Axes`.

    Raises:
        ValueError: If there are no rows, a row lacks an entry, or `size` is neither of the two.

    Example:

    >>> rows = [{"name": "ResNet-20", "accuracy": 0.92, "macs": 40813184, "parameters": 270896}]
    >>> axes = accuracy_against_cost(rows, size="parameters")
    """
    _check(rows, size)
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    macs, accuracies = [row["macs"] / 1e6 for row in rows], [100 * row["accuracy"] for row in rows]
    areas = _areas([row[size] for row in rows])
    with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook"):
        figure = Figure(figsize=(7.5, 4.8), dpi=160, layout="constrained")
        axes = figure.subplots()
        colors = seaborn.color_palette("colorblind", len(rows))
        axes.scatter(macs, accuracies, s=areas, c=colors, edgecolors="white", zorder=3)
        _set_axes(axes, macs, accuracies)
        _explain_areas(axes, rows, areas, size)
        _label(axes, macs, accuracies, areas, [row["name"] for row in rows])
        seaborn.despine(ax=axes)
    save(figure, path)
    return axes


def gradient_figure(history: Sequence[Mapping[str, Any]] | str | PathLike, path: str | PathLike | None = None):
    """Draws the gradients of a `JointRD` student, from its own path and from the teacher, stage by stage, over epochs.

    Above, norms on a logarithmic axis; below, the cosine between the two gradients and the teacher's weight m(t).

    Args:
        history: `GradientRecorder.history`, or the `.csv` file that it wrote (`gradients.csv` of a recipe's training).
        path: Where to write a PNG; its folder is made.

    Returns:
        The matplotlib `Axes`, an array `(2, stages)`.

    Raises:
        ValueError: If there are no rows, or a row lacks an entry.

    Example:

    >>> axes = gradient_figure("runs/jointrd_resnet20_cifar10/seed0/gradients.csv")
    """
    stages = _stages(rows_of(history, _GRADIENTS))
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook", font_scale=0.8):
        figure = Figure(figsize=(max(4.0, 2.7 * len(stages) + 0.6), 4.8), dpi=160, layout="constrained")
        axes = figure.subplots(2, len(stages), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
        colors = seaborn.color_palette("colorblind")
        for (upper, lower), (stage, columns) in zip(axes.T, stages.items(), strict=True):
            upper.set_title(f"Stage {stage}")
            _draw_norms(upper, columns, colors)
            _draw_cosine(lower, columns, colors)
        _explain_gradients(axes, max(max(columns["tail_weight"]) for columns in stages.values()))
        seaborn.despine(fig=figure)
    save(figure, path)
    return axes


def save(figure, path: str | PathLike | None) -> None:
    """Writes a figure as PNG; its folder is made. Does nothing without a path."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            figure.savefig(file, format="png")


def rows_of(history, columns: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a recorder's history, or of the `.csv` file that it wrote.

    Raises:
        ValueError: If there are none, or one lacks a column.
    """
    if isinstance(history, (str, PathLike)):
        with open(history, newline="") as file:
            history = list(csv.DictReader(file))
    if not history:
        raise ValueError("Expected `history` to hold at least one row. Received: none")
    for row in history:
        missing = [key for key in columns if key not in row]
        if missing:
            raise ValueError(f"Expected each row to have {missing}. Received: {dict(row)}")
    return history


def _stages(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, list[float]]]:
    """Columns by stage; NaN where there is nothing to draw: no cosine, or a norm of zero on a logarithmic axis."""
    stages: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        columns = stages.setdefault(int(row["stage"]), {key: [] for key in _GRADIENTS})
        for key, values in columns.items():
            value = math.nan if row[key] in (None, "") else float(row[key])
            values.append(math.nan if value == 0 and key.endswith("norm") else value)
    return dict(sorted(stages.items()))


def _draw_norms(axes, columns: Mapping[str, Sequence[float]], colors) -> None:
    marker = "o" if len(columns["epoch"]) < 30 else None
    for key, color, label in (("own_norm", colors[0], "own path"), ("teacher_norm", colors[1], "teacher, times m(t)")):
        axes.plot(columns["epoch"], columns[key], color=color, marker=marker, markersize=3.5, label=label)
    axes.set_yscale("log")
    if all(map(math.isnan, columns["teacher_norm"])):
        axes.text(0.97, 0.04, "no gradient from the teacher", transform=axes.transAxes, ha="right", fontsize=8)


def _draw_cosine(axes, columns: Mapping[str, Sequence[float]], colors) -> None:
    marker = "o" if len(columns["epoch"]) < 30 else None
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.plot(columns["epoch"], columns["tail_weight"], color="0.35", linewidth=0.8, label="m(t)")
    axes.plot(columns["epoch"], columns["cosine"], color=colors[2], marker=marker, markersize=3.5, label="cosine")


def _explain_gradients(axes, weight: float) -> None:
    MaxNLocator = require("matplotlib.ticker").MaxNLocator
    axes[0, 0].set_ylabel("Norm of the gradient")
    axes[1, 0].set_ylabel("Cosine, m(t)")
    axes[1, 0].set_ylim(-1.05, max(1.05, 1.05 * weight))
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for lower in axes[1]:
        lower.set_xlabel("Epoch")
    found = [row[0].get_legend_handles_labels() for row in axes]
    handles, labels = (sum(parts, []) for parts in zip(*found, strict=True))
    axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)


def _check(rows, size: str) -> None:
    if size not in _SIZES:
        raise ValueError(f"Expected `size` to be one of {list(_SIZES)}. Received: size={size!r}")
    if not rows:
        raise ValueError("Expected `rows` to hold at least one network. Received: none")
    for row in rows:
        missing = [key for key in ("name", "accuracy", "macs", size) if row.get(key) is None]
        if missing:
            raise ValueError(f"Expected each row to have {missing}. Received: {dict(row)}")


def _areas(values: Sequence[float]) -> list[float]:
    """Areas in proportion to the values, as far as the smallest marker stays visible."""
    smallest, largest = _AREAS
    return [max(smallest, largest * value / max(values)) for value in values]


def _set_axes(axes, macs: Sequence[float], accuracies: Sequence[float]) -> None:
    if max(macs) > 8 * min(macs):
        LogLocator = require("matplotlib.ticker").LogLocator
        NullFormatter = require("matplotlib.ticker").NullFormatter
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(macs) / 1.4, max(macs) * 1.4)
    else:
        margin = max(0.1 * (max(macs) - min(macs)), 0.05 * max(macs))
        axes.set_xlim(min(macs) - margin, max(macs) + margin)
    axes.xaxis.set_major_formatter("{x:g}")
    spread = max(max(accuracies) - min(accuracies), 0.5)
    axes.set_ylim(min(accuracies) - 0.2 * spread, max(accuracies) + 0.2 * spread)
    axes.set_xlabel("Multiply-accumulates per image (millions)")
    axes.set_ylabel("Accuracy (%)")


def _explain_areas(axes, rows, areas: Sequence[float], size: str) -> None:
    """Writes above the axes which area stands for the smallest and the largest network."""
    label, units = _SIZES[size]
    factor, unit = next((f, u) for f, u in units if f == 1 or max(row[size] for row in rows) >= f)
    ordered = sorted({row[size]: area for row, area in zip(rows, areas, strict=True)}.items())
    shown = dict([ordered[0], ordered[-1]])
    axes.figure.legend(
        [axes.scatter([], [], s=area, c="0.6", linewidths=0) for area in shown.values()],
        [f"{value / factor:.3g} {unit}" for value in shown],
        title=f"{label} (marker area)",
        loc="outside upper center",
        ncols=len(shown),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _label(axes, macs, accuracies, areas, names) -> None:
    """Writes each name beside its point, towards the middle, pushed up where two would overlap."""
    axes.figure.draw_without_rendering()
    taken: list = []
    for x, y, area, name in sorted(zip(macs, accuracies, areas, names, strict=True), key=lambda point: point[1]):
        side = 1 if axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0] < 0.5 else -1
        offset = side * ((area / 3.14) ** 0.5 + 5)
        text = axes.annotate(
            name,
            (x, y),
            xytext=(offset, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=9.5,
            zorder=4,
        )
        while any(text.get_window_extent().overlaps(other) for other in taken):
            text.xyann = (offset, text.xyann[1] + 3)
        taken.append(text.get_window_extent())
