"""Runs `.tflite` files to see how long they take and how much memory, in a process of their own or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfjointrd.export.interpreter import TFLiteModel

WARM_SECONDS = 0.2  # the first milliseconds of a process are slower, and a small network runs a hundred times in these
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Runs:
    """What a process measured.

    Attributes:
        milliseconds: Of each timed run of each file, `(files, runs)`.
        bytes: How much memory of its own the process took from before it loaded the files to after it had run them;
            `None` where the system does not say. Files are mapped into memory and do not count, copies of their
            weights do.
    """

    milliseconds: np.ndarray
    bytes: int | None


def run_files(
    paths: Sequence[str | os.PathLike], runs: int, warmup: int = 0, threads: int = 1, xnnpack: bool = True
) -> Runs:
    """Runs files in turns in a fresh process.

    Args:
        paths: The `.tflite` files.
        runs: Number of timed runs of each file.
        warmup: Least number of runs before them, which go on for 0.2 seconds; 0 for none.
        threads: Number of processor threads.
        xnnpack: Whether XNNPACK's kernels compute what they can, as by default; else LiteRT's own do.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a number is out of range, or `TFLiteModel` refuses a file.
        RuntimeError: If the process fails.
    """
    _check(runs, warmup)
    for path in paths:
        TFLiteModel(path, threads)  # whose errors are better read than those of another process
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    arguments = [[os.path.abspath(path) for path in paths], runs, warmup, threads, xnnpack]
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(arguments)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"The process that ran {', '.join(map(str, paths))} ended with {done.returncode}: {done.stderr[-500:]}"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return Runs(np.array(found["milliseconds"]), found["bytes"])


def measure(paths: Sequence[str | os.PathLike], runs: int, warmup: int, threads: int, xnnpack: bool = True) -> Runs:
    """The same in this process."""
    _check(runs, warmup)
    before = _own_bytes()
    models = [TFLiteModel(path, threads, xnnpack=xnnpack) for path in paths]
    for model in models:
        model.set_input(_image(model))
    began, done = time.perf_counter(), 0
    while done < warmup or warmup and time.perf_counter() - began < WARM_SECONDS:
        for model in models:
            model.interpreter.invoke()
        done += 1
    rounds = np.array([[_timed(model) for model in models] for _ in range(runs)])
    after = _own_bytes()
    return Runs(rounds.T, None if before is None or after is None else after - before)


def _check(runs: int, warmup: int) -> None:
    if not isinstance(runs, int) or runs < 1:
        raise ValueError(f"Expected `runs` to be a positive integer. Received: runs={runs}")
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"Expected `warmup` to be a non-negative integer. Received: warmup={warmup}")


def _image(model: TFLiteModel) -> np.ndarray:
    values = np.random.default_rng(0).random(model.input_shape, "float32")
    values *= 127
    return values.astype(model.input_type, copy=False)


def _timed(model: TFLiteModel) -> float:
    began = time.perf_counter()
    model.interpreter.invoke()
    return 1e3 * (time.perf_counter() - began)


def _own_bytes() -> int | None:
    """Memory of this process that is no file's."""
    if not _STATUS.is_file():
        return None
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    measured = measure(*json.loads(sys.argv[1]))
    print(json.dumps({"milliseconds": measured.milliseconds.tolist(), "bytes": measured.bytes}))
