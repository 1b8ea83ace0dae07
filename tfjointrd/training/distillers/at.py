"""Paying More Attention to Attention (Zagoruyko and Komodakis 2017): where the stages of both networks look."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.training.distillers.adapters import averaged, pooling
from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import flat, unit
from tfjointrd.training.distillers.taps import stage_ends


@keras.saving.register_keras_serializable(package="tfjointrd")
class AT(LayerDistiller):
    """The mean squared difference of attention maps: sums of squared channels, of length 1, at the end of each stage.

    Nothing is learned, so the networks may differ in channels. Where resolutions differ, the larger map is averaged.

    Args:
        layers: Names of layers, or pairs `(student_name, teacher_name)`. By default the ends of the stages.
        weight: A number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If a layer does not exist or returns no map, or resolutions are no multiples of each other.

    Example:

    >>> attention = tfjointrd.distillers.AT(weight=1000.0)

    Reference:
        Attention transfer (https://arxiv.org/abs/1612.03928), Eqn 2 with F_sum² of Eqn 1, squared as in the authors'
        code; the weight is their 10³ over the number of positions, as RepDistiller and mdistiller have it.
    """

    def __init__(self, layers=None, weight=1000.0, name=None):
        super().__init__(layers, weight, name)

    def find(self, student, teacher):
        """The ends of the stages."""
        return stage_ends(student, teacher)

    def build(self, student_shape, teacher_shape):
        """Notes which maps are averaged."""
        self._windows = [pooling(*pair, "AT") for pair in zip(student_shape, teacher_shape, strict=True)]

    def call(self, student, teacher):
        """The sum over the stages, `(batch,)`."""
        total = 0.0
        for own, theirs, windows in zip(student, teacher, self._windows, strict=True):
            maps = [attention(averaged(cast(x), window)) for x, window in zip((own, theirs), windows, strict=True)]
            total = total + ops.mean(ops.square(maps[0] - maps[1]), axis=-1)
        return total


def attention(features):
    """The attention map of features `(batch, height, width, channels)`, `(batch, positions)` of length 1."""
    return unit(flat(ops.sum(ops.square(features), axis=-1)))
