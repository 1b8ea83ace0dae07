"""Many trainings one after the other: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog, study
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.run_folder import is_locked, locked, seed_folder

LEAST_FREE = 500_000_000  # bytes of the disk, for checkpoints and networks of a few trainings
LISTS = {"study": study.ORDER}
QUEUE = "queue"  # the folder in which a queue's lock and logs are


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

        Raises:
            ValueError: If there is a card, but of other settings.
        """
        recipe = catalog.get(self.recipe, self.scale, self.seed)
        folder = out / self.recipe
        training = seed_folder(folder, self.seed)
        if (folder / cards.CARD).is_file() and str(self.seed) in cards.read(folder, recipe)["seeds"]:
            return "finished"
        reached = Checkpoints(training).newest_name()
        epochs = f", {reached[0]} of {recipe.epochs} epochs" if reached else ""
        if is_locked(training):
            return f"running{epochs}"
        return f"interrupted{epochs}" if reached else "waiting"


def expand(names: Sequence[str], scale: str, seeds: Sequence[int] | None = None) -> list[Training]:
    """The trainings of a queue in their order: all recipes with the first seed, then all with the second, and so on.

    Args:
        names: Names of recipes, or of lists of them: `study`.
        scale: Their scale.
        seeds: The seeds; by default 0, and for a list the list's own.

    Raises:
        ValueError: If there is no such recipe, or not at this scale.
    """
    found: list[Training] = []
    for name in names:
        entries = LISTS.get(name)
        if entries is None:
            entries = [(name, seed) for seed in (seeds or (0,))]
        elif seeds:
            entries = [(recipe, seed) for recipe, seed in entries if seed in seeds]
        found += [Training(recipe, seed, scale) for recipe, seed in entries]
    order = list(dict.fromkeys(found))
    if not any(name in LISTS for name in names):
        order.sort(key=lambda training: training.seed)
    for training in order:
        catalog.get(training.recipe, training.scale, training.seed)
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
    return "\n".join([*lines, f"{states.count('finished')} of {len(states)} trainings are finished."])


def run_queue(trainings: Sequence[Training], out: str | PathLike = "runs", options: Sequence[str] = ()) -> None:
    """Runs trainings one after the other, each in a process of its own, and prints a line for each.

    What a training prints goes to `out/queue/RECIPE_seedN.log`. One that fails is reported, and the next one begins.
    The same call tries it again.

    Args:
        trainings: The trainings; see `expand`.
        out: Folder of all recipes' folders.
        options: Further options of `python -m tfjointrd run`.

    Raises:
        BlockingIOError: If another queue runs in the folder.
        OSError: If the disk has less than half a gigabyte left.
        RuntimeError: If trainings failed; the message names them.
        KeyboardInterrupt: If it is stopped; the training that runs takes a checkpoint first.
    """
    out, failed = Path(out), []
    with locked(out / QUEUE):
        for number, training in enumerate(trainings, start=1):
            place = f"[{number}/{len(trainings)}] {training.recipe} seed {training.seed}"
            if training.state(out) == "finished":
                print(f"{place}: finished before", flush=True)
                continue
            _check_space(out)
            began = time.monotonic()
            print(f"{place}: {training.state(out)}, begins at {time.strftime('%H:%M')}", flush=True)
            log = out / QUEUE / f"{training.recipe}_seed{training.seed}.log"
            code = _run(training, out, options, log)
            minutes = (time.monotonic() - began) / 60
            if code == 0:
                print(f"{place}: {_result(training, out)} after {minutes:.0f} minutes", flush=True)
            else:
                failed.append(training)
                lines = log.read_text(errors="replace").strip().splitlines()
                print(f"{place}: failed after {minutes:.0f} minutes: {lines[-1] if lines else code}", flush=True)
    if failed:
        names = ", ".join(f"{training.recipe} seed {training.seed}" for training in failed)
        raise RuntimeError(f"{len(failed)} of {len(trainings)} trainings failed: {names}. See {out / QUEUE}/*.log.")


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


def _run(training: Training, out: Path, options: Sequence[str], log: Path) -> int:
    """Runs one training in a process of its own, and hands on what stops this one."""
    command = [sys.executable, "-m", "tfjointrd", "run", training.recipe, "--scale", training.scale]
    command += ["--seeds", str(training.seed), "--out", str(out), "--quiet", *options]
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        with _stopping(process):
            return process.wait()


@contextmanager
def _stopping(process: subprocess.Popen):
    """Lets the training take a checkpoint when this process is told to stop."""

    def stop(number, frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            process.wait()
