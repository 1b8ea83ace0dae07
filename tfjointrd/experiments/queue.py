"""Many trainings one after the other: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, study
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.run_folder import is_locked, locked, seed_folder
from tfjointrd.experiments.signals import handling
from tfjointrd.progress import time_left

LEAST_FREE = 500_000_000  # bytes of the disk, for checkpoints and networks of a few trainings
LISTS = {"study": study.ORDER}
QUEUE = "queue"  # the folder in which a queue's lock and logs are
FINISHED, RUNNING, OTHER = "finished", "running", "not possible"
UNCOLLECTED = f"{FINISHED}, not yet in the card of its recipe"


@dataclass(frozen=True)
class Training:
    """One training of a queue.

    Attributes:
        recipe: Name of the recipe.
        seed: Its seed.
        scale: Its scale.
    """

    recipe: str
    seed: int
    scale: str

    def state(self, out: Path) -> str:
        """How far it is in the folder of all trainings: finished, running, interrupted or waiting.

        A training whose process ended before it wrote into the card of all seeds is finished too; running it writes
        that. A card of another training in its place is said, with what it is of.
        """
        recipe = catalog.get(self.recipe, self.scale, self.seed)
        folder = out / self.recipe
        training = seed_folder(folder, self.seed)
        for place, state in ((folder, FINISHED), (training, UNCOLLECTED)):
            if (place / cards.CARD).is_file():
                try:
                    if str(self.seed) in cards.read(place, recipe)["seeds"]:
                        return state
                except ValueError as error:
                    return f"{OTHER}: {error}"
        reached = Checkpoints(training).newest_name()
        epochs = f", {reached[0]} of {recipe.epochs} epochs" if reached else ""
        if is_locked(training):
            return f"{RUNNING}{epochs}"
        return f"interrupted{epochs}" if reached else "waiting"


def expand(
    names: Sequence[str], scale: str | None = None, seeds: Sequence[int] | None = None, data_file: str | None = None
) -> list[Training]:
    """The trainings of a queue in their order: all recipes with the lowest seed, then all with the next, and so on.

    Args:
        names: Names of recipes, or of lists of them: `study`.
        scale: Their scale; by default a list's own, or `laptop`.
        seeds: The seeds; by default 0, and for a list the list's own.
        data_file: The file from which all of them are to read their images.

    Raises:
        ValueError: If there is no such recipe, or not at this scale, a list has none of the seeds, or the recipes have
            several data sets, of which `data_file` can be one only.
        FileNotFoundError: If there is no such file.
    """
    listed = [name for name in names if name in LISTS]
    scale = scale or (listed[0] if listed else "laptop")
    found: list[Training] = []
    for name in names:
        entries = LISTS.get(name, [(name, seed) for seed in (seeds or (0,))])
        chosen = [(recipe, seed) for recipe, seed in entries if not seeds or seed in seeds]
        if not chosen:
            own = sorted({seed for _, seed in entries})
            raise ValueError(f"Expected `seeds` of the list '{name}', {own}. Received: seeds={list(seeds or ())}.")
        found += [Training(recipe, seed, scale) for recipe, seed in chosen]
    order = list(dict.fromkeys(found))
    if not listed:
        order.sort(key=lambda training: training.seed)
    sets = {catalog.get(training.recipe, training.scale, training.seed).data for training in order}
    if data_file is not None:
        if len(sets) > 1:
            raise ValueError(
                f"Expected `data_file` for recipes of one data set. Received: data_file='{data_file}' for "
                f"{', '.join(sorted(sets))}. Name the recipes of one of them."
            )
        if not Path(data_file).is_file():
            raise FileNotFoundError(f"Expected `data_file` to be an .npz file. Received: data_file='{data_file}'.")
    return order


def status(trainings: Sequence[Training], out: str | PathLike = "runs") -> str:
    """How far a queue's trainings are, a line each, and how many are finished.

    Args:
        trainings: The trainings; see `expand`.
        out: Folder of all recipes' folders.
    """
    states = [training.state(Path(out)) for training in trainings]
    width = max(len(training.recipe) for training in trainings)
    lines = [
        f"{training.recipe:{width}}  seed {training.seed}  {state}"
        for training, state in zip(trainings, states, strict=True)
    ]
    finished = sum(state.startswith(FINISHED) for state in states)
    return "\n".join([*lines, f"{finished} of {len(states)} trainings are finished."])


def run_queue(
    trainings: Sequence[Training], out: str | PathLike = "runs", options: Sequence[str] = (), quiet: bool = False
) -> None:
    """Runs trainings one after the other, each in a process of its own, and prints a line for each.

    What a training prints goes to `out/queue/RECIPE_seedN.log`. One that fails is reported, and the next one begins.
    The same call tries it again. One that runs in another process is left alone.

    Args:
        trainings: The trainings; see `expand`.
        out: Folder of all recipes' folders.
        options: Further options of `python -m tfjointrd run`.
        quiet: Whether to leave out which training begins, and when all will have ended.

    Raises:
        BlockingIOError: If another queue runs in the folder.
        OSError: If the disk has less than half a gigabyte left.
        RuntimeError: If trainings failed; the message names them.
        KeyboardInterrupt: If it is stopped; the training that runs takes a checkpoint first.
    """
    out, failed, took = Path(out), [], []
    with locked(out / QUEUE):
        for number, training in enumerate(trainings, start=1):
            place = f"[{number}/{len(trainings)}] {training.recipe} seed {training.seed}"
            state = training.state(out)
            if state == FINISHED or state.startswith(RUNNING):
                print(f"{place}: {'finished before' if state == FINISHED else f'{state}, elsewhere'}", flush=True)
                continue
            if state.startswith(OTHER):
                failed.append(training)
                print(f"{place}: {state}", flush=True)
                continue
            _check_space(out)
            began = time.monotonic()
            if not quiet:
                pace = ""
                if took:
                    left = 1 + sum(_to_do(other.state(out)) for other in trainings[number:])
                    pace = f"; if all take as long, {time_left(left * sum(took) / len(took))}"
                print(f"{place}: {state}, begins at {time.strftime('%H:%M')}{pace}", flush=True)
            log = out / QUEUE / f"{training.recipe}_seed{training.seed}.log"
            written = log.stat().st_size if log.exists() else 0
            code = _run(training, out, options, log)
            took.append(time.monotonic() - began)
            minutes = took[-1] / 60
            if code == 0:
                print(f"{place}: {_result(training, out)} after {minutes:.0f} minutes", flush=True)
            else:
                failed.append(training)
                lines = log.read_bytes()[written:].decode(errors="replace").strip().splitlines()
                reason = f": {lines[-1]}" if lines else ""
                print(f"{place}: failed with status {code} after {minutes:.0f} minutes{reason}", flush=True)
    if failed:
        names = ", ".join(f"{training.recipe} seed {training.seed}" for training in failed)
        raise RuntimeError(f"{len(failed)} of {len(trainings)} trainings failed: {names}. See {out / QUEUE}/*.log.")


def _to_do(state: str) -> bool:
    return state != FINISHED and not state.startswith((RUNNING, OTHER))


def _result(training: Training, out: Path) -> str:
    card = cards.read(out / training.recipe)
    accuracies = card["seeds"][str(training.seed)]["accuracy"]
    return ", ".join(f"{name} {100 * forms['keras']:.2f} %" for name, forms in accuracies.items())


def _check_space(out: Path) -> None:
    free = shutil.disk_usage(out).free
    if free < LEAST_FREE:
        raise OSError(
            f"Expected {LEAST_FREE / 1e6:.0f} MB free in '{out}' for checkpoints and networks. Received: "
            f"{free / 1e6:.0f} MB. Make room; the same command goes on from there."
        )


def command(training: Training, out: Path, options: Sequence[str] = ()) -> list[str]:
    """The command that runs one training by itself."""
    return [
        *(sys.executable, "-m", "tfjointrd", "run", training.recipe, "--scale", training.scale),
        *("--seeds", str(training.seed), "--out", str(out), *options),
    ]


def _run(training: Training, out: Path, options: Sequence[str], log: Path) -> int:
    """Runs one training in a process of its own, and hands on what stops this one."""
    with open(log, "ab") as file, handling(_stop):
        # In a session of its own it is told to stop once, by this process, and not by the terminal too: the second
        # time it would take no checkpoint.
        process = subprocess.Popen(
            command(training, out, options), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _stop(name: str) -> None:
    raise KeyboardInterrupt(name)
