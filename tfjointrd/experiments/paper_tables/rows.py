"""What a paper's table is made of: rows, in groups, each with the recipe of ours that is that row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

JOINTRD = "Residual Distillation"
AN = "Adjoined Networks"
ACCURACY, MEMORY, SPEED = "top-1 %", "times less live memory", "times as fast"


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of a paper's table, or one of ours beside it.

    Attributes:
        network: What the table calls it.
        paper: The figure that the paper prints, in the table's quantity. `None` where its text, as far as it was at
            hand, does not give it, and in rows that are ours.
        ours: Whether the row is ours: a stand-in for a network that was not trained, or a control.
        recipe: The name of our recipe, or of the folder of a training without a name. Empty where we have none.
        part: Which network of that recipe's: `model`, `full` or `small`.
        baseline: The row of the same group that this one is compared with, by its `network`.
        parameters: Millions of parameters, as the paper prints them.
        macs: Millions of multiply-accumulates, likewise.
        source: Where the figure is from, if not from the table itself.
        command: How to run it, where there is no recipe.
    """

    network: str
    paper: float | None = None
    ours: bool = False
    recipe: str = ""
    part: str = "model"
    baseline: str = ""
    parameters: float | None = None
    macs: float | None = None
    source: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are compared with each other: one data set, or one depth.

    Attributes:
        title: What they have in common.
        rows: The rows, each with a `network` of its own.
    """

    title: str
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or a figure of a paper, as data.

    Attributes:
        name: By which it is asked for.
        title: Its heading.
        paper: Which paper.
        claim: What the paper says with it, in one sentence.
        groups: The rows.
        quantity: What the figures are.
        gain: What the columns `gain` say; empty for a table without baselines.
        notes: What a reader has to know of our rows.
    """

    name: str
    title: str
    paper: str
    claim: str
    groups: tuple[Group, ...]
    quantity: str = ACCURACY
    gain: str = ""
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[Group, PaperRow]]:
        """All rows, each with its group."""
        for group in self.groups:
            for row in group.rows:
                yield group, row


def own_row(network: str, recipe: str, part: str = "model", baseline: str = "") -> PaperRow:
    """A row that is ours.

    Args:
        network: What the table calls it.
        recipe: The name of the recipe.
        part: Which of its networks.
        baseline: The row that it is compared with.
    """
    return PaperRow(network=network, recipe=recipe, part=part, baseline=baseline, ours=True)
