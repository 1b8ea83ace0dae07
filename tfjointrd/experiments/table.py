"""Tables of what networks cost and how accurate they are, for one seed or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfjointrd import report
from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.card_images import description
from tfjointrd.experiments.run_folder import Run, find_file

FIGURES = ("accuracy", "bytes", "latency")  # of a file


class Row:
    """One network in a table, with what was measured of its files: any of the number formats that there are.

    Args:
        name: What the network is.
        accuracy: Top-1 on the validation images, in Keras, mean over the seeds; `None` where it was not measured.
        parameters: Number of parameters.
        macs: Multiply-accumulates an image.
        peak_activation_bytes: Most memory that activations take at a time, float32, one image.
        **of_files: `accuracy_float32`, top-1 of the float32 `.tflite` files, mean over the seeds; `bytes_float32`, the
            first seed's size; `latency_float32`, its median milliseconds an image, one thread of this machine. Likewise
            `accuracy_int8` and so on for any number format. `None` where there is none.

    All are attributes.

    Raises:
        TypeError: For a figure of a file that is none of the three.
    """

    def __init__(
        self, name: str, accuracy: float | None, *, parameters: int, macs: int, peak_activation_bytes: int, **of_files
    ):
        wrong = [key for key in of_files if not key.startswith(tuple(f"{figure}_" for figure in FIGURES))]
        if wrong:
            raise TypeError(f"Expected {', '.join(f'{figure}_FORMAT' for figure in FIGURES)}. Received: {wrong[0]}=...")
        self.name, self.accuracy = name, accuracy
        self.parameters, self.macs, self.peak_activation_bytes = parameters, macs, peak_activation_bytes
        self.__dict__.update(of_files)

    def as_dict(self) -> dict:
        """The row as plain data."""
        return dict(vars(self))

    def of_file(self, figure: str, form: str) -> float | None:
        """A figure of its file in a number format, `None` if there is none."""
        return vars(self).get(f"{figure}_{form}")

    @property
    def forms(self) -> list[str]:
        """The number formats that figures were given of."""
        named = (key.partition("_") for key in vars(self))
        return list(dict.fromkeys(form for figure, _, form in named if figure in FIGURES and form))


def measure(name: str, run: Run, network: str) -> Row:
    """A row from a card, and the latency of the files on this machine, as far as the network was exported.

    Args:
        name: What to call it in the table.
        run: The finished training.
        network: Which of its networks.

    Raises:
        FileNotFoundError: If a file that the card lists is gone.
    """
    entry, seed = run.card["networks"][network], run.card["seeds"][str(run.recipe.seed)]
    accuracies = {form: run.accuracy(network, form) for form in seed["accuracy"][network] if form != "keras"}
    forms = dict.fromkeys([*run.recipe.formats, *accuracies])

    def find(file: str) -> Path:
        return find_file(run.folder, file, run.recipe.seed)

    return row_of(name, run.accuracy(network), entry, network, forms, find, accuracies)


def row_of(
    name: str,
    accuracy: float | None,
    entry: Mapping,
    network: str,
    forms: Iterable[str],
    find: Callable[[str], Path],
    accuracies: Mapping[str, float] | None = None,
) -> Row:
    """A row from what a card says of a network, and the latency of the files on this machine.

    Args:
        name: What to call it in the table.
        accuracy: Top-1 in Keras, `None` where it was not measured.
        entry: The network's entry of a card: its costs, and the bytes of its files.
        network: The network's name.
        forms: The number formats.
        find: Where the file of a name is.
        accuracies: Top-1 of the files by format.
    """
    files = {form: cards.file_name(network, form) for form in forms}
    there = {form: file for form, file in files.items() if file in entry["files"]}
    paths = [find(file) for file in there.values()]
    timed = dict(zip(there, report.latencies(paths) if paths else [], strict=True))
    of_files: dict[str, Any] = {}
    for form, file in files.items():
        of_files[f"accuracy_{form}"] = (accuracies or {}).get(form)
        of_files[f"bytes_{form}"] = entry["files"].get(file)
        of_files[f"latency_{form}"] = timed[form].median_ms if form in timed else None
    costs = {key: entry[key] for key in ("parameters", "macs", "peak_activation_bytes")}
    return Row(name=name, accuracy=accuracy, **costs, **of_files)


def measure_run(run: Run) -> list[Row]:
    """A row for each network of a finished training, named after its folder."""
    return [
        measure(run.folder.name + ("" if network == "model" else f" {network}"), run, network)
        for network in run.networks
    ]


def _known(value: float | None, form: str) -> str:
    """A number as a column shows it, or a dash where there is none."""
    return "—" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return _known(None if value is None else 100 * value, ".2f")


def _columns(forms: Sequence[str]) -> dict[str, Callable[[Row], str]]:
    """What a table shows of each row."""

    def of_files(title: str, figure: str, form: str, factor: float, digits: str):
        def write(row):
            value = row.of_file(figure, form)
            return _known(None if value is None else value * factor, digits)

        return {f"{form} {title}": write}

    columns = {"network": lambda row: row.name, "Keras %": lambda row: _percent(row.accuracy)}
    for form in forms:
        columns |= of_files("%", "accuracy", form, 100, ".2f")
    columns |= {
        "parameters": lambda row: f"{row.parameters:,}",
        "MACs (M)": lambda row: f"{row.macs / 1e6:.2f}",
        "live memory (KiB)": lambda row: f"{row.peak_activation_bytes / 1024:.1f}",
    }
    for form in forms:
        columns |= of_files("(KiB)", "bytes", form, 1 / 1024, ".0f")
    for form in forms:
        columns |= of_files("(ms)", "latency", form, 1, ".3f")
    return columns


def markdown(rows: list[Row]) -> str:
    """The table in Markdown, its columns aligned for reading as plain text too; three for each number format."""
    columns = _columns(list(dict.fromkeys(form for row in rows for form in row.forms)))
    return aligned([list(columns), *([write(row) for write in columns.values()] for row in rows)])


@dataclass(frozen=True)
class Outcome:
    """What a registered recipe came to over its seeds, or that nothing was run.

    Attributes:
        recipe: Its name.
        command: The command line that ran it, or that runs it.
        accuracies: Top-1 on the validation images after the last epoch, in Keras, of each seed; empty if not run.
        epochs: Number of epochs.
        data: What the card says of the images; empty if not run.
        machines: Those that it ran on.
    """

    recipe: str
    command: str
    accuracies: dict[int, float] = field(default_factory=dict)
    epochs: int = 0
    data: str = ""
    machines: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean accuracy of the seeds, `None` if not run."""
        return sum(self.accuracies.values()) / len(self.accuracies) if self.accuracies else None


def outcomes(
    recipes: Iterable[str],
    folder: str | os.PathLike,
    scale: str = "laptop",
    seeds: Sequence[int] = (0,),
    network: str = "model",
) -> list[Outcome]:
    """What the cards of registered recipes say, one after the other; recipes without a card are among them.

    Args:
        recipes: Names of recipes; see `tfjointrd.experiments.catalog`.
        folder: Folder of all recipes' folders.
        scale: `smoke`, `laptop`, `study` or `paper`.
        seeds: Those to run where nothing was run.
        network: Which of a training's networks.

    Raises:
        ValueError: If there is no such recipe, scale or network, or a card is of other settings.
    """
    return [_outcome(name, Path(folder) / name, scale, seeds, network) for name in recipes]


def _outcome(name: str, folder: Path, scale: str, seeds: Sequence[int], network: str) -> Outcome:
    recipe = catalog.get(name, scale)
    if not (folder / cards.CARD).is_file():
        numbers = " ".join(map(str, seeds))
        command = f"python -m tfjointrd run {name} --scale {scale} --seeds {numbers}"
        return Outcome(name, command, epochs=recipe.epochs)
    card = cards.read(folder, recipe)
    if network not in card["networks"]:
        raise ValueError(
            f"Expected `network` to be one of {sorted(card['networks'])}. Received: network='{network}', of '{folder}'."
        )
    trainings = card["seeds"].values()
    return Outcome(
        recipe=name,
        command=card["command"],
        accuracies={int(seed): entry["accuracy"][network]["keras"] for seed, entry in card["seeds"].items()},
        epochs=recipe.epochs,
        data=description(card),
        machines=tuple(dict.fromkeys(machine_name(entry["machine"]) for entry in trainings)),
    )


def machine_name(machine: Mapping) -> str:
    """What a card calls the machine that a training ran on."""
    what = machine.get("accelerators") or f"{machine['cores']} cores"
    return f"{machine['processor']}, {what}"


_OUTCOME_COLUMNS = {
    "accuracy %": lambda outcome: f"{100 * outcome.mean:.2f}" if outcome.accuracies else "not run",
    "lowest to highest": lambda outcome: _range(outcome.accuracies.values()),
    "seeds": lambda outcome: str(len(outcome.accuracies)),
    "epochs": lambda outcome: str(outcome.epochs),
    "recipe": lambda outcome: f"`{outcome.recipe}`",
}


def _range(accuracies) -> str:
    return f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}" if len(accuracies) > 1 else ""


def outcome_table(named: Mapping[str, Outcome]) -> str:
    """Recipes side by side, in Markdown: accuracies, and below them data, machines, and how to run what is missing.

    Args:
        named: Outcomes by what to call them in the table.
    """
    lines = [[title, *(write(outcome) for write in _OUTCOME_COLUMNS.values())] for title, outcome in named.items()]
    parts = [aligned([["network", *_OUTCOME_COLUMNS], *lines])]
    found = [outcome for outcome in named.values() if outcome.accuracies]
    if found:
        data = dict.fromkeys(outcome.data.rstrip(".") for outcome in found)
        machines = dict.fromkeys(machine for outcome in found for machine in outcome.machines)
        parts.append(f"Validation accuracy after the last epoch, mean over the seeds. {', '.join(data)}.")
        parts.append(f"Trained on {'; '.join(machines)}.")
    missing = [outcome.command for outcome in named.values() if not outcome.accuracies]
    if missing:
        parts.append("\n".join(["Not run as yet:", "", "```", *missing, "```"]))
    return "\n\n".join(parts)


def aligned(cells: list[list[str]]) -> str:
    """A table in Markdown, its first column to the left and all others to the right."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]

    def line(values: list[str]) -> str:
        first, *others = (
            v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])
