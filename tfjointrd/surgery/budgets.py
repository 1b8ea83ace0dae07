"""Budgets as users give them: parts of the full network's cost, whole numbers, or milliseconds by a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


class OutOfReach(ValueError):
    """A target that cannot be reached.

    Attributes:
        below: Whether it is below the least that can; else above the most, or no number.
    """

    def __init__(self, message: str, below: bool):
        super().__init__(message)
        self.below = below


def share_of(
    argument: str,
    value: float,
    full: float,
    low: float,
    high: float,
    reached_by: str,
    hints: tuple[str, str] = ("", ""),
) -> float:
    """A target as a part of the full network's cost.

    Args:
        argument: The target's name, `"target_macs"`, `"target_parameters"` or `"target_latency_ms"`.
        value: The target: up to 1.0 a part of the full cost, else a number; milliseconds are always a number.
        full: The full network's cost.
        low: The least part that can be reached.
        high: The most.
        reached_by: What reaches from the least to the most, for the error message.
        hints: What to do about a target that is too low, and about others, for the error message.

    Raises:
        OutOfReach: If it is not between the least and the most.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    share = (value if value <= 1 and argument != "target_latency_ms" else value / full) if number else np.nan
    if not low - 1e-9 <= share <= high + 1e-9:
        below = bool(share < low)
        least, most = (f"{part:.4f} ({part * full:,.6g})" for part in (low, high))
        hint = hints[0] if below else hints[1]
        if number and value > 1 and argument != "target_latency_ms":
            hint = f"A number above 1 is a count, not a part or a percentage. {hint}"
        expected = f"Expected `{argument}` within what {reached_by}, from {least} to {most}."
        raise OutOfReach(f"{expected} Received: {argument}={value!r}. {hint}".rstrip(), below)
    return float(share)


def read_table(table) -> dict[str, list[list[float]]] | None:
    """A latency table from a mapping or a JSON file.

    Raises:
        ValueError: If it has another form.
    """
    if table is None:
        return None
    read = table
    try:
        if isinstance(table, (str, os.PathLike)):
            read = json.loads(Path(table).read_text())
        found = {str(layer): [[int(i), int(j), float(value)] for i, j, value in rows] for layer, rows in read.items()}
        if not all(0 <= value < float("inf") for rows in found.values() for *_, value in rows):
            raise ValueError("milliseconds below 0, or none")
        return found
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected `latency_table` to hold [input width, output width, milliseconds] by layer name. Received: "
            f"{table!r:.200}."
        ) from error


def never_faster(rows: Sequence[Sequence[float]]) -> Mapping[tuple[int, int], float]:
    """Milliseconds by input and output width; widths of which a narrower one took longer count as long as that one."""
    measured = {(int(ins), int(outs)): float(value) for ins, outs, value in rows}
    return {(i, j): max(v for (a, b), v in measured.items() if a <= i and b <= j) for i, j in measured}
