"""What each choice of widths costs, as a function of the weights of the choices.

The kernel of a convolution costs as many multiply-accumulates as positions times kept input channels times kept output
channels. Under gates that choose independently the expectation of that product is the product of the expectations, and
where one gate chooses both, the expectation of the product. So the expected cost of a network is a quadratic form in
the weights of all candidates, exact for any weights and, where each gate has chosen, the cost of the narrow network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from keras import ops

from tfjointrd.surgery.gated import GatedGraph
from tfjointrd.surgery.graph import Call, Ref
from tfjointrd.surgery.macs import kernel_parameters, layer_macs
from tfjointrd.surgery.rules import IN, OUT, rule_for


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


class _Sum:
    """Adds up products of widths; the widths of a tensor are an affine function of the candidates' weights."""

    def __init__(self, graph: GatedGraph):
        self.graph, self.entries = graph, len(graph.candidates)
        self.size = 1 + len(graph.groups) * self.entries
        self.form = np.zeros((self.size, self.size))
        self.full = 0.0
        self._widths: dict[Ref, np.ndarray] = {}

    def width(self, ref: Ref | None) -> np.ndarray:
        """`(1 + groups * candidates,)`: the constant part of the width, then what each candidate adds."""
        if ref not in self._widths:
            result = np.zeros(self.size)
            for group, last in self.graph.places(ref) if ref is not None else [(0, self.entries - 1)]:
                if last == self.entries - 1:
                    result[0] += 1  # there whatever is chosen
                else:
                    start = 1 + group * self.entries
                    result[start : start + last + 1] += 1
            self._widths[ref] = result
        return self._widths[ref]

    def add(self, factor: float, ins: Ref | None, outs: Ref | None) -> None:
        """Adds `factor` for each pair of a kept channel of one tensor and one of another; `None` stands for one."""
        self.form += factor * np.outer(self.width(ins), self.width(outs))
        shapes = self.graph.graph.shapes
        self.full += factor * math.prod(shapes[ref][-1] for ref in (ins, outs) if ref is not None)

    def cost(self) -> Cost:
        """The sum. Of the candidates of one group one is chosen: products of two vanish, squares are linear."""
        constant, quadratic = self.form[0, 0], self.form[1:, 1:].copy()
        linear = self.form[0, 1:] + self.form[1:, 0] + np.diag(quadratic)
        for start in range(0, self.size - 1, self.entries):
            quadratic[start : start + self.entries, start : start + self.entries] = 0
        return Cost(constant, linear.reshape(-1, self.entries), quadratic, self.full)


def macs(graph: GatedGraph) -> Cost:
    """Multiply-accumulates for one image, as `tfjointrd.report.profile` counts them.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), n_f of Definition 3.
    """
    shapes, sources = graph.graph.shapes, graph.graph.sources

    def positions(call: Call) -> float:
        layer = sources.get(call.layer)
        kernel = kernel_parameters(layer)
        ins = [(1, *shapes[ref][1:]) for ref in call.inputs]
        return (layer_macs(layer, ins, [(1, *shapes[call.output][1:])]) or 0) / kernel if kernel else 0

    return _sum(graph, graph.graph.calls, positions, lambda weight: "kernel" in weight)


def parameters(graph: GatedGraph) -> Cost:
    """Number of weights, as `tfjointrd.report.profile` counts them: all, those of batch normalisations included."""
    first = {call.layer: call for call in reversed(graph.graph.calls)}
    return _sum(graph, list(first.values()), lambda call: 1, lambda weight: True)


def _sum(graph: GatedGraph, calls: list[Call], factor: Callable[[Call], float], counts: Callable[[str], bool]) -> Cost:
    total = _Sum(graph)
    for call in calls:
        weights: Mapping[str, np.ndarray] = {k: v for k, v in graph.graph.weights(call.layer).items() if counts(k)}
        scale = factor(call) if weights else 0
        if not scale:
            continue
        spec = graph.graph.layers[call.layer]
        axes = rule_for(call.layer, spec).weight_axes(spec.config)
        for name, value in weights.items():
            kinds = axes.get(name, (None,) * value.ndim)[-value.ndim or None :]
            ins = call.inputs[0] if any(kind == IN or isinstance(kind, tuple) for kind in kinds) else None
            outs = call.output if OUT in kinds else None
            kept = math.prod(graph.graph.shapes[ref][-1] for ref in (ins, outs) if ref is not None)
            total.add(scale * value.size / kept, ins, outs)
    return total.cost()
