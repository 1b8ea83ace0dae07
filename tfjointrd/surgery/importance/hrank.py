"""HRank: channels whose feature maps are of low rank carry little."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.graph import Call, Graph, Ref
from tfjointrd.surgery.importance.criterion import Criterion, register_importance
from tfjointrd.surgery.importance.feature_maps import tensors_of
from tfjointrd.surgery.rules import rule_for
from tfjointrd.surgery.tied_sets import TiedSets


@keras.saving.register_keras_serializable(package="tfjointrd")
class HRank(Criterion):
    """The mean rank of a channel's feature maps over images; no labels and no gradients are needed.

    Maps are those that convolutions and dense layers take, behind activations; where they are pooled or flattened
    ahead of these, as they were before. A channel that never has height and width is a map of one pixel: its rank is 1
    where it is not zero.

    Args:
        images: How many images are looked at, at most; 500 in the paper.
        reduction: See `Criterion`.
        normalize: See `Criterion`.

    Reference:
        HRank (https://arxiv.org/abs/2002.10179), Eqn 6.
    """

    needs_data, needs_slices = True, False

    def __init__(self, images: int = 500, reduction: str = "mean", normalize: str | None = "mean"):
        super().__init__(reduction, normalize)
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise ValueError(f"Expected `images` to be a whole number from 1 on. Received: images={images!r}.")
        self.images = images

    def measure(self, model: keras.Model, sets: TiedSets, data: Any) -> dict[str, list[np.ndarray]]:
        """The mean rank of each tensor's channels, by the set's name."""
        graph, refs = sets.channels.graph, _taken_by_kernels(sets)
        totals: list[Any] = [0.0] * len(refs)
        count = 0
        for tensors in tensors_of(graph, refs, data, self.images) if refs else ():
            totals = [total + _ranks(x).sum(axis=0) for total, x in zip(totals, tensors, strict=True)]
            count += len(tensors[0])
        found: dict[str, list[np.ndarray]] = {}
        for ref, total in zip(refs, totals, strict=True):
            for number, places in sets.positions(ref).items():
                found.setdefault(sets.sets[number].name, []).append((total / count)[places].mean(axis=1))
        return found

    def members(self, tied, slices, measured):
        """The mean ranks of the tensors."""
        return measured.get(tied.name, [])


def _taken_by_kernels(sets: TiedSets) -> list:
    """Tensors with channels of sets that need not stay, taken by layers that compute channels of their own."""
    graph = sets.channels.graph
    refs = dict.fromkeys(_as_maps(graph, call.inputs[0]) for call in graph.calls if _produces(graph, call))
    return [ref for ref in refs if any(sets.sets[number].stays is None for number in sets.positions(ref))]


def _produces(graph: Graph, call: Call) -> bool:
    return bool(rule_for(call.layer, graph.layers[call.layer]).producer)


def _as_maps(graph: Graph, ref: Ref) -> Ref:
    """The tensor before it was pooled to one pixel or flattened; the same one where there is none."""
    before = ref
    while len(graph.shapes[before]) != 4 or graph.shapes[before][1:3] == (1, 1):
        call = graph.producer(before)
        if len(call.inputs) != 1 or _produces(graph, call):
            return ref
        (before,) = call.inputs
    return before


def _ranks(x: np.ndarray) -> np.ndarray:
    """The rank of each feature map, `(images, channels)`."""
    if x.ndim != 4:
        maps = x.reshape(len(x), -1, x.shape[-1])
        return np.any(maps != 0, axis=1).astype(float)
    return np.linalg.matrix_rank(np.moveaxis(x, -1, 1)).astype(float)


register_importance("hrank", HRank)
