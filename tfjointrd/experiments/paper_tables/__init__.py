"""Every table of both papers, row by row, with the paper's figure and what our cards say.

A row names the recipe of ours that it is. What is shown as ours comes from cards alone; a row without a card reads
"not run". A figure of a paper that we do not list, for example because a plot has no numbers, reads "not listed".

    python -m tfjointrd tables --table an_table3
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tfjointrd.experiments.paper_tables import adjoined, adjoined_pruning, jointrd
from tfjointrd.experiments.paper_tables.figures import pruning_figure
from tfjointrd.experiments.paper_tables.fill import fill, read_cards
from tfjointrd.experiments.paper_tables.rows import Group, PaperRow, PaperTable
from tfjointrd.experiments.paper_tables.text import FilledTable

__all__ = [
    "TABLES",
    "FilledTable",
    "Group",
    "PaperRow",
    "PaperTable",
    "fill",
    "paper_table",
    "pruning_figure",
    "read_cards",
]

TABLES = {table.name: table for table in (*jointrd.TABLES, *adjoined_pruning.TABLES, *adjoined.TABLES)}


def paper_table(
    name: str, folders: str | os.PathLike | Iterable[str | os.PathLike] = "saved_models", groups: str = ""
) -> FilledTable:
    """A table of one of the papers, with the paper's figures and ours.

    Args:
        name: `jointrd_table1` to `jointrd_table4`, `jointrd_transfer`, `jointrd_combined`; `an_table1` to `an_table4`,
            `an_figure4`, `an_dan`.
        folders: Folders with cards, at any depth.
        groups: Only groups of rows whose title has this in it, as `"CIFAR-10"`.

    Returns:
        The table. A notebook shows it as HTML, `print` as Markdown.

    Raises:
        ValueError: If there is no such table, or no such group.

    Example:

    >>> table = paper_table("an_table4", "saved_models", groups="CIFAR-10, ResNet-20")
    >>> [line.row.network for line in table.lines]
    ['standard', 'AN-Full a2']

    Reference:
        Residual Distillation (NeurIPS 2020) and Adjoined Networks (arXiv 2006.05624).
    """
    if name not in TABLES:
        raise ValueError(f"Expected `name` to be one of {', '.join(TABLES)}. Received: name='{name}'.")
    lines = [line for line in fill(TABLES[name], read_cards(folders)) if groups in line.group.title]
    if not lines:
        titles = "; ".join(group.title for group in TABLES[name].groups)
        raise ValueError(f"Expected `groups` to be in one of the titles {titles}. Received: groups='{groups}'.")
    return FilledTable(TABLES[name], lines)


def __dir__() -> list[str]:
    return list(__all__)
