"""The papers' figures of accuracy against parameters, with ours beside them."""

from __future__ import annotations

from os import PathLike

from tfjointrd.experiments.paper_tables.text import FilledTable
from tfjointrd.extras import require
from tfjointrd.report.figures import save

OWN_METHODS = ("AN", "DAN")  # drawn in another colour
# Where a name stands beside its point, in points to the right and up, the best place first.
_PLACES = [(side, up) for up in (6, -6, 0, 14, -14, 22, -22) for side in (6, -6)]


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
        parts = list(zip(figure.subplots(1, 2), titles, (printed, ours), strict=True))
        for axes, title, points in parts:
            _scatter(axes, points, seaborn.color_palette("colorblind"))
            axes.set(title=title, xlabel="million parameters", ylabel="top-1 accuracy (%)")
        seaborn.despine(fig=figure)
        figure.draw_without_rendering()  # settles where the points are
        for axes, _, points in parts:
            if points:
                _label(axes, points)
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
    axes.margins(0.2, 0.1)
    for name, point in points.items():
        own = name.startswith(OWN_METHODS)
        axes.scatter(*point, color=colors[3 if own else 0], marker="D" if own else "o", s=28, zorder=3)


def _label(axes, points: dict[str, tuple[float, float]]) -> None:
    """Writes each name where it covers no other name and no point, and stays in the plot, if there is such a place."""
    Bbox = require("matplotlib.transforms").Bbox
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(list(points.values()))]
    for name, point in sorted(points.items(), key=lambda item: item[1][1], reverse=True):
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", va="center", fontsize=7)
        text.set_in_layout(False)
        for place in (*_PLACES, _PLACES[0]):
            text.set(position=place, ha="left" if place[0] > 0 else "right")
            box = text.get_window_extent()
            if axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and not box.count_overlaps(taken):
                break
        taken.append(box)
