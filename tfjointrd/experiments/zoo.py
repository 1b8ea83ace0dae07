"""The list of trained networks in `saved_models`, written from their cards."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments.card_images import description
from tfjointrd.experiments.paper_tables.fill import card_folders
from tfjointrd.experiments.table import aligned, machine_name

COMMAND = "python -m tfjointrd tables --zoo > saved_models/README.md"
HEAD = f"""\
# Trained networks

Each row is a training that anyone can repeat. Its card, `FOLDER/card.json`, holds the metrics of every epoch, the
settings, the machine and the command. Small networks stay beside their card where someone would use them. This page is
written from the cards (`{COMMAND}`).

The papers' figures stand beside ours in notebooks [12](../notebooks/12_jointrd_table3_cifar.ipynb) to
[14](../notebooks/14_jointrd_transfer.ipynb) (Residual Distillation) and
[20](../notebooks/20_an_table1_figure1.ipynb) to [24](../notebooks/24_dan.ipynb) (Adjoined Networks).
`python -m tfjointrd tables` prints them. `python -m tfjointrd report saved_models/FOLDER` times the files of a network
on your machine.

Top-1 is measured after the last epoch: the mean over the seeds, ± their standard deviation. With one seed a gap of a
point means nothing. The int8 figure is that of the first seed's file. Live memory is the most that float32
activations of one image take. CIFAR-10 (JPEG q75 copy) has not the original pixels: each image was written as JPEG of
quality 75 and read again. Its accuracies cannot be compared with published ones.
"""
PADDING = (
    "were trained before strided windows were padded as the authors pad them. Their cards have no `source`. The "
    "commands now train networks of the same size that are other functions."
)


def text(folder: str | os.PathLike = "saved_models") -> str:
    """The page in Markdown: a table for each data set and scale.

    Args:
        folder: Folder with a folder for each training, or with folders of these.

    Raises:
        ValueError: If a card does not have the form of a card.
        FileNotFoundError: If there is none.
    """
    root = Path(folder)
    found = {path.relative_to(root): cards.read(path) for path in card_folders(root)}
    if not found:
        raise FileNotFoundError(f"Expected `folder` to hold cards ({cards.CARD}). Received: folder='{folder}'.")
    parts = [HEAD.rstrip("\n")]
    sections: dict[str, dict[Path, dict]] = {}
    for place, card in found.items():
        sections.setdefault(_title(card), {})[place] = card
    for title, members in sorted(sections.items(), key=lambda item: (item[0].count(", chosen"), item[0])):
        parts += [f"## {title}", *_section(members, root)]
    return "\n\n".join(parts) + "\n"


def _title(card: Mapping) -> str:
    recipe, data = card["recipe"], description(card)
    scale = f"scale {recipe['scale']}" if recipe["scale"] else "no recipe's name"
    chosen = ", chosen on held-out images" if card["data"].get("scored_on") == "held_out" else ""
    epochs = f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}"
    return f"{data}: {scale}, {epochs}{chosen}"


def _section(members: Mapping[Path, dict], root: Path) -> Iterable[str]:
    titles = [
        "network",
        "top-1 %",
        "seeds",
        "int8 %",
        "parameters",
        "MACs (M)",
        "live memory (KiB)",
        "int8 (KiB)",
        "here",
    ]
    rows = [_row(place, card, name, root) for place, card in members.items() for name in card["networks"]]
    yield aligned([titles, *rows])
    trainings = [training for card in members.values() for training in card["seeds"].values()]
    yield f"Trained on {'; '.join(dict.fromkeys(map(_place, trainings)))}."
    known = [bool(training.get("source")) for training in trainings]
    old = "" if all(known) else f"{'Some' if any(known) else 'All'} of these networks {PADDING} "
    first = next(iter(members.values()))["command"].replace("--seeds 0 1", "--seeds 0")
    yield f"{old}Each card has its command, for example `{first}`."


def _place(training: Mapping) -> str:
    """The machine of a training, and the versions of what it depends on."""
    versions = training["versions"]
    backend = versions.get("backend", "")
    with_what = f" (Keras {versions['keras']} on {backend} {versions.get(backend, '')})" if backend else ""
    return machine_name(training["machine"]) + with_what.replace(" )", ")")


def _row(place: Path, card: Mapping, network: str, root: Path) -> list[str]:
    entry, trainings = card["networks"][network], list(card["seeds"].values())
    values = [100 * training["accuracy"][network]["keras"] for training in trainings]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    int8 = trainings[0]["accuracy"][network].get("int8")
    size = entry["files"].get(cards.file_name(network, "int8"))
    here = cards.network_files(root / place, network)
    name = place.name if network == "model" else f"{place.name} {network}"
    return [
        f"[{name}]({place.as_posix()})",
        f"{statistics.mean(values):.2f}{spread}",
        str(len(values)),
        "—" if int8 is None else f"{100 * int8:.2f}",
        f"{entry['parameters']:,}",
        f"{entry['macs'] / 1e6:.2f}",
        f"{entry['peak_activation_bytes'] / 1024:.1f}",
        "—" if size is None else f"{size / 1024:.0f}",
        "network, files" if here else "card",
    ]
