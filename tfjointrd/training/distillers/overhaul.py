"""A Comprehensive Overhaul of Feature Distillation (Heo et al. 2019): the last feature map, with margins."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
from keras import ops

from tfjointrd.surgery.graph import Graph, Ref
from tfjointrd.surgery.rules import describe
from tfjointrd.training.distillers.adapters import connector
from tfjointrd.training.distillers.distiller import Distiller
from tfjointrd.training.distillers.taps import last_map
from tfjointrd.training.precision import loss_dtype


@keras.saving.register_keras_serializable(package="tfjointrd")
class Overhaul(Distiller):
    """The margin distance between the last feature maps of student and teacher, before their ReLUs.

    A learned 1x1 convolution with batch normalisation maps the student's map to the teacher's shape. Within `JointRD`
    the maps at the end of the teacher's tails are compared too, each through a convolution of its own.

    Args:
        weight: A number or a `tfjointrd.training.Schedule`. The authors of Residual Distillation use 1e-3 at 32 pixels
            and 1e-4 at 224.
        name: The layer's name.

    Raises:
        ValueError: If a network has no feature map, the teacher no batch normalisation ahead of its, or the resolutions
            do not fit.

    Example:

    >>> features = tfjointrd.distillers.Overhaul(weight=1e-3)

    Reference:
        A Comprehensive Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), Eqn 1 and 2.
    """

    on_tails = True

    def __init__(self, weight=1e-3, name=None):
        super().__init__(weight, name)

    def taps(self, student, teacher):
        """The last map of each."""
        maps = last_map(student), last_map(teacher)
        self._margin_layer = margin_layer(teacher, maps[1])
        return [maps[0]], [maps[1]]

    def attach(self, outputs, teacher_layer):
        """Notes the batch normalisation that tells the margins; it is the teacher's, not one of this layer's own."""
        self._teacher = SimpleNamespace(normalization=teacher_layer(self._margin_layer))  # in which Keras does not look

    def build(self, student_shape, teacher_shape):
        """Makes the convolution."""
        self.connector = connector(student_shape[0][1:], teacher_shape[0][1:], f"{self.path}_connector")

    def call(self, student, teacher):
        """The distance of each image, `(batch,)`."""
        margin = ops.stop_gradient(margins(self._teacher.normalization))
        return margin_distance(self.connector(student[0], training=True), teacher[0], margin)


def margin_layer(graph: Graph, feature: Ref) -> str:
    """The name of the batch normalisation that says how a feature map is distributed: the last one ahead of it.

    Of several that an addition leads to, it is that of the longest branch, not of the shortcut.

    Raises:
        ValueError: If there is none.
    """
    ancestors = graph.ancestors()
    normalizations = [
        ref
        for ref in ancestors[feature]
        if describe(graph.layers[ref.layer]).normalizes == "batch"
        and graph.shapes[ref][1:] == graph.shapes[feature][1:]
    ]
    if not normalizations:
        raise ValueError(
            f"Expected a batch normalisation ahead of the last feature map of '{graph.name}', which says where its "
            f"margins lie. Received: a network with none of shape {graph.shapes[feature]} before '{feature.layer}'."
        )
    return max(normalizations, key=lambda ref: len(ancestors[ref])).layer


def margins(normalization: keras.layers.BatchNormalization):
    """E[x | x < 0] of each channel, where x is normally distributed as a batch normalisation says.

    Args:
        normalization: The batch normalisation, with mean beta and standard deviation |gamma| of each channel.

    Returns:
        Tensor `(channels,)`: beta - |gamma| phi(beta / |gamma|) / Phi(-beta / |gamma|), or -3 |gamma| where
        less than 0.1 % of the values are negative.

    Reference:
        A Comprehensive Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), section 3.2.
    """
    size = normalization.moving_mean.shape
    beta = ops.cast(normalization.beta, loss_dtype()) if normalization.center else ops.zeros(size, loss_dtype())
    gamma = (
        ops.abs(ops.cast(normalization.gamma, loss_dtype())) if normalization.scale else ops.ones(size, loss_dtype())
    )
    ratio = beta / ops.maximum(gamma, 1e-12)
    negative = 0.5 * (1.0 - ops.erf(ratio / np.sqrt(2.0)))
    density = ops.exp(-0.5 * ratio * ratio) / np.sqrt(2.0 * np.pi)
    return ops.where(negative > 1e-3, beta - gamma * density / ops.maximum(negative, 1e-3), -3.0 * gamma)


def margin_distance(feature, target, margin):
    """Squared distance to the teacher's feature, where that says something about the ReLU behind it.

    Positions where the teacher's is negative only ask for something at most as large as the channel's margin.

    Args:
        feature: The student's feature `(batch, height, width, channels)`, ahead of the ReLU.
        target: The teacher's, of the same shape.
        margin: `(channels,)` negative numbers; see `margins`.

    Returns:
        `(batch,)`: summed over all positions.

    Reference:
        A Comprehensive Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), Eqn 1 and 2.
    """
    feature, target = ops.cast(feature, loss_dtype()), ops.cast(target, loss_dtype())
    bounded = ops.maximum(target, margin)
    counts = ops.logical_or(feature > bounded, target > 0)
    squares = ops.where(counts, ops.square(feature - bounded), 0.0)
    return ops.sum(squares, axis=(1, 2, 3))
