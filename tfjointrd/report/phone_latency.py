"""What LiteRT's benchmark program measured on a phone."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of a run: microseconds; the last such line is that of the timed runs, the one ahead of it that of the warm-up.
_RUNS = re.compile(r"count=(\d+) .*?min=(\S+) max=(\S+) avg=(\S+) std=(\S+)(?:.*? p5=(\S+) median=(\S+) p95=(\S+))?")
_SUMMARY = {
    "mean_ms": r"Inference \(avg\):\s+([\d.]+) ms",
    "min_ms": r"Inference \(min\):\s+([\d.]+) ms",
    "max_ms": r"Inference \(max\):\s+([\d.]+) ms",
    "std_ms": r"Inference \(std\):\s+([\d.]+)",
    "init_ms": r"Model initialization:\s+([\d.]+) ms",
    "memory_mb": r"Overall footprint:\s+([\d.]+) MB",
}


@dataclass(frozen=True)
class PhoneLatency:
    """Milliseconds of one image on a phone, from many runs.

    Attributes:
        mean_ms: The mean of all runs.
        min_ms: The fastest run.
        max_ms: The slowest run.
        std_ms: The standard deviation.
        runs: Number of timed runs.
        median_ms: Half of the runs were faster; `None` if the program did not print it.
        init_ms: Milliseconds to load the file, likewise.
        memory_mb: By how much the process grew, in MiB, likewise.
    """

    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    runs: int
    median_ms: float | None = None
    init_ms: float | None = None
    memory_mb: float | None = None

    @property
    def typical_ms(self) -> float:
        """The median, or where there is none, the mean."""
        return self.mean_ms if self.median_ms is None else self.median_ms

    def __str__(self) -> str:
        """The figures in one line."""
        what = "mean" if self.median_ms is None else "median"
        return f"{self.typical_ms:.3f} ms {what}, {self.min_ms:.3f} to {self.max_ms:.3f}, {self.runs} runs"


def read_phone_latency(log: str | os.PathLike) -> PhoneLatency:
    """Reads what LiteRT's `benchmark_model` printed, e.g. through `litert benchmark` (litert-cli) or `adb logcat`.

    Args:
        log: The text, or a file of it.

    Raises:
        FileNotFoundError: If `log` is the name of no file, and no such text.
        ValueError: If it holds no times.

    Example:

    >>> log = "INFO: count=1054 first=1015 curr=942 min=910 max=1102 avg=947.132 std=23 p5=915 median=942 p95=991"
    >>> print(read_phone_latency(log))
    0.942 ms median, 0.910 to 1.102, 1054 runs
    """
    text = _text(log)
    found = {name: float(hit.group(1)) for name, form in _SUMMARY.items() if (hit := _last(form, text))}
    extra = {name: found[name] for name in ("init_ms", "memory_mb") if name in found}
    if hit := _last(_RUNS, text):
        count, *microseconds = hit.groups()
        times: list[Any] = [None if value is None else float(value) / 1e3 for value in microseconds]
        low, high, mean, std, _, median, _ = times
        return PhoneLatency(mean, low, high, std, int(count), median, **extra)
    runs = _last(r"Inference \(avg\):\s+[\d.]+ ms \((\d+) runs\)", text)
    if runs is None or not {"mean_ms", "min_ms", "max_ms", "std_ms"} <= set(found):
        raise ValueError(
            "Expected `log` to be what LiteRT's benchmark_model prints, with a line 'Inference (avg): ...' or "
            f"'count=... avg=...'. Received: {text.strip()[-200:]!r}"
        )
    return PhoneLatency(**found, runs=int(runs.group(1)))


def phone_timer(command: str) -> Callable[[str | os.PathLike], float]:
    """A function that times `.tflite` files by a program, for `layer_latencies(timer=...)`.

    Args:
        command: The program with its arguments, with `{path}` where the file's name belongs. It may be a program of
            another environment, as litert-cli needs one.

    Returns:
        A function from a file to milliseconds, the median or else the mean. It raises a `ValueError` with what the
        program printed, if that fails or prints no times.

    Raises:
        ValueError: If `command` has no `{path}`.

    Example:

    >>> timer = phone_timer("uvx --from litert-cli==0.2.1 litert benchmark {path} --android")
    """
    if "{path}" not in command:
        raise ValueError(f"Expected `command` with '{{path}}' where the file belongs. Received: command={command!r}")

    def milliseconds(path: str | os.PathLike) -> float:
        words = [word.replace("{path}", os.fspath(path)) for word in shlex.split(command)]
        try:
            ended = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
            )
        except OSError as error:
            raise ValueError(f"Expected `command` to be a program. Received: command={command!r} ({error})") from error
        if ended.returncode:
            raise ValueError(
                f"Expected `command` to succeed. Received: exit status {ended.returncode} of {shlex.join(words)}: "
                f"{ended.stdout.strip()[-500:]}"
            )
        return read_phone_latency(ended.stdout).typical_ms

    return milliseconds


def _text(log: str | os.PathLike) -> str:
    if isinstance(log, str) and ("\n" in log or "avg" in log):
        return log
    if not Path(log).is_file():
        raise FileNotFoundError(f"Expected `log` to be a file, or what the program printed. Received: {log!r}")
    return Path(log).read_text(encoding="utf-8", errors="replace")


def _last(form: str | re.Pattern, text: str) -> re.Match | None:
    return next(reversed(list(re.finditer(form, text))), None)
