"""Regularisers that make channels small while a network is pruned.

A network has a hundred small weights, and an operation costs more to trace and to start than to compute. Weights of one
shape are therefore stacked, and all sums by channel are one operation: 1,000 operations with their gradients for the
norms of ResNet-56, where one sum a weight makes 13,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from keras import ops

from tfjointrd.surgery.tied_sets import Site
from tfjointrd.training.precision import loss_dtype

Variables = Mapping[tuple[str, str], Any]


class ScalePenalty:
    """The sum of the absolute scales of batch normalisations.

    Args:
        sites: Where weights have entries for channels that can be pruned.
        variables: The trainable weights, by layer and name.

    Attributes:
        empty: Whether there are none.

    Reference:
        Network Slimming (https://arxiv.org/abs/1708.06519), Eqn 1.
    """

    def __init__(self, sites: Iterable[Site], variables: Variables):
        entries: dict[tuple[str, str], list[np.ndarray]] = {}
        for site in sites:
            if site.role == "channel" and site.weight in ("gamma", "scale"):
                entries.setdefault((site.layer, site.weight), []).append(site.entries.reshape(-1))
        self._variables = [variables[key] for key in entries]
        self.empty = not entries
        starts = np.cumsum([0, *(variable.shape[0] for variable in self._variables)])
        places = [start + np.concatenate(own) for start, own in zip(starts, entries.values(), strict=False)]
        self._places = np.concatenate(places or [[]]).astype("int32")

    def __call__(self):
        """A scalar."""
        scales = ops.concatenate([_wide(variable) for variable in self._variables])
        return ops.sum(ops.abs(ops.take(scales, self._places)))


class GroupPenalty:
    """The sum over channels of the norm of all weights that go with a channel.

    Args:
        sites: Where weights have entries for channels that can be pruned.
        variables: The trainable weights, by layer and name.

    Reference:
        Learning Structured Sparsity (https://arxiv.org/abs/1608.03665), Eqn 2, over tied channels as in DepGraph
        (https://arxiv.org/abs/2301.12900).
    """

    def __init__(self, sites: Iterable[Site], variables: Variables):
        sites = list(sites)
        first, self._units = {}, 0  # the number of each set's first unit
        for site in sites:
            if site.tied not in first:
                first[site.tied], self._units = self._units, self._units + len(site.entries)
        numbers: dict[tuple[str, str], dict[int, np.ndarray]] = {}  # of the unit of each entry along an axis
        for site in sites:
            size = variables[site.layer, site.weight].shape[site.axis]
            axes = numbers.setdefault((site.layer, site.weight), {})
            own = axes.setdefault(site.axis, np.full(size, self._units))
            own[site.entries] = first[site.tied] + np.arange(len(site.entries))[:, None]
        self._stacks: dict[tuple, list] = {}  # variables by shape and axes
        found: dict[tuple, list] = {}
        for key, axes in numbers.items():
            kind = tuple(variables[key].shape), tuple(sorted(axes))
            self._stacks.setdefault(kind, []).append(variables[key])
            found.setdefault(kind, []).append(axes)
        in_order = [own[axis] for kind, each in found.items() for axis in kind[1] for own in each]
        self._numbers = np.concatenate(in_order or [[]]).astype("int32")

    def __call__(self):
        """A scalar."""
        sums = []
        for (shape, axes), variables in self._stacks.items():
            squares = ops.square(_stacked(variables))
            others = [1 + axis for axis in range(len(shape)) if axis not in axes]
            squares = ops.sum(squares, axis=others) if others else squares
            for place in range(len(axes)):
                rest = [1 + other for other in range(len(axes)) if other != place]
                sums.append(ops.reshape(ops.sum(squares, axis=rest) if rest else squares, (-1,)))
        # The last one gathers what belongs to no channel that can be pruned.
        by_unit = ops.segment_sum(ops.concatenate(sums), self._numbers, self._units + 1)[: self._units]
        return ops.sum(ops.sqrt(by_unit + 1e-12))


def _stacked(variables: list):
    values = [_wide(variable) for variable in variables]
    return ops.stack(values) if len(values) > 1 else ops.expand_dims(values[0], 0)


def _wide(variable):
    return ops.cast(variable.value, loss_dtype())
