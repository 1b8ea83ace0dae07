"""Draws the README's picture from cards: what networks reach and cost, before and after.

    python docs/picture.py

It writes docs/networks.png. Grey text is legible on light and on dark pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import seaborn
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
# Title -> recipe and network of its card.
SHOWN = {
    "ResNet-20": ("resnet20_cifar10", "model"),
    "without shortcuts,\nby JointRD": ("jointrd_resnet20_cifar10", "model"),
    "half the channels,\nadjoined": ("an_resnet20_a2_cifar10", "small"),
}
INK = "0.5"


def figures(recipe: str, network: str) -> dict[str, float]:
    """Accuracy (mean over seeds), file, live memory and multiply-accumulates of a network."""
    card = json.loads((ROOT / "saved_models" / recipe / "card.json").read_text())
    entry = card["networks"][network]
    return {
        "accuracy, %": 100 * mean(seed["accuracy"][network]["keras"] for seed in card["seeds"].values()),
        "int8 file, KiB": entry["files"][f"{network}_int8.tflite"] / 1024,
        "live memory, KiB": entry["peak_activation_bytes"] / 1024,
        "million MACs": entry["macs"] / 1e6,
    }


def draw(path: Path) -> None:
    """Writes the picture."""
    rows = {title: figures(*place) for title, place in SHOWN.items()}
    columns = list(next(iter(rows.values())))
    colors = seaborn.color_palette("colorblind", len(rows))
    figure = Figure(figsize=(9, 2.1), dpi=160, layout="constrained")
    figure.patch.set_alpha(0)
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True), columns, strict=True):
        values = [row[column] for row in rows.values()]
        axes.barh(list(rows), values, color=colors, height=0.62)
        for place, value in enumerate(values):
            text = f"{value:.1f}" if value < 100 else f"{value:.0f}"
            axes.text(value, place, f" {text}", va="center", color=INK, fontsize=9)
        axes.set_xlim(0, 1.3 * max(values))
        axes.set_title(column, color=INK, fontsize=10)
        axes.invert_yaxis()
        axes.patch.set_alpha(0)
        axes.tick_params(left=False, bottom=False, labelbottom=False, labelcolor=INK, labelsize=9)
        seaborn.despine(ax=axes, left=True, bottom=True)
    figure.axes[0].invert_yaxis()
    figure.axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(path)


if __name__ == "__main__":
    draw(ROOT / "docs" / "networks.png")
