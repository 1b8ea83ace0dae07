"""How long a `.tflite` file takes on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfjointrd.export.timed_runs import run_files


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image, from many runs.

    Attributes:
        median_ms: Half of the runs were faster.
        p10_ms: One of ten runs was faster.
        p90_ms: Nine of ten runs were faster.
        min_ms: The fastest run.
        threads: Number of processor threads.
        runs: Number of timed runs.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    threads: int
    runs: int

    def __str__(self) -> str:
        """The figures in one line."""
        spread = f"{self.p10_ms:.3f} to {self.p90_ms:.3f} from p10 to p90"
        return f"{self.median_ms:.3f} ms median, {spread}, {self.threads} thread(s), {self.runs} runs"


def latency(
    path: str | os.PathLike, threads: int = 1, runs: int = 50, warmup: int = 10, xnnpack: bool = True
) -> Latency:
    """Times a `.tflite` file in the LiteRT interpreter, one image at a time, in a process of its own.

    Only the network's own run is timed, not the copying of the image. The figures are this machine's: they rank
    networks, but a phone's processor or accelerator has to be measured itself.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads.
        runs: Number of timed runs.
        warmup: Least number of runs before the timed ones, while caches fill. They take 0.2 seconds at least; 0 for
            none.
        xnnpack: Whether XNNPACK's kernels compute what they can, as by default; else LiteRT's own do.

    Returns:
        A `Latency`.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> latency("resnet20_int8.tflite", threads=2).median_ms > 0
    True
    """
    return latencies([path], threads, runs, warmup, xnnpack)[0]


def latencies(
    paths: Sequence[str | os.PathLike], threads: int = 1, runs: int = 50, warmup: int = 10, xnnpack: bool = True
) -> list[Latency]:
    """Times several `.tflite` files side by side: they take turns, so that other work of the machine slows all alike.

    Args:
        paths: The `.tflite` files.
        threads: See `latency`.
        runs: Number of timed runs of each file.
        warmup: See `latency`.
        xnnpack: See `latency`.

    Returns:
        One `Latency` a file.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> resnet, plain = latencies(["resnet20.tflite", "plain20.tflite"])
    >>> ratio = plain.median_ms / resnet.median_ms
    """
    found = run_files(paths, runs, warmup, threads, xnnpack)
    return [
        Latency(
            median_ms=float(np.median(milliseconds)),
            p10_ms=float(np.percentile(milliseconds, 10)),
            p90_ms=float(np.percentile(milliseconds, 90)),
            min_ms=float(milliseconds.min()),
            threads=threads,
            runs=runs,
        )
        for milliseconds in found.milliseconds
    ]


def runtime_memory(path: str | os.PathLike, threads: int = 1, xnnpack: bool = True) -> int:
    """Measures how much memory LiteRT takes to load and run a `.tflite` file, in a process of its own.

    It includes tensors, the memory that kernels keep for themselves, and their packed copies of the weights. It does
    not include the file itself, which is mapped into memory. The figure is this machine's and grows by pages, so that
    files of small networks differ by chance; `file_memory` counts tensors exactly.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads.
        xnnpack: As for `latency`.

    Returns:
        Bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole `.tflite` file.
        OSError: If the system does not say how much memory a process has; Linux does.

    Example:

    >>> runtime_memory("resnet20.tflite") > 0
    True
    """
    found = run_files([path], runs=2, threads=threads, xnnpack=xnnpack).bytes
    if found is None:
        raise OSError("Expected a system with /proc/self/status, which says how much memory a process has: Linux.")
    return found
