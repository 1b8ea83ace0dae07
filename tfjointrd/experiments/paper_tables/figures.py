"""The papers' figures of accuracy against parameters, with ours beside them."""

from __future__ import annotations

from os import PathLike

from tfjointrd.experiments.paper_tables.text import FilledTable
from tfjointrd.extras import require
from tfjointrd.report.figures import save

OWN_METHODS = ("AN", "DAN")  # drawn in another colour


def pruning_figure(table: FilledTable, path: str | PathLike | None = None):
    """Draws top-1 against parameters: on the left the figures that the paper prints, on the right ours.

    Ours are those of one setting, the one that most rows were run with: accuracies of others do not compare.

    Args:
        table: A table with parameters, as `paper_table("an_table1")` (Figure 1) or `paper_table("an_figure4")` (Figures
            4 and 8).
        path: Where to write a PNG; its folder is made.

    Returns:
        The matplotlib `Figure`.

    Example:

    >>> figure = pruning_figure(tfjointrd.experiments.paper_table("an_table1"))

    Reference:
        Adjoined Networks (arXiv 2006.05624), Figures 1, 4 and 8.
    """
    seaborn = require("seaborn")
    Figure = require("matplotlib.figure").Figure
    printed = {
        line.row.network: (line.row.parameters, line.row.paper)
        for line in table.lines
        if line.row.parameters is not None and line.row.paper is not None
    }
    ours, setting = _ours(table)
    with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook", font_scale=0.8):
        figure = Figure(figsize=(10.5, 4.4), dpi=110, layout="constrained")
        titles = "what the paper prints", f"ours: {setting}" if setting else "ours"
        for axes, title, points in zip(figure.subplots(1, 2), titles, (printed, ours), strict=True):
            _scatter(axes, points, seaborn.color_palette("colorblind"))
            axes.set(title=title, xlabel="million parameters", ylabel="top-1 accuracy (%)")
        seaborn.despine(fig=figure)
    save(figure, path)
    return figure


def _ours(table: FilledTable) -> tuple[dict[str, tuple[float, float]], str]:
    """The points of the setting that most rows were run with, and that setting."""
    by_setting: dict[str, dict[str, tuple[float, float]]] = {}
    for line in table.lines:
        if line.ours:
            point = line.ours.parameters / 1e6, line.ours.mean
            by_setting.setdefault(line.ours.setting, {})[line.row.network] = point
    if not by_setting:
        return {}, ""
    setting = max(by_setting, key=lambda name: len(by_setting[name]))
    return by_setting[setting], setting


def _scatter(axes, points: dict[str, tuple[float, float]], colors) -> None:
    if not points:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
        return
    width, height = (max(values) - min(values) or 1.0 for values in zip(*points.values(), strict=True))
    labelled: list[tuple[float, float]] = []
    for name, (parameters, accuracy) in points.items():
        own = name.startswith(OWN_METHODS)
        axes.scatter(parameters, accuracy, color=colors[3 if own else 0], marker="D" if own else "o", s=28, zorder=3)
        crowded = any(abs(x - parameters) < 0.3 * width and abs(y - accuracy) < 0.04 * height for x, y in labelled)
        offset = {"xytext": (5, -8 if crowded else 3), "textcoords": "offset points", "fontsize": 7}
        axes.annotate(name, (parameters, accuracy), **offset)
        labelled.append((parameters, accuracy))
    axes.margins(0.2, 0.1)
