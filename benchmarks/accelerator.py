r"""Several trainings at once on one accelerator, under one time limit, to go on another time.

    export KERAS_BACKEND=jax
    python benchmarks/accelerator.py resnet20_cifar10 plain_resnet20_cifar10 an_resnet20_a2_cifar10:1 \
        --scale paper --data-file cifar10.npz --minutes 8 --tar rows.tar
    python benchmarks/accelerator.py ... --resume rows.tar --tar rows.tar                         goes on from there

Small networks leave most of a large accelerator idle, so that several trainings, each a process of its own, take little
more time than one. A row is the name of a recipe, with `:SEED` behind it for a seed other than 0. Rows begin in the
order given, as many at a time as `--processes` says; one whose teacher or widths another row trains waits for it, and
teachers that are not among the rows are added. When the time is over, each process takes a checkpoint and ends.
Checkpoints, cards and networks are then packed into one tar file, which needs no compression.

Neither TensorFlow nor tensorflow-datasets has to be installed: with `--data-file` the recipes' images come from an
`.npz` file with the arrays x_train, y_train, x_test and y_test.

Printed: for each row how far it is, the median seconds of an epoch (validation and checkpoint included) while all
processes were running, training images a second, and how much of the accelerator's matrix-product rate that is: three
times the forward pass's multiply-accumulates, two operations each, by the rate of a large float32 product, measured.
Another row's time on the same accelerator is in each row's seconds, so the sum over the rows is what it did in all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfjointrd.experiments import catalog
from tfjointrd.experiments.checkpoint import Checkpoints
from tfjointrd.experiments.queue import FINISHED, Training, command
from tfjointrd.experiments.recipes import RANDOM, SCALES
from tfjointrd.experiments.run_folder import seed_folder

MPS = "nvidia-cuda-mps-control"  # lets kernels of several processes run side by side


@dataclass
class Row:
    """A training, its process, and when its epochs ended."""

    training: Training
    needs: list[Training]
    process: subprocess.Popen | None = None
    epochs: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row as it is given on the command line."""
        return f"{self.training.recipe}:{self.training.seed}"

    def watch(self, out: Path) -> None:
        """Notes when an epoch's checkpoint came."""
        reached = Checkpoints(seed_folder(out / self.training.recipe, self.training.seed)).newest_name()
        if reached and reached[1] == 0:
            self.epochs.setdefault(reached[0], time.monotonic())

    def seconds(self) -> float | None:
        """Median seconds of an epoch; the first one watched is left out, for it compiles."""
        ends = sorted(self.epochs.items())[1:]
        steps = [
            (later - earlier) / (epoch - before)
            for (before, earlier), (epoch, later) in zip(ends[:-1], ends[1:], strict=True)
        ]
        return statistics.median(steps) if steps else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows, and packs what they leave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="RECIPE or RECIPE:SEED")
    parser.add_argument("--scale", choices=SCALES, default="paper")
    parser.add_argument("--data-file", help=".npz file of the recipes' data set")
    parser.add_argument("--out", default="accelerator_runs", help="folder of the trainings")
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop, everything included")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds of these that are left for checkpoints")
    parser.add_argument("--processes", type=int, default=6, help="trainings at a time")
    parser.add_argument("--mps", action="store_true", help=f"start {MPS} for the time of the run, where there is one")
    parser.add_argument("--nondeterministic", action="store_true", help="as for `python -m tfjointrd run`")
    parser.add_argument("--resume", help="tar file of an earlier run; may be missing")
    parser.add_argument("--tar", help="tar file to pack the trainings into")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.resume and Path(options.resume).is_file():
        with tarfile.open(options.resume) as tar:
            tar.extractall(out, filter="data")
    rows = [Row(training, _needs(training)) for training in _with_needs(options.rows, options.scale)]
    rate = _matrix_rate()
    server = _start_mps() if options.mps else None
    try:
        _run(rows, out, options, end)
    finally:
        for row in rows:
            if row.process and row.process.poll() is None:
                row.process.kill()
                row.process.wait()
        if server:
            subprocess.run([MPS], input=b"quit\n", check=False)
    if options.tar:
        _pack(out, Path(options.tar))
    _report(rows, out, rate, options.processes)
    return 0


def _with_needs(names: Sequence[str], scale: str) -> list[Training]:
    """The rows in order, each behind what it needs."""
    found: list[Training] = []
    for name in names:
        recipe, _, seed = name.partition(":")
        training = Training(recipe, int(seed or 0), scale)
        found += [*_all_needs(training), training]
    return list(dict.fromkeys(found))


def _needs(training: Training) -> list[Training]:
    recipe = catalog.get(training.recipe, training.scale, training.seed)
    needed = [name for name in map(recipe.get, ("teacher", "widths")) if name not in (None, RANDOM)]
    return [Training(name, training.seed, training.scale) for name in needed]


def _all_needs(training: Training) -> list[Training]:
    needed = _needs(training)
    return [*(further for one in needed for further in _all_needs(one)), *needed]


def _run(rows: list[Row], out: Path, options, end: float) -> None:
    """Keeps as many processes busy as there may be, until the time is over or all rows are done."""
    while time.monotonic() < end - options.grace:
        running = [row for row in rows if row.process and row.process.poll() is None]
        waiting = [row for row in rows if row.process is None and row.training.state(out) != FINISHED]
        ready = [row for row in waiting if all(needed.state(out) == FINISHED for needed in row.needs)]
        for row in ready[: max(0, options.processes - len(running))]:
            row.process = _start(row, out, options)
            running.append(row)
        for row in running:
            row.watch(out)
        if not running:
            break
        time.sleep(0.2)
    for row in rows:
        if row.process and row.process.poll() is None:
            row.process.send_signal(signal.SIGTERM)
    for row in rows:
        if row.process and row.process.poll() is None:
            try:
                row.process.wait(max(1.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                row.process.kill()


def _start(row: Row, out: Path, options) -> subprocess.Popen:
    training = row.training
    own = ["--data-file", options.data_file] if options.data_file else []
    own += ["--nondeterministic"] if options.nondeterministic else []
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    with open(out / f"{training.recipe}_seed{training.seed}.log", "ab") as log:
        return subprocess.Popen(command(training, out, own), stdout=log, stderr=subprocess.STDOUT, env=environment)


def _start_mps() -> bool:
    """Starts the service for the time of this run; whether it could be."""
    for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"):
        os.environ.setdefault(name, f"/tmp/{name.lower()}")
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([MPS, "-d"], check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"):
            os.environ.pop(name)
        print(f"Without {MPS}: {error}")
        return False
    return True


def _matrix_rate() -> tuple[str, float]:
    """The accelerator's name, and the operations a second of a large float32 product there, in a process of its own."""
    program = (
        "import json, time, jax, jax.numpy as jnp\n"
        "device = jax.devices()[0]\n"
        "size = 1024 if device.platform == 'cpu' else 8192\n"
        "a = jax.random.normal(jax.random.key(0), (size, size))\n"
        "product = jax.jit(lambda a: a @ a)\n"
        "product(a).block_until_ready()\n"
        "began = time.perf_counter()\n"
        "for _ in range(10): result = product(a)\n"
        "result.block_until_ready()\n"
        "print(json.dumps([device.device_kind, 10 * 2 * size**3 / (time.perf_counter() - began)]))\n"
    )
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if found.returncode:
        raise RuntimeError(f"Expected JAX to compute here. Received: {found.stderr.strip().splitlines()[-1]}")
    return tuple(json.loads(found.stdout.strip().splitlines()[-1]))


def _pack(out: Path, path: Path) -> None:
    """Writes cards, networks and the newest checkpoint of each training; no locks, older checkpoints and copies."""
    part = path.with_name(f".{path.name}.part")
    left = {old for folder in out.glob("*/seed*") for old in sorted(folder.glob("checkpoint_*.npz"))[:-1]}
    left |= {network for network in out.glob("*/*.keras")}  # those of the first seed, which are in its folder too
    with tarfile.open(part, "w") as tar:
        for file in sorted(out.rglob("*")):
            if file.is_file() and file not in left and not file.name.startswith("."):
                tar.add(file, file.relative_to(out))
    os.replace(part, path)


def _report(rows: list[Row], out: Path, rate: tuple[str, float], processes: int) -> None:
    """Prints the table."""
    device, product = rate
    print(f"{device}, float32 matrix product {product / 1e12:.1f} TFLOP/s, up to {processes} processes at a time")
    total, share = 0.0, 0.0
    for row in rows:
        seconds, state = row.seconds(), row.training.state(out)
        line = f"{row.name:45} {state}"
        if seconds:
            images, macs = _images_and_macs(row.training)
            done = images / seconds
            part = 6 * macs * done / product
            total, share = total + done, share + part
            line += f"; an epoch {seconds:.2f} s, {done:,.0f} images/s, {100 * part:.1f} % of the product's rate"
        if row.process and row.process.returncode and state != FINISHED:
            log = out / f"{row.training.recipe}_seed{row.training.seed}.log"
            line += f"; ended with {row.process.returncode}: {_last_line(log)}"
        print(line)
    print(f"sum of the rows' rates: {total:,.0f} images/s, {100 * share:.1f} % of the product's rate")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _images_and_macs(training: Training) -> tuple[int, int]:
    """Training images of an epoch, and the forward pass's multiply-accumulates of the recipe's network as it is."""
    from tfjointrd import data, report
    from tfjointrd.experiments.networks import build_network

    recipe = catalog.get(training.recipe, training.scale, training.seed)
    info = data.info(recipe.data, image_size=recipe.image_size)
    images = round((info.train_size or 0) * (1 - recipe.held_out_for_validation))
    images = min(images, recipe.images or images)
    return images, report.profile(build_network(recipe.network, info)).macs


if __name__ == "__main__":
    sys.exit(main())
