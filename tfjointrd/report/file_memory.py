"""How much memory the tensors of a `.tflite` file take while it runs, from their lifetimes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tfjointrd.export.file_graph import FileGraph, read_file
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.extras import require
from tfjointrd.report.figures import save

_WIDTHS = {"FLOAT64": 8, "INT64": 8, "FLOAT32": 4, "INT32": 4, "UINT32": 4, "FLOAT16": 2, "INT16": 2, "UINT16": 2}
# What LiteRT 2.3 lets write over an input, seen by the addresses of tensors (tests/report/test_file_memory.py).
_IN_PLACE = ("ADD", "SUB", "MUL", "DIV", "SOFTMAX")
_SAME_BYTES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_ALIGNMENT, _SCALAR = 64, 4


@dataclass(frozen=True)
class LiveTensor:
    """A piece of memory, and the operators that use it.

    Attributes:
        name: The layers that compute it, or the operator where no layer is known.
        bytes: Its size.
        first: Number of the operator that writes it; 0 for the file's input.
        last: Number of the last operator that reads it.
        offset: Where it lies in the arena, in bytes.
        waits: Whether it stays while an operator runs that neither writes nor reads it, as a shortcut's tensor does.
    """

    name: str
    bytes: int
    first: int
    last: int
    offset: int
    waits: bool


@dataclass(frozen=True)
class FileMemory:
    """What the tensors of a file take while it runs. Printed, it is a short text.

    Attributes:
        path: The file.
        operators: The kind of each operator, in the order in which they run.
        tensors: All tensors that are computed, and the file's input. Those that share memory are one.
        live_bytes: Bytes of all tensors that live while an operator runs, for each operator.
        arena_bytes: What LiteRT's planner needs for them: at least the most of `live_bytes`, more where gaps remain.
    """

    path: Path
    operators: tuple[str, ...]
    tensors: tuple[LiveTensor, ...]
    live_bytes: tuple[int, ...]
    arena_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most bytes that live at a time."""
        return max(self.live_bytes)

    @property
    def peak_at(self) -> int:
        """Number of the first operator at which that many live."""
        return self.live_bytes.index(self.peak_bytes)

    def __str__(self) -> str:
        """The most, and what it consists of."""
        there = sorted((t for t in self.tensors if t.first <= self.peak_at <= t.last), key=lambda t: -t.bytes)
        lines = [
            f"{self.path}: {self.peak_bytes:,} bytes of tensors live at once, {self.arena_bytes:,} in LiteRT's arena",
            f"at operator {self.peak_at} of {len(self.operators)}, {self.operators[self.peak_at]}:",
            *(f"{t.bytes:>12,}  {t.name}{', which waits' if t.waits else ''}" for t in there),
        ]
        return "\n".join(lines)

    def figure(self, path: str | os.PathLike | None = None):
        """Draws each tensor as a rectangle: from the operator that writes it to the last that reads it.

        The height is the size, and the vertical position is that in the arena. Tensors that wait while others are
        computed, such as a shortcut's, have their own colour.

        Args:
            path: Where to write a PNG; its folder is made.

        Returns:
            The matplotlib `Axes`.
        """
        seaborn = require("seaborn")
        Figure = require("matplotlib.figure").Figure
        Patch = require("matplotlib.patches").Patch
        Rectangle = require("matplotlib.patches").Rectangle
        short, long = seaborn.color_palette("colorblind")[0], seaborn.color_palette("colorblind")[3]
        with seaborn.axes_style("whitegrid", {"grid.color": "0.9"}), seaborn.plotting_context("notebook"):
            figure = Figure(figsize=(8, 3.6), dpi=160, layout="constrained")
            axes = figure.subplots()
            for t in self.tensors:
                color = long if t.waits else short
                place, length = (t.first - 0.5, t.offset / 1024), t.last - t.first + 1
                axes.add_patch(Rectangle(place, length, t.bytes / 1024, color=color, alpha=0.6, ec="white", lw=0.6))
            steps = [live / 1024 for live in self.live_bytes]
            axes.step(range(len(steps)), steps, where="mid", color="0.2", lw=1.2)
            axes.set_xlim(-0.5, len(steps) - 0.5)
            axes.set_ylim(0, 1.05 * self.arena_bytes / 1024)
            axes.set_xlabel("Operator")
            axes.set_ylabel("KiB")
            axes.set_title(f"{self.path.name}: {self.peak_bytes / 1024:,.0f} KiB live at most", fontsize=11)
            marks = [Patch(color=short, alpha=0.6), Patch(color=long, alpha=0.6), axes.lines[0]]
            names = ["read at once", "waits meanwhile", "live in all"]
            figure.legend(marks, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
            seaborn.despine(ax=axes)
        save(figure, path)
        return axes


def file_memory(path: str | os.PathLike, in_place: bool = True) -> FileMemory:
    """Says how much memory the tensors of a `.tflite` file take while it runs, operator by operator.

    A tensor lives from the operator that writes it to the last one that reads it, the file's inputs and outputs to the
    end. Weights are not counted, since they stay in the file. Memory that kernels keep for themselves is not counted
    either. `runtime_memory` measures the whole.

    Args:
        path: The file.
        in_place: Whether additions, subtractions, products, quotients and softmax write over an input of the same size
            that no later operator needs, as they do in LiteRT. With `False` they write to memory of their own, as on
            hardware that cannot do that, and as the Residual Distillation paper counts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole `.tflite` file, or does not run.

    Example:

    >>> memory = file_memory("resnet20.tflite")
    >>> memory.peak_bytes <= memory.arena_bytes
    True
    >>> axes = memory.figure("resnet20_memory.png")

    Reference:
        Efficient Memory Management for Deep Neural Net Inference (https://arxiv.org/abs/2001.03288), section 5.2, for
        the arena: tensors from the largest to the smallest, each in the smallest gap that holds it.
    """
    TFLiteModel(path)  # which says what is wrong with a file
    return memory_of(read_file(Path(path).read_bytes()), Path(path), in_place)


def memory_of(graph: FileGraph, path: Path, in_place: bool = True) -> FileMemory:
    """The same for a graph that was read from a file."""
    owner = _owners(graph, in_place)
    spans = _spans(graph, owner)
    sizes = {tensor: bytes_of(graph, tensor) for tensor in spans}
    offsets, arena = _placed(spans, sizes, len(graph.operators))
    users = _users(graph, owner)
    tensors = tuple(
        LiveTensor(
            name=_name(graph, tensor),
            bytes=sizes[tensor],
            first=first,
            last=last,
            offset=offsets[tensor],
            waits=tensor not in graph.inputs and any(step not in users[tensor] for step in range(first, last + 1)),
        )
        for tensor, (first, last) in spans.items()
    )
    live = [sum(t.bytes for t in tensors if t.first <= step <= t.last) for step in range(len(graph.operators))]
    kinds = tuple(step.kind for step in graph.operators)
    return FileMemory(path, kinds, tensors, tuple(live), arena)


def bytes_of(graph: FileGraph, tensor: int) -> int:
    """The bytes that a tensor takes when it is computed."""
    count = 1
    for size in graph.shapes[tensor]:
        count *= size
    return count * _WIDTHS.get(graph.types[tensor], 1)


def _owners(graph: FileGraph, in_place: bool) -> dict[int, int]:
    """For each tensor that is computed the one whose memory it takes; itself where it has its own."""
    readers: dict[int, int] = {}
    for step in graph.operators:
        for tensor in step.inputs:
            readers[tensor] = readers.get(tensor, 0) + 1
    owner = {tensor: tensor for tensor in graph.inputs}
    for step in graph.operators:
        owner |= {tensor: tensor for tensor in step.outputs}
        output = step.outputs[0]
        if output in graph.outputs:
            continue
        for tensor in step.inputs[:2]:
            free = tensor not in graph.inputs and tensor not in graph.outputs
            size = bytes_of(graph, tensor)
            fits = size == bytes_of(graph, output) and size > _SCALAR and readers[tensor] == 1
            if free and (step.kind in _SAME_BYTES or in_place and step.kind in _IN_PLACE and fits):
                owner[output] = owner[tensor]
                break
    return owner


def _users(graph: FileGraph, owner: dict[int, int]) -> dict[int, set[int]]:
    """The operators that write or read each piece of memory."""
    users: dict[int, set[int]] = {}
    for number, step in enumerate(graph.operators):
        for tensor in (*step.inputs, *step.outputs):
            users.setdefault(owner[tensor], set()).add(number)
    return users


def _spans(graph: FileGraph, owner: dict[int, int]) -> dict[int, tuple[int, int]]:
    """For each piece of memory the first and the last operator at which it lives."""
    end = len(graph.operators) - 1
    spans = {tensor: (min(users), max(users)) for tensor, users in _users(graph, owner).items()}
    for tensor in graph.inputs:
        spans[tensor] = (0, end)
    for tensor in graph.outputs:
        spans[owner[tensor]] = (spans[owner[tensor]][0], end)
    return spans


def _placed(spans: dict[int, tuple[int, int]], sizes: dict[int, int], steps: int) -> tuple[dict[int, int], int]:
    """Where each piece lies, and how many bytes there are in all."""
    whole = (0, steps - 1)
    order = sorted(spans, key=lambda t: (spans[t] != whole, -sizes[t] if spans[t] != whole else 0, spans[t][0], t))
    offsets: dict[int, int] = {}
    for tensor in order:
        first, last = spans[tensor]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if spans[other][0] <= last and first <= spans[other][1]
        )
        best, smallest, end = None, None, 0
        for start, stop in taken:
            gap = start - end
            if gap >= sizes[tensor] and (smallest is None or gap < smallest):
                best, smallest = end, gap
            end = max(end, -(-stop // _ALIGNMENT) * _ALIGNMENT)
        offsets[tensor] = end if best is None else best
    return offsets, max(offsets[tensor] + sizes[tensor] for tensor in offsets)


def _name(graph: FileGraph, tensor: int) -> str:
    step = graph.makers.get(tensor)
    if step is None:
        return "input"
    return ", ".join(step.layers) or step.kind
