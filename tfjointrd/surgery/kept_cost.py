"""What a pruned network costs, as a function of how many units each tied set keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfjointrd.surgery.budgets import never_faster
from tfjointrd.surgery.cost_form import CostForm, add_macs, add_parameters
from tfjointrd.surgery.graph import Ref
from tfjointrd.surgery.tied_sets import TiedSets

Cost = Callable[[Sequence[int]], float]  # of the number of units that each set keeps


class _Form(CostForm):
    """A cost in the numbers of units that the sets keep."""

    def __init__(self, sets: TiedSets):
        super().__init__(sets.channels.graph, 1 + len(sets))
        self.sets = sets
        self._widths: dict[Ref | None, np.ndarray] = {None: np.eye(self.size)[0]}

    def width(self, ref: Ref | None) -> np.ndarray:
        """`(1 + sets,)`: the channels of no set, then how many each unit of a set has."""
        if ref is not None and ref not in self._widths:
            result = np.zeros(self.size)
            result[0] = self.graph.shapes[ref][-1]
            for number, places in self.sets.positions(ref).items():
                result[1 + number] = places.shape[1]
                result[0] -= places.size
            self._widths[ref] = result
        return self._widths[ref]

    def cost(self) -> Cost:
        """The quadratic form as a function."""

        def of(counts: Sequence[int]) -> float:
            values = np.concatenate([[1.0], counts])
            return float(values @ self.form @ values)

        return of


def macs(sets: TiedSets) -> Cost:
    """Multiply-accumulates for one image."""
    return add_macs(_Form(sets)).cost()


def parameters(sets: TiedSets) -> Cost:
    """Number of weights."""
    return add_parameters(_Form(sets)).cost()


def latency(sets: TiedSets, table: Mapping[str, Sequence[Sequence[float]]]) -> Cost:
    """Milliseconds of one image: the sum over the layers that hold a kernel, as for `search`.

    Between measured widths it is interpolated, along the output's and then along the input's; where a table has one
    output width for each input width, along both at once. Widths beyond the measured ones count as the nearest. Widths
    of which a narrower one was measured to take longer count as long as that one.

    Raises:
        ValueError: If the table lacks a layer.
    """
    form, graph = _Form(sets), sets.channels.graph
    kernels = graph.kernel_layers()
    layers: list[tuple[int, np.ndarray, np.ndarray, Callable[[float, float], float]]] = []
    for layer in dict.fromkeys(call.layer for call in graph.calls if call.layer in kernels):
        calls = [call for call in graph.calls if call.layer == layer]
        if not table.get(layer):
            raise ValueError(f"Expected `latency_table` with all layers. Received: one without '{layer}'.")
        ins, outs = (form.width(ref) for ref in (calls[0].inputs[0], calls[0].output))
        layers.append((len(calls), ins, outs, _interpolation(never_faster(table[layer]))))

    def of(counts: Sequence[int]) -> float:
        values = np.concatenate([[1.0], counts])
        return sum(times * found(ins @ values, outs @ values) for times, ins, outs, found in layers)

    return of


def _interpolation(measured: Mapping[tuple[int, int], float]) -> Callable[[float, float], float]:
    by_input: dict[int, list[tuple[int, float]]] = {}
    for (ins, outs), value in sorted(measured.items()):
        by_input.setdefault(ins, []).append((outs, value))
    widths = sorted(by_input)
    diagonal = all(len(rows) == 1 for rows in by_input.values())
    rows = [tuple(zip(*by_input[width], strict=True)) for width in widths]

    def found(ins: float, outs: float) -> float:
        if diagonal:
            return float(np.interp(ins, widths, [values[0] for _, values in rows]))
        return float(np.interp(ins, widths, [np.interp(outs, *row) for row in rows]))

    return found
