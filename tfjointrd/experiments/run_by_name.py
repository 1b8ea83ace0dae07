"""Runs registered recipes: their teachers first, one training a seed, one card and the small files beside it."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.recipes import Recipe
from tfjointrd.experiments.run_folder import (
    ARCHITECTURE,
    Run,
    complete,
    finished_run,
    is_locked,
    locked,
    seed_folder,
)
from tfjointrd.experiments.runner import GATES, GRADIENTS, make_repeatable, run
from tfjointrd.files import write
from tfjointrd.training.engines import distribute

# Larger networks stay in the folder of their seed.
LARGEST_FILE = 5_000_000


def run_named(
    name: str,
    scale: str = "laptop",
    out: str | PathLike = "runs",
    seeds: Sequence[int] = (0,),
    *,
    note: str = "",
    group: distribute.Single | distribute.Processes | None = None,
    deterministic: bool = True,
    tensorboard: str | PathLike | None = None,
    **options,
) -> Run:
    """Runs a registered recipe once for each seed, or goes on with it, or loads what is finished.

    The recipe's folder `out/name` gets a folder `seed0` ... for each training, a card of all of them, and the networks
    of the first seed as far as they are smaller than 5 MB. The recipes of the network that is pruned, of the teacher
    and of the search for widths, if there are, are run first in the same way, at the same scale and with the same seed.

    Args:
        name: Name of the recipe; see `tfjointrd.experiments.catalog`.
        scale: `smoke`, `laptop`, `study` or `paper`.
        out: Folder of all recipes' folders.
        seeds: Seeds, each once.
        note: What readers of the card should know of the data.
        group: As for `run`.
        deterministic: As for `run`.
        tensorboard: As for `run`; each training has a folder of its own in it, `RECIPE/seedN`.
        **options: Further arguments of `run`.

    Returns:
        The finished `Run` of all seeds.

    Raises:
        ValueError: If there is no such recipe or scale, a seed comes twice, or the folder holds something else.
        Others: As `run`.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"Expected `seeds` from 0, each once. Received: seeds={list(seeds)}.")
    recipes, names = [catalog.get(name, scale, seed) for seed in seeds], set(catalog.names())
    if deterministic:
        make_repeatable()  # now: loading a teacher computes already
    folder, group, known = Path(out) / name, group or distribute.Single(), set()
    if _finished(folder):
        card = cards.read(folder, recipes[0])
        known = set(card["seeds"])
        later = cards.lacks_files(card) and _seed_folders(folder)  # whose turn comes below
        if known >= {str(seed) for seed in seeds} and not later:
            with group.alone():
                return complete(folder, options.get("data_file"))
    options = {**options, "note": note, "group": group, "deterministic": deterministic}
    command = functools.partial(_command, recipes[0], note, group.name, deterministic)
    for recipe in recipes:
        training = seed_folder(folder, recipe.seed)
        if str(recipe.seed) in known and not _finished(training):
            continue  # in the card, its folder is gone
        files: dict[str, Any] = {}
        for field, network in (("network", "model"), ("teacher", "model"), ("widths", "small")):
            needed = recipe.get(field)
            if needed in names and not _finished(training):
                needed = run_named(needed, scale, out, (recipe.seed,), tensorboard=tensorboard, **options)
                files[field] = _of_seed(needed, recipe.seed).path(network)
        board = None if tensorboard is None else seed_folder(Path(tensorboard) / name, recipe.seed)
        options_of_seed = {**options, "tensorboard": board, "fingerprint": _images_of(folder)}
        run(recipe, training, **files, command=command([recipe.seed]), **options_of_seed)
    if group.chief:
        with locked(folder, timeout=60):  # another seed may be finishing
            _collect(folder, recipes[0], command)
    group.wait(f"{folder} is collected")
    with group.alone():
        return finished_run(folder)


def _images_of(folder: Path) -> str:
    """The fingerprint of the images that seeds of a recipe were trained on, empty where no card has one."""
    found = [cards.read(path) for path in (folder, *_seed_folders(folder)) if _finished(path)]
    return next((card["data"]["fingerprint"] for card in found if card["data"].get("fingerprint")), "")


def state(name: str, out: str | PathLike = "runs") -> str:
    """How far a recipe is in a folder: finished, running, interrupted, or nothing.

    Args:
        name: Name of the recipe.
        out: Folder of all recipes' folders.
    """
    folder = Path(out) / name
    parts, collected = [], set()
    if _finished(folder):
        try:
            card = cards.read(folder)
            scale = card["recipe"]["scale"]
            cards.read(folder, catalog.get(name, scale))
            collected = set(card["seeds"])
            parts.append(f"{scale}: finished, seed {', '.join(card['seeds'])}")
        except ValueError as error:
            parts.append(f"card not usable: {error}")
    for training in _seed_folders(folder):
        if _finished(training):
            if training.name.removeprefix("seed") not in collected:
                parts.append(f"{training.name} finished, not yet in the card of its recipe")
        else:
            checkpoint = Checkpoints(training).newest_name()
            reached = f"{checkpoint[0]} epochs" if checkpoint else "no checkpoint"
            parts.append(f"{training.name} {'running' if is_locked(training) else 'interrupted'}, {reached}")
    return "; ".join(parts)


def _of_seed(finished: Run, seed: int) -> Run:
    """The training of one seed of a recipe; the recipe's own folder where only its first seed's files are left."""
    folder = seed_folder(finished.folder, seed)
    if _finished(folder):
        return finished_run(folder)
    if finished.recipe.seed == seed:
        return finished
    raise FileNotFoundError(f"Expected networks of seed {seed}. Received: no folder '{folder}'.")


def _command(recipe: Recipe, note: str, group: str, deterministic: bool, seeds: Sequence[int | str]) -> str:
    """The command line that repeats a training."""
    options = ["--scale", recipe.scale, "--seeds", *map(str, seeds)]
    options += ["--note", note] if note else []
    options += ["--distribute", group] if group else []
    options += [] if deterministic else ["--nondeterministic"]
    return shlex.join(["python", "-m", "tfjointrd", "run", recipe.name, *options])


def _collect(folder: Path, recipe: Recipe, command: Callable[[Sequence], str]) -> None:
    """Merges the cards of all finished seeds, and puts the first one's networks beside the card."""
    finished = {training: cards.read(training, recipe) for training in _seed_folders(folder) if _finished(training)}
    found = list(finished.values())
    if _finished(folder):  # seeds whose folders are gone
        card = cards.read(folder, recipe)
        own = {seed for other in found for seed in other["seeds"]}
        left = {seed: training for seed, training in card["seeds"].items() if seed not in own}
        found += [{**card, "seeds": left}] if left else []
    found.sort(key=lambda card: min(map(int, card["seeds"])))
    card = cards.merge(found)
    first = seed_folder(folder, int(min(card["seeds"], key=int)))
    if first in finished:
        _keep_small_files(first, folder, card["networks"])
    cards.write(folder, {**card, "command": command(list(card["seeds"]))})


def _finished(folder: Path) -> bool:
    return (folder / cards.CARD).exists()


def _keep_small_files(training: Path, folder: Path, networks: Mapping[str, Mapping]) -> None:
    """Copies what stands beside a training's card, as far as it is small."""
    names = [name for network in networks.values() for name in network["files"]]
    for path in [training / name for name in (*names, GRADIENTS, GATES, ARCHITECTURE)]:
        if path.is_file() and path.stat().st_size < LARGEST_FILE:
            write(folder / path.name, path.read_bytes())


def _seed_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("seed*") if re.fullmatch(r"seed\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[4:]))
