"""The papers' figures of accuracy against parameters, with ours beside them."""

from __future__ import annotations

from os import PathLike

from tfjointrd.experiments.paper_tables.text import FilledTable
from tfjointrd.report.figures import save

OWN_METHODS = ("AN", "DAN")  # drawn in another colour


def pruning_figure(table: FilledTable, path: str | PathLike | None = None):
    """Draws top-1 against parameters: on the left the figures that the paper prints, on the right ours.

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
    import seaborn
    from matplotlib.figure import Figure

    printed = {
        line.row.network: (line.row.parameters, line.row.paper)
        for line in table.lines
        if line.row.parameters is not None and line.row.paper is not None
    }
    ours = {
        line.row.network: (line.ours.parameters / 1e6, line.ours.mean) for line in reversed(table.lines) if line.ours
    }
    with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook", font_scale=0.8):
        figure = Figure(figsize=(10.5, 4.4), dpi=110, layout="constrained")
        titles = "what the paper prints", "ours, from the cards"
        for axes, title, points in zip(figure.subplots(1, 2), titles, (printed, ours), strict=True):
            _scatter(axes, points, seaborn.color_palette("colorblind"))
            axes.set(title=title, xlabel="million parameters", ylabel="top-1 accuracy (%)")
        seaborn.despine(fig=figure)
    save(figure, path)
    return figure


def _scatter(axes, points: dict[str, tuple[float, float]], colors) -> None:
    if not points:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    for name, (parameters, accuracy) in points.items():
        own = name.startswith(OWN_METHODS)
        axes.scatter(parameters, accuracy, color=colors[3 if own else 0], marker="D" if own else "o", s=28, zorder=3)
        offset = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 7}
        axes.annotate(name, (parameters, accuracy), **offset)
    axes.margins(0.15, 0.1)
