"""How long the layers of a network take on this machine at the widths that a search may choose."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np

from tfjointrd import export
from tfjointrd.export.timed_runs import measure
from tfjointrd.files import write_json
from tfjointrd.layers.gates import check_alphas
from tfjointrd.progress import Line, Steps
from tfjointrd.surgery.gated import GatedGraph, candidates_of
from tfjointrd.surgery.graph import Call, Graph, LayerSpec
from tfjointrd.surgery.read_graph import read_graph

IMAGES = 16  # to calibrate int8 on
WARM_UP = 10  # runs that do not count


def layer_latencies(
    model: keras.Model,
    alphas: Sequence[float] = (1, 2, 4),
    keep: Iterable[str] | None = None,
    *,
    round_to: int = 8,
    quantization: str | None = None,
    threads: int = 1,
    runs: int = 50,
    timer: Callable[[Path], float] | None = None,
    path: str | os.PathLike | None = None,
    verbose: bool | int = False,
) -> dict[str, list[list[float]]]:
    """Times each layer that holds a kernel, in a `.tflite` file of its own, at each width of its input and output.

    It takes a few seconds for each distinct layer. The sum of these times is not a network's latency, which includes
    activations and additions, and layers that the runtime fuses. The sum serves to rank choices of widths. You can use
    a phone's own figures instead: the form is plain JSON.

    Args:
        model: The network to be searched.
        alphas: As for `tfjointrd.search`, and so are `keep` and `round_to`.
        keep: Layers that stay full.
        round_to: Multiple that widths are rounded to.
        quantization: Number format of the layers' files, as for `export.tflite`; `None` for float32.
        threads: Number of processor threads.
        runs: Number of timed runs; the median counts.
        timer: Function from a `.tflite` file to milliseconds, such as `report.phone_timer(...)`; by default it is timed
            on this machine, with `threads` and `runs`.
        path: Where to write the table as JSON; its folder is made.
        verbose: Whether to print which layer is timed, and when all will be.

    Returns:
        Layer name -> `[input channels, output channels, milliseconds]` for each pair of widths, which
        `search(latency_table=...)` takes.

    Raises:
        ValueError: As for `search`; or if an image size is not known, or `path` is a folder.

    Example:

    >>> table = layer_latencies(network, path="this_machine.json")
    >>> dan = tfjointrd.search(network, target_latency_ms=0.3, latency_table="this_machine.json")
    """
    if path is not None and Path(path).is_dir():
        raise ValueError(f"Expected `path` to be a file. Received: path='{path}', a folder.")
    graph, alphas = read_graph(model), check_alphas(alphas)
    graph.check_sizes("for its layers to be timed")
    gated = GatedGraph(graph, candidates_of(graph, alphas, keep, round_to)[0], alphas)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # after the checks, before the long work
    calls = list(gated.kernel_calls())
    steps, line = Steps(len(calls)), Line(bool(verbose))
    table: dict[str, list[list[float]]] = {}
    timed: dict[str, float] = {}
    for call in calls:
        rows: dict[tuple[int, int], float] = {}
        for (i, j), spec in gated.forms(call).items():
            widths = len(gated.candidates[i][call.inputs[0]]), len(gated.candidates[j][call.output])
            network = _alone(graph, call, spec, widths[0])
            key = repr((spec.cls, {**spec.config, "name": ""}, network.input_shape))
            if key not in timed:
                timed[key] = _milliseconds(network, quantization, timer or partial(_here, runs=runs, threads=threads))
            rows[widths] = timed[key]
        table[call.layer] = [[ins, outs, value] for (ins, outs), value in rows.items()]
        line.write(f"timing layers: {steps.next()}, {call.layer}")
    line.end()
    if path is not None:
        write_json(path, table, indent=1)
    return table


def _alone(graph: Graph, call: Call, spec: LayerSpec, channels: int) -> keras.Model:
    """A network of this one layer."""
    inputs = keras.Input((*graph.shapes[call.inputs[0]][1:-1], channels))
    return keras.Model(inputs, spec.make()(inputs), name="layer")


def _here(path: Path, runs: int, threads: int) -> float:
    """Milliseconds of a file on this machine."""
    return float(np.median(measure([path], runs, WARM_UP, threads).milliseconds))


def _milliseconds(network: keras.Model, quantization: str | None, timer: Callable[[Path], float]) -> float:
    images = np.random.default_rng(0).normal(size=(IMAGES, *network.input_shape[1:])).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.tflite"
        export.tflite(network, path, quantization, representative_data=images, min_agreement=0.0, max_error=np.inf)
        return float(timer(path))
