"""A paper's table with our figures, as Markdown and as HTML."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfjointrd.experiments.card_images import set_of
from tfjointrd.experiments.paper_tables.fill import Filled, settings
from tfjointrd.experiments.paper_tables.rows import ACCURACY, PaperTable
from tfjointrd.experiments.table import aligned

NOT_RUN, NOT_LISTED, NOTHING = "not run", "not listed", "—"
OURS = "ours (seeds)"


@dataclass(frozen=True, repr=False)
class FilledTable:
    """A paper's table with what our cards say of it.

    In a notebook it is shown as HTML; `print` gives Markdown.

    Attributes:
        table: The paper's table.
        lines: Its rows, each once for every scale at which it was run, or once if it was not.
    """

    table: PaperTable
    lines: Sequence[Filled]

    def __str__(self) -> str:
        """The table in Markdown."""
        parts = [f"**{self.table.paper}, {self.table.title}**", f"The claim: {self.table.claim}"]
        cells, group = [self._titles()], None
        for line, own in zip(self.lines, self._cells(), strict=True):
            if line.group is not group:
                group = line.group
                cells.append([f"**{group.title}**", *[""] * (len(own) - 1)])
            cells.append(own)
        parts += [aligned(cells), *self._below()]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"FilledTable('{self.table.name}', {len(self.lines)} lines)"

    def _repr_markdown_(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(title)}</th>" for title in self._titles())
        body, group = [], None
        for line, cells in zip(self.lines, self._cells(), strict=True):
            if line.group is not group:
                group = line.group
                title = html.escape(group.title)
                body.append(f'<tr><td colspan="{len(cells)}" style="text-align:left"><b>{title}</b></td></tr>')
            body.append("<tr>" + "".join(map(_cell, cells, self._titles())) + "</tr>")
        below = "".join(f"<p>{_with_code(text)}</p>" for text in self._below())
        title = html.escape(f"{self.table.paper}, {self.table.title}")
        return (
            f"<p><b>{title}</b><br>The claim: {html.escape(self.table.claim)}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{below}"
        )

    def _columns(self) -> dict[str, Callable[[Filled], str]]:
        columns: dict[str, Callable[[Filled], str]] = {
            "network": lambda line: line.row.network,
            f"paper ({self.table.quantity})": _paper,
            OURS: _ours,
            "difference": lambda line: _signed(line.difference),
        }
        if any(row.baseline for _, row in self.table.rows()) and self.table.gain:
            columns["gain, paper"] = lambda line: _signed(line.paper_gain)
            columns["gain, ours"] = lambda line: _signed(line.gain)
        if any(row.parameters for _, row in self.table.rows()):
            columns["parameters (M): paper, ours"] = _parameters
            columns["MACs (M): paper, ours"] = _macs
        several = len({set_of(line.ours.card) for line in self.lines if line.ours}) > 1
        return columns | {"setting": functools.partial(_setting, with_data=several), "recipe": _recipe}

    def _titles(self) -> list[str]:
        return list(self._columns())

    def _cells(self) -> list[list[str]]:
        return [[write(line) for write in self._columns().values()] for line in self.lines]

    def _below(self) -> list[str]:
        """What stands below, in Markdown: what columns mean, settings and machines, and how to run the rest."""
        said = "Ours is the mean over the seeds, whose number is in brackets, ± their standard deviation. "
        if self.table.quantity == ACCURACY:
            said = said.replace("Ours is", "Ours is the accuracy after the last epoch,")
        parts = [f"{said}Difference is ours less the paper's figure. {self.table.gain}".strip()]
        scales = {line.ours.scale for line in self.lines if line.ours}
        if "study" in scales and len(scales) > 1:
            parts.append("At scale study, images of CIFAR have 16 pixels a side. Compare rows of one scale only.")
        found = settings(self.lines)
        if found:
            each = "; ".join(f"{setting} ({', '.join(machines)})" for setting, machines in found.items())
            parts.append(f"Settings: {each}.")
        sources = {f"{line.row.network}: {line.row.source}" for line in self.lines if line.row.source}
        if sources:
            parts.append(f"Figures that are not from the table itself: {'; '.join(sorted(sources))}.")
        parts += self.table.notes
        commands = dict.fromkeys(line.row.command for line in self.lines if line.row.command and line.ours is None)
        run = "python -m tfjointrd run RECIPE --scale laptop --seeds 0 1 2"
        if any(line.row.recipe and not line.row.command for line in self.lines):
            parts.append(f"To run a row: `{run}`.")
        return [*parts, *(f"`{command}`" for command in commands)]


def _with_code(text: str) -> str:
    """Text in which what stands between backticks is code, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _cell(text: str, title: str) -> str:
    shown = f"<code>{html.escape(text)}</code>" if title == "recipe" and text != NOTHING else html.escape(text)
    side = "left" if title in ("network", "recipe") else "right"
    return f'<td style="text-align:{side};white-space:{"nowrap" if title == OURS else "normal"}">{shown}</td>'


def _paper(line: Filled) -> str:
    if line.row.ours:
        return NOTHING
    return NOT_LISTED if line.row.paper is None else f"{line.row.paper:g}"


def _ours(line: Filled) -> str:
    if line.ours is None:
        return NOT_RUN
    spread = "" if line.ours.spread is None else f" ± {line.ours.spread:.2f}"
    return f"{line.ours.mean:.2f}{spread} ({len(line.ours.values)})"


def _signed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}"


def _millions(paper: float | None, ours: int | None) -> str:
    if paper is None and ours is None:
        return NOTHING
    return f"{NOTHING if paper is None else f'{paper:g}'}, {NOTHING if ours is None else f'{ours / 1e6:.3g}'}"


def _parameters(line: Filled) -> str:
    return _millions(line.row.parameters, line.ours.parameters if line.ours else None)


def _macs(line: Filled) -> str:
    return _millions(line.row.macs, line.ours.macs if line.ours else None)


def _setting(line: Filled, with_data: bool) -> str:
    if line.ours is None:
        return NOTHING
    return line.ours.setting if with_data else f"{line.ours.scale}, {line.ours.epochs} epochs"


def _recipe(line: Filled) -> str:
    return (line.ours.recipe if line.ours else line.row.recipe) or NOTHING
