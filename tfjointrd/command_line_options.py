"""The options of `python -m tfjointrd train`, which are the fields of recipes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from tfjointrd.experiments.recipes import METHODS, all_fields, methods_with

_WIDTH = max(map(len, METHODS))
DESCRIPTION = (
    "Trains one network and leaves its .keras files and a card.json with everything measured in a folder.\n"
    "After an interruption the same command goes on, to the very same result.\n\n"
    "methods:\n"
    + "".join(f"  {name:{_WIDTH}}  {cls.summary}\n" for name, cls in METHODS.items())
    + "\nRecipes of the name jointrd_... add --dirac --feature-weight 1e-3.\n\n"
    "examples:\n"
    "  python -m tfjointrd train --method standard --network resnet20 --data cifar10 --out runs/resnet20\n"
    "  python -m tfjointrd train --method jointrd --network resnet20 --data cifar10 \\\n"
    "      --teacher runs/resnet20/model.keras --dirac --feature-weight 1e-3 --out runs/jointrd20\n"
    "  python -m tfjointrd train --method transfer --network runs/jointrd20/model.keras --data flowers/ \\\n"
    "      --out runs/flowers"
)


def add_training(parser: argparse.ArgumentParser) -> None:
    """What is trained, by which method, and for how long: an option for each field of a recipe."""
    parser.add_argument("--out", required=True, help="folder for checkpoint, networks and card")
    parser.add_argument("--method", default="standard", help="how to train; see above")
    add_fields(parser, list(METHODS))


def add_fields(parser: argparse.ArgumentParser, methods: Sequence[str], without: Sequence[str] = ()) -> None:
    """An option for each field of the recipes of some methods."""
    for name, field in all_fields(methods).items():
        if field.metadata["command_line"] and name not in without:
            parser.add_argument("--" + name.replace("_", "-"), **_option(name, field, methods))


def _option(name: str, field, methods: Sequence[str]) -> dict:
    """The arguments of `add_argument`; an option that is not given is in no recipe, so that its default counts."""
    values = field.metadata["values"]
    text = re.sub(r"`([^`]*)`", r"\1", field.metadata["text"]).replace("%", "%%")
    of = [method for method in methods_with(name) if method in methods]
    notes = [] if field.default in (None, (), False) else [f"default: {_as_typed(field.default)}"]
    notes += [] if len(of) == len(methods) else [", ".join(of)]
    found = {"default": argparse.SUPPRESS, "help": text + (f" ({'; '.join(notes)})" if notes else "")}
    if values.choices is not None and True in values.choices:
        return {**found, "nargs": "?", "const": True, "choices": [c for c in values.choices if isinstance(c, str)]}
    if values.kind is bool:
        return {**found, "action": "store_true"}
    if values.choices is not None:
        return {**found, "choices": [choice for choice in values.choices if choice is not None]}
    return {**found, "type": values.kind, **({"nargs": "+"} if values.many else {})}


def _as_typed(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def chosen(options: argparse.Namespace) -> dict:
    """The fields of a recipe that were given, with the method."""
    given = {name: getattr(options, name) for name in all_fields().keys() & vars(options).keys()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """What every command has."""
    parser.add_argument("--quiet", action="store_true", help="print the result only")


def add_common(parser: argparse.ArgumentParser) -> None:
    """How any training is run, whatever it is of."""
    parser.add_argument("--minutes", type=float, default=5.0, help="between checkpoints within an epoch")
    parser.add_argument("--note", default="", help="what readers of the card should know of the data")
    parser.add_argument("--tensorboard", metavar="DIR", help="write the metrics of each epoch there, for TensorBoard")
    parser.add_argument(
        "--nondeterministic",
        action="store_true",
        help="allow operations whose results do not repeat bit by bit, where they are faster",
    )
    parser.add_argument(
        "--distribute",
        choices=["mirrored", "processes"],
        help="train on all devices of this machine (TensorFlow), or with the same command in other processes (JAX)",
    )


def group(options: argparse.Namespace):
    """The devices or processes that train together, or `None`; from here on results repeat, where they are to."""
    from tfjointrd.experiments.runner import make_repeatable
    from tfjointrd.training.engines import distribute

    if not options.nondeterministic:
        make_repeatable()  # before processes meet, which computes
    return {"mirrored": distribute.mirrored, "processes": distribute.processes}.get(options.distribute, lambda: None)()


def progress(options: argparse.Namespace) -> int | str:
    """How `fit` shows its progress: bars on a terminal, which `!` in notebooks is too; elsewhere lines."""
    if options.quiet:
        return 0
    return "auto" if sys.stdout.isatty() else 2


def how(options: argparse.Namespace) -> dict[str, Any]:
    """What `tfjointrd.experiments.run` takes for the options of `add_common`."""
    return {
        "verbose": progress(options),
        "note": options.note,
        "minutes": options.minutes,
        "deterministic": not options.nondeterministic,
        "command": options.line,
        "tensorboard": options.tensorboard,
        "group": group(options),
    }
