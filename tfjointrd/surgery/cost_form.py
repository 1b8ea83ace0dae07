"""What a network costs as a function of how wide its tensors are, whatever decides on that.

The kernel of a convolution costs as many multiply-accumulates as positions times kept input channels times kept output
channels. Where widths are affine in some variables (weights of a search's candidates, numbers of channels that pruning
keeps), the cost of the network is a quadratic form in these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from tfjointrd.layers.weight_names import is_kernel, weight_name
from tfjointrd.surgery.graph import Call, Graph, Ref
from tfjointrd.surgery.macs import layer_macs
from tfjointrd.surgery.rules import IN, OUT, rule_for
from tfjointrd.surgery.rules.counters import kernel_parameters, weight_sizes

Form = TypeVar("Form", bound="CostForm")


class CostForm(ABC):
    """Adds up products of widths.

    Args:
        graph: The full network.
        size: Number of variables, plus one for the constant, which comes first.

    Attributes:
        form: The sum, `(size, size)`.
        full: The full network's cost.
    """

    def __init__(self, graph: Graph, size: int):
        self.graph, self.size = graph, size
        self.form = np.zeros((size, size))
        self.full = 0.0

    @abstractmethod
    def width(self, ref: Ref | None) -> np.ndarray:
        """`(size,)`: the constant part of a tensor's width, then what each variable adds; `None` has the width 1."""

    def add(self, factor: float, ins: Ref | None, outs: Ref | None) -> None:
        """Adds `factor` for each pair of a kept channel of one tensor and one of another; `None` stands for one."""
        self.form += factor * np.outer(self.width(ins), self.width(outs))
        self.full += factor * math.prod(self.graph.shapes[ref][-1] for ref in (ins, outs) if ref is not None)


def add_macs(total: Form) -> Form:
    """Adds the multiply-accumulates of one image, as `tfjointrd.report.profile` counts them.

    Raises:
        ValueError: If a size is not known, or a layer's multiply-accumulates are not.
    """
    graph = total.graph
    shapes, sources = graph.shapes, graph.sources
    graph.check_sizes("for its costs to be counted")

    def positions(call: Call) -> float:
        layer = sources.get(call.layer)
        ins = [(1, *shapes[ref][1:]) for ref in call.inputs]
        count, kernel = layer_macs(layer, ins, [(1, *shapes[call.output][1:])]), kernel_parameters(layer)
        uncounted = count is None and (kernel or rule_for(call.layer, graph.layers[call.layer]).producer)
        if uncounted or (count and not kernel):
            raise ValueError(
                "Expected layers whose multiply-accumulates are known and in proportion to a weight named `kernel`, "
                "for a budget in multiply-accumulates. Describe the layer by `tfjointrd.report.register_macs`, or set "
                "`target_parameters` instead. "
                f"Received: '{graph.name}' with layer '{call.layer}' ({type(layer).__name__})."
            )
        return count / kernel if count and kernel else 0

    return _added(total, graph.calls, positions, is_kernel)


def add_parameters(total: Form) -> Form:
    """Adds the number of weights, as `tfjointrd.report.profile` counts them, those of normalisations included."""
    first = {call.layer: call for call in reversed(total.graph.calls)}
    return _added(total, first.values(), lambda call: 1, lambda weight: True)


def _added(total: Form, calls: Iterable[Call], factor: Callable[[Call], float], counts: Callable[[str], bool]) -> Form:
    graph = total.graph
    for call in calls:
        layer = graph.sources.get(call.layer)
        weights = [(weight_name(layer, one), one, size) for one, size in weight_sizes(layer)]
        weights = [named for named in weights if counts(named[0])]
        scale = factor(call) if weights else 0
        if not scale:
            continue
        spec = graph.layers[call.layer]
        rule = rule_for(call.layer, spec)
        for name, weight, size in weights:
            kinds = rule.axes_of(spec.config, name, weight.shape)
            ins = call.inputs[0] if any(kind == IN or isinstance(kind, tuple) for kind in kinds) else None
            outs = call.output if OUT in kinds else None
            kept = math.prod(graph.shapes[ref][-1] for ref in (ins, outs) if ref is not None)
            total.add(scale * size / kept, ins, outs)
    return total
