"""What each choice of widths costs, as a function of the weights of the choices.

The kernel of a convolution costs as many multiply-accumulates as positions times kept input channels times kept output
channels. If two gates choose input and output, the expected cost is the product of the expected widths. If one gate
chooses both, it is the mean of the product over its candidates. So the expected cost of a network is a quadratic form
in the weights of all candidates, exact for any weights and, where each gate has chosen, the cost of the narrow network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from keras import ops

from tfjointrd.surgery.budgets import never_faster
from tfjointrd.surgery.cost_form import CostForm, add_macs, add_parameters
from tfjointrd.surgery.gated import GatedGraph
from tfjointrd.surgery.graph import Ref


class Cost:
    """A quadratic form in the weights of the candidates.

    Args:
        constant: What is spent whatever is chosen.
        linear: `(groups, candidates)`.
        quadratic: `(groups * candidates, groups * candidates)`.
        full: The full network's cost.
    """

    def __init__(self, constant: float, linear: np.ndarray, quadratic: np.ndarray, full: float):
        self.constant, self.linear, self.quadratic, self.full = float(constant), linear, quadratic, float(full)

    def share(self, weights):
        """The expected cost as a part of the full network's, a float32 scalar tensor.

        Args:
            weights: `(groups, candidates)`, each row adding up to one.
        """
        flat = ops.reshape(ops.cast(weights, "float32"), (-1,))
        linear = ops.convert_to_tensor(self.linear.ravel() / self.full, "float32")
        quadratic = ops.convert_to_tensor(self.quadratic / self.full, "float32")
        product = ops.sum(flat * ops.squeeze(ops.matmul(quadratic, ops.expand_dims(flat, -1)), -1))
        return self.constant / self.full + ops.sum(linear * flat) + product

    def of(self, weights: np.ndarray) -> float:
        """The expected cost, in float64."""
        flat = np.asarray(weights, float).ravel()
        return self.constant + float(self.linear.ravel() @ flat + flat @ self.quadratic @ flat)

    def of_choices(self, choices) -> float:
        """The cost of one choice, the position of a candidate for each group."""
        return self.of(np.eye(self.linear.shape[1])[list(choices)])


def fitted(cost: Cost, choices: Sequence[int], logarithms: np.ndarray, limit: float) -> list[int]:
    """Choices changed where that costs the least probability, until they fit a budget and no wider one does.

    Args:
        cost: The cost.
        choices: The position of a candidate for each group.
        logarithms: Of the probability of each candidate, `(groups, candidates)`.
        limit: The most that may be spent.

    Raises:
        ValueError: If no change leads below the limit.
    """
    choices = list(choices)

    def saved(before, after, steps):  # narrower at the same cost may be half of what saves
        return before - after if after < before else 1e-12 * before * (steps > 0 and after == before)

    while cost.of_choices(choices) > limit:
        cheaper = _changed(cost, choices, logarithms, saved)
        if cheaper is None:
            raise ValueError(f"Expected a higher budget. Received: {limit:,.6g}, and {choices} cost more.")
        choices = cheaper
    while True:
        dearer = _changed(
            cost, choices, logarithms, lambda before, after, steps: steps < 0 and before <= after <= limit
        )
        if dearer is None:
            return choices
        choices = dearer


def _changed(
    cost: Cost, choices: list[int], logarithms: np.ndarray, worth: Callable[[float, float, int], float]
) -> list[int] | None:
    """The change of one choice that loses the least probability for what it is worth.

    That follows from the costs before and after it, and by how many candidates it is narrower.
    """
    before, best, least = cost.of_choices(choices), None, np.inf
    for group, candidate in np.ndindex(logarithms.shape):
        changed = [*choices[:group], candidate, *choices[group + 1 :]]
        value = worth(before, cost.of_choices(changed), candidate - choices[group])
        lost = (logarithms[group, choices[group]] - logarithms[group, candidate]) / value if value > 0 else np.inf
        if lost < least:
            best, least = changed, lost
    return best


class _Sum(CostForm):
    """A cost in the candidates' weights; the widths of a tensor are an affine function of these."""

    def __init__(self, graph: GatedGraph):
        self.gated, self.entries = graph, len(graph.candidates)
        super().__init__(graph.graph, 1 + len(graph.groups) * self.entries)
        self._widths: dict[Ref | None, np.ndarray] = {}

    def width(self, ref: Ref | None) -> np.ndarray:
        """`(1 + groups * candidates,)`: the constant part of the width, then what each candidate adds."""
        if ref not in self._widths:
            result = np.zeros(self.size)
            for group, last in self.gated.places(ref) if ref is not None else [(0, self.entries - 1)]:
                if last == self.entries - 1:
                    result[0] += 1  # there whatever is chosen
                else:
                    start = 1 + group * self.entries
                    result[start : start + last + 1] += 1
            self._widths[ref] = result
        return self._widths[ref]

    def add_table(self, values: Mapping[tuple[int, int], float], ins: Ref, outs: Ref) -> None:
        """Adds `values` by the candidates of two tensors; pairs `(j, j)` alone are of one choice for both."""
        first, second = self._choices(ins), self._choices(outs)
        for (i, j), value in values.items():
            one = all(a == b for a, b in values)
            self.form += value * np.outer(np.eye(self.size)[0] if one else first[i], second[j])
        self.full += values[0, 0]

    def _choices(self, ref: Ref) -> np.ndarray:
        """For each candidate, its weight for a tensor, `(candidates, 1 + groups * candidates)`."""
        result = np.zeros((self.entries, self.size))
        varying = [group for group, last in self.gated.places(ref) if last < self.entries - 1]
        if not varying:
            result[0, 0] = 1  # as wide for one candidate as for another
        for group in varying:
            result[range(self.entries), 1 + group * self.entries + np.arange(self.entries)] += 1 / len(varying)
        return result

    def cost(self) -> Cost:
        """The sum. Of the candidates of one group one is chosen: products of two vanish, squares are linear."""
        quadratic = self.form[1:, 1:].copy()
        linear = self.form[0, 1:] + self.form[1:, 0] + np.diag(quadratic)
        for start in range(0, self.size - 1, self.entries):
            quadratic[start : start + self.entries, start : start + self.entries] = 0
        return Cost(self.form.item(0, 0), linear.reshape(-1, self.entries), quadratic, self.full)


def macs(graph: GatedGraph) -> Cost:
    """Multiply-accumulates for one image, as `tfjointrd.report.profile` counts them.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), n_f of Definition 3.
    """
    return add_macs(_Sum(graph)).cost()


def parameters(graph: GatedGraph) -> Cost:
    """Number of weights, as `tfjointrd.report.profile` counts them: all, those of batch normalisations included."""
    return add_parameters(_Sum(graph)).cost()


def latency(graph: GatedGraph, table: Mapping[str, Sequence[Sequence[float]]]) -> Cost:
    """Milliseconds of one image: the sum over the layers that hold a kernel.

    Exact where one gate chooses a layer's input. Where several do, as behind a concatenation, each counts by its part
    of the channels. Widths of which a narrower one was measured to take longer count as long as that one. A layer that
    is called several times counts as often, at the size of its first call.

    Args:
        graph: The network.
        table: Layer name -> `[input width, output width, milliseconds]` for each pair of widths that candidates have;
            see `tfjointrd.report.layer_latencies`.

    Raises:
        ValueError: If the table lacks a layer or a pair of widths.
    """
    total = _Sum(graph)
    for call in graph.kernel_calls():
        if call.layer not in table:
            raise ValueError(f"Expected `latency_table` with all layers. Received: one without '{call.layer}'.")
        measured = never_faster(table[call.layer])
        ins, outs = ([len(candidate[ref]) for candidate in graph.candidates] for ref in (call.inputs[0], call.output))
        pairs = graph.forms(call)
        for i, j in pairs:
            if (ins[i], outs[j]) not in measured:
                raise ValueError(
                    f"Expected `latency_table` with layer '{call.layer}' at {ins[i]} input and {outs[j]} output "
                    f"channels. Received: {sorted(measured)}."
                )
        calls = sum(other.layer == call.layer for other in graph.graph.calls)
        found = {pair: calls * measured[ins[pair[0]], outs[pair[1]]] for pair in pairs}
        total.add_table(found, call.inputs[0], call.output)
    return total.cost()
