"""What our cards say beside the figures of a paper's table."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.card_images import description, same_images
from tfjointrd.experiments.paper_tables.rows import ACCURACY, MEMORY, Group, PaperRow, PaperTable
from tfjointrd.experiments.table import machine_name

SCALES = ("paper", "study", "laptop")  # the most telling first; what is trained at scale smoke tells nothing
OWN = "own settings"  # of a training that has no recipe's name
Cards = Mapping[tuple[str, str], dict]  # recipe and scale -> card


@dataclass(frozen=True)
class Ours:
    """What a recipe came to at one scale.

    Attributes:
        scale: The scale.
        values: The table's quantity, one value a seed: points of top-1, or a ratio.
        epochs: Number of epochs.
        data: What the card says of the images.
        machines: Those that it ran on.
        recipe: Under which name the card was found.
        parameters: Number of parameters, batch normalisations and biases among them.
        macs: Multiply-accumulates of one image.
        card: The card.
    """

    scale: str
    values: tuple[float, ...]
    epochs: int
    data: str
    machines: tuple[str, ...]
    recipe: str
    parameters: int
    macs: int
    card: dict = field(repr=False, compare=False)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, `None` of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def setting(self) -> str:
        """Scale, epochs and data."""
        return f"{self.scale}, {self.epochs} epochs, {self.data}"


@dataclass(frozen=True)
class Filled:
    """A row of a paper's table with what we have of it, at one scale or not at all.

    Attributes:
        group: The group that it is in.
        row: The row.
        ours: What our card says; `None` if it was not run.
        gain: The row less its baseline, ours at the same scale and on the same images; `None` if either is missing.
        paper_gain: Likewise, of the figures that the paper prints.
    """

    group: Group
    row: PaperRow
    ours: Ours | None = None
    gain: float | None = None
    paper_gain: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's figure; `None` if either is missing."""
        return None if self.ours is None or self.row.paper is None else self.ours.mean - self.row.paper


def read_cards(folders: str | os.PathLike | Iterable[str | os.PathLike]) -> dict[tuple[str, str], dict]:
    """The cards in folders, at any depth, by the recipe's name and its scale.

    A training that has no recipe's name goes by that of its folder. Of several cards of one recipe and scale those of
    the first folder count, and of these the one with the most seeds; the cards of single seeds, in `seed0` and so on,
    are in that of their recipe.

    Args:
        folders: One folder or several.

    Raises:
        ValueError: If a card does not have the form of a card.
    """
    several = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    found: dict[tuple[str, str], dict] = {}
    for folder in several:
        own: dict[tuple[str, str], dict] = {}
        for card_folder in card_folders(folder):
            card = cards.read(card_folder)
            key = card["recipe"]["name"] or card_folder.name, card["recipe"]["scale"] or OWN
            if key not in own or len(card["seeds"]) > len(own[key]["seeds"]):
                own[key] = card
        found = own | found
    return found


def card_folders(folder: str | os.PathLike) -> list[Path]:
    """The folders with cards within a folder, at any depth, in order; not those of single seeds, as in `read_cards`."""
    folders = sorted(path.parent for path in Path(folder).rglob(cards.CARD))
    return [path for path in folders if not re.fullmatch(r"seed\d+", path.name)]


def same_trainings(recipe: str, scale: str) -> tuple[str, ...]:
    """The names under which the card of a recipe may stand at a scale.

    `standard_resnet20_cifar10` has the settings of Adjoined Networks, `resnet20_cifar10` those of Residual
    Distillation. Where these are the same, as at scale `laptop`, one training is both.
    """
    other = recipe.removeprefix("standard_")
    if other == recipe or recipe not in catalog.names() or scale not in catalog.scales(recipe):
        return (recipe,)
    first, second = (catalog.get(name, scale).as_dict() | {"name": ""} for name in (recipe, other))
    return (recipe, other) if first == second else (recipe,)


def ours_of(table: PaperTable, group: Group, row: PaperRow, found: Cards) -> dict[str, Ours]:
    """What our cards say of a row, by scale, the most telling scale first."""
    results = {}
    for scale in (*SCALES, OWN):
        card, name = _card(row.recipe, scale, found)
        if card is None or row.part not in card["networks"]:
            continue
        values = _values(table, group, row, card, scale, found)
        if not values:
            continue
        network = card["networks"][row.part]
        trainings = card["seeds"].values()
        results[scale] = Ours(
            scale=scale,
            values=tuple(values),
            epochs=card["recipe"]["epochs"],
            data=description(card),
            card=card,
            machines=tuple(dict.fromkeys(machine_name(training["machine"]) for training in trainings)),
            recipe=name,
            parameters=network["parameters"],
            macs=network["macs"],
        )
    return results


def _card(recipe: str, scale: str, found: Cards) -> tuple[dict | None, str]:
    for name in same_trainings(recipe, scale) if recipe else ():
        if (name, scale) in found:
            return found[name, scale], name
    return None, recipe


def _values(table: PaperTable, group: Group, row: PaperRow, card: dict, scale: str, found: Cards) -> list[float]:
    if table.quantity == ACCURACY:
        return [100 * training["accuracy"][row.part]["keras"] for training in card["seeds"].values()]
    if table.quantity == MEMORY:
        base = baseline_of(group, row) if row.baseline else row
        other, _ = _card(base.recipe, scale, found)
        if other is not None:
            return [_live_bytes(other, base) / _live_bytes(card, row)]
    return []  # cards have no times


def _live_bytes(card: dict, row: PaperRow) -> int:
    return card["networks"][row.part]["peak_activation_bytes"]


def baseline_of(group: Group, row: PaperRow) -> PaperRow:
    """The row that a row is compared with."""
    return next(other for other in group.rows if other.network == row.baseline)


def fill(table: PaperTable, found: Cards) -> list[Filled]:
    """The rows of a table with what we have of them: a line for each scale that was run, or one that says it was not.

    Args:
        table: The table.
        found: The cards; see `read_cards`.
    """
    lines = []
    for group, row in table.rows():
        base = baseline_of(group, row) if row.baseline else None
        paper_gain = None
        if base is not None and row.paper is not None and base.paper is not None:
            paper_gain = row.paper - base.paper
        own = ours_of(table, group, row, found)
        others = ours_of(table, group, base, found) if base is not None else {}
        for scale, ours in own.items():
            other = others.get(scale)
            gain = ours.mean - other.mean if other is not None and same_images(ours.card, other.card) else None
            lines.append(Filled(group, row, ours, gain, paper_gain))
        if not own:
            lines.append(Filled(group, row, paper_gain=paper_gain))
    return lines


def settings(lines: Sequence[Filled]) -> dict[str, list[str]]:
    """The settings of the rows that were run, each with its machines."""
    result: dict[str, dict[str, None]] = {}
    for line in lines:
        if line.ours is not None:
            result.setdefault(line.ours.setting, {}).update(dict.fromkeys(line.ours.machines))
    return {setting: list(machines) for setting, machines in result.items()}
