"""Runs registered recipes: their teachers first, one training a seed, one card and the small files beside it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import filelock

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.recipe import Recipe
from tfjointrd.experiments.runner import LOCK, Run, complete, finished_run, locked, run, seed_folder
from tfjointrd.training import distribute

# Larger networks stay in the folder of their seed.
LARGEST_FILE = 5_000_000


def run_named(
    name: str,
    scale: str = "laptop",
    out: str | os.PathLike = "runs",
    seeds: Sequence[int] = (0,),
    *,
    note: str = "",
    group: distribute.Single | distribute.Processes | None = None,
    **options,
) -> Run:
    """Runs a registered recipe once for each seed, or goes on with it, or loads what is finished.

    The recipe's folder `out/name` gets a folder `seed0` ... for each training, a card of all of them, and the networks
    of the first seed as far as they are smaller than 5 MB. The recipe of the teacher, if there is one, is run first in
    the same way, at the same scale and with the same seed.

    Args:
        name: Name of the recipe; see `tfjointrd.experiments.catalog`.
        scale: `smoke`, `laptop` or `paper`.
        out: Folder of all recipes' folders.
        seeds: Seeds, each once.
        note: What readers of the card should know of the data.
        group: As for `run`.
        **options: Further arguments of `run`.

    Returns:
        The finished `Run` of all seeds.

    Raises:
        ValueError: If there is no such recipe or scale, a seed comes twice, or the folder holds something else.
        Others: As `run`.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"Expected `seeds` from 0, each once. Received: seeds={list(seeds)}.")
    recipes = [catalog.get(name, scale, seed) for seed in seeds]
    folder = Path(out) / name
    group = group or distribute.Single()
    if _finished(folder):
        card = cards.read(folder, recipes[0])
        later = cards.lacks_files(card) and _seed_folders(folder)  # whose turn comes below
        if set(card["seeds"]) >= {str(seed) for seed in seeds} and not later:
            with group.alone():
                return complete(recipes[0], folder)
    options = {**options, "note": note, "group": group}
    for recipe in recipes:
        teacher = None
        if recipe.teacher:
            taught = run_named(recipe.teacher, scale, out, (recipe.seed,), **options)
            teacher = _of_seed(taught, recipe.seed).path("model")
        training = seed_folder(folder, recipe.seed)
        run(recipe, training, teacher=teacher, command=_command(recipe, [recipe.seed], note), **options)
    if group.chief:
        with locked(folder):
            _collect(folder, recipes[0], note)
    group.wait(f"{folder} is collected")
    with group.alone():
        return finished_run(folder)


def state(name: str, out: str | os.PathLike = "runs") -> str:
    """How far a recipe is in a folder: finished, running, interrupted, or nothing.

    Args:
        name: Name of the recipe.
        out: Folder of all recipes' folders.
    """
    folder = Path(out) / name
    parts = []
    if _finished(folder):
        try:
            card = cards.read(folder)
            scale = card["recipe"].get("scale")
            cards.read(folder, catalog.get(name, scale))
            parts.append(f"{scale}: finished, seed {', '.join(card['seeds'])}")
        except ValueError as error:
            parts.append(f"card not usable: {error}")
    for training in _seed_folders(folder):
        if not _finished(training):
            checkpoint = Checkpoints(training).newest_name()
            reached = f"{checkpoint[0]} epochs" if checkpoint else "no checkpoint"
            parts.append(f"{training.name} {'running' if _is_locked(training) else 'interrupted'}, {reached}")
    return "; ".join(parts)


def _of_seed(finished: Run, seed: int) -> Run:
    """The training of one seed of a recipe; the recipe's own folder where only its first seed's files are left."""
    folder = seed_folder(finished.folder, seed)
    if _finished(folder):
        return finished_run(folder)
    if finished.recipe.seed == seed:
        return finished
    raise FileNotFoundError(f"Expected the teacher's networks of seed {seed}. Received: no folder '{folder}'.")


def _command(recipe: Recipe, seeds: Sequence[int | str], note: str) -> str:
    """The command line that repeats a training."""
    noted = ["--note", note] if note else []
    options = ["--scale", recipe.scale, "--seeds", *map(str, seeds), *noted]
    return shlex.join(["python", "-m", "tfjointrd", "run", recipe.name, *options])


def _collect(folder: Path, recipe: Recipe, note: str) -> None:
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
    for training in (training for training, own in finished.items() if own is found[0]):
        _keep_small_files(training, folder, card["networks"])
    cards.write(folder, {**card, "command": _command(recipe, list(card["seeds"]), note)})


def _finished(folder: Path) -> bool:
    return (folder / cards.CARD).exists()


def _keep_small_files(training: Path, folder: Path, networks: Iterable[str]) -> None:
    for network in networks:
        for path in cards.network_files(training, network):
            if path.stat().st_size < LARGEST_FILE:
                shutil.copyfile(path, folder / f".{path.name}.part")
                os.replace(folder / f".{path.name}.part", folder / path.name)


def _seed_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("seed*") if re.fullmatch(r"seed\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[4:]))


def _is_locked(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            return False
    except (filelock.Timeout, OSError):
        return True
