"""How long a `.tflite` file takes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfjointrd.export.interpreter import TFLiteModel


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image, from many runs.

    Attributes:
        median_ms: Half of the runs were faster.
        p90_ms: Nine of ten runs were faster.
        min_ms: The fastest run.
        threads: Number of processor threads.
        runs: Number of timed runs.
    """

    median_ms: float
    p90_ms: float
    min_ms: float
    threads: int
    runs: int

    def __str__(self) -> str:
        """The figures in one line."""
        return f"{self.median_ms:.3f} ms median, {self.p90_ms:.3f} ms p90, {self.threads} thread(s), {self.runs} runs"


def latency(path: str | os.PathLike, threads: int = 1, runs: int = 50, warmup: int = 10) -> Latency:
    """Times a `.tflite` file in the LiteRT interpreter, one image at a time.

    Only the network's own run is timed, not the copying of the image. The figures are this machine's: they rank
    networks, but a phone's processor or accelerator has to be measured itself.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads.
        runs: Number of timed runs.
        warmup: Number of runs before them, while caches fill.

    Returns:
        A `Latency`.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> latency("resnet20_int8.tflite", threads=2).median_ms > 0
    True
    """
    return latencies([path], threads, runs, warmup)[0]


def latencies(paths: Sequence[str | os.PathLike], threads: int = 1, runs: int = 50, warmup: int = 10) -> list[Latency]:
    """Times several `.tflite` files side by side: they take turns, so that what else the machine does meets all alike.

    Args:
        paths: The `.tflite` files.
        threads: As for `latency`, and so are `runs`, of each file, and `warmup`.
        runs: Number of timed runs.
        warmup: Number of runs before them.

    Returns:
        One `Latency` a file.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> resnet, plain = latencies(["resnet20.tflite", "plain20.tflite"])
    >>> ratio = plain.median_ms / resnet.median_ms
    """
    if not isinstance(runs, int) or runs < 1:
        raise ValueError(f"Expected `runs` to be a positive integer. Received: runs={runs}")
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"Expected `warmup` to be a non-negative integer. Received: warmup={warmup}")
    models = [TFLiteModel(path, threads=threads) for path in paths]
    for model in models:
        image = np.random.default_rng(0).uniform(0, 127, model.input_shape).astype(model.input_type)
        model.set_input(image)
    rounds = np.array([[_timed(model) for model in models] for _ in range(warmup + runs)][warmup:])
    return [
        Latency(
            median_ms=float(np.median(milliseconds)),
            p90_ms=float(np.percentile(milliseconds, 90)),
            min_ms=float(milliseconds.min()),
            threads=threads,
            runs=runs,
        )
        for milliseconds in rounds.T
    ]


def _timed(model: TFLiteModel) -> float:
    began = time.perf_counter()
    model.interpreter.invoke()
    return 1e3 * (time.perf_counter() - began)
