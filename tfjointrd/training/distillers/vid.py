"""Variational Information Distillation (Ahn et al. 2019): how well the student's stages predict the teacher's."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfjointrd.training.distillers.adapters import averaged, pooling
from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import mean_of_each
from tfjointrd.training.distillers.taps import stage_ends


@keras.saving.register_keras_serializable(package="tfjointrd")
class VID(LayerDistiller):
    """The negative log-likelihood of the teacher's maps, normally distributed about what the student's maps predict.

    At each stage three learned 1x1 convolutions predict the mean at each position, and each channel has a learned
    variance. It bounds the mutual information of both maps from below. Where resolutions differ, the larger map is
    averaged. The loss may be negative.

    Args:
        layers: Names of layers, or pairs `(student_name, teacher_name)`. By default the ends of the stages.
        initial_variance: The variances that the training begins with.
        weight: A number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range, a layer does not exist or returns no map, or resolutions are no
            multiples of each other.

    Example:

    >>> information = tfjointrd.distillers.VID()

    Reference:
        Variational Information Distillation (https://arxiv.org/abs/1904.05835), Eqn 4 and 5, as a mean over positions
        and channels; convolutions, first variance and weight are those of the authors' code; mdistiller has the
        same variance and weight.
    """

    def __init__(self, layers=None, initial_variance=5.0, weight=1.0, name=None):
        super().__init__(layers, weight, name)
        if not initial_variance > EPSILON:
            raise ValueError(f"Expected `initial_variance` above 0. Received: initial_variance={initial_variance}.")
        self.initial_variance = initial_variance

    def find(self, student, teacher):
        """The ends of the stages."""
        return stage_ends(student, teacher)

    def build(self, student_shape, teacher_shape):
        """Makes the convolutions and the variances."""
        pairs = list(zip(student_shape, teacher_shape, strict=True))
        self._windows = [pooling(*pair, "VID") for pair in pairs]
        start = keras.initializers.Constant(float(np.log(np.expm1(self.initial_variance - EPSILON))))
        self.predictors, self.log_scales = [], []
        for i, (own, theirs) in enumerate(pairs):
            channels = theirs[-1]
            layers = [
                keras.layers.Conv2D(channels, 1, use_bias=False, activation=activation, kernel_initializer="he_normal")
                for activation in ("relu", "relu", None)
            ]
            self.predictors.append(
                keras.Sequential([keras.Input((None, None, own[-1])), *layers], name=f"{self.name}_predictor{i}")
            )
            self.log_scales.append(self.add_weight(name=f"scale{i}", shape=(channels,), initializer=start))

    def call(self, student, teacher):
        """The sum over the stages, `(batch,)`."""
        total = 0.0
        for i, (own, theirs) in enumerate(zip(student, teacher, strict=True)):
            first, second = self._windows[i]
            mean = cast(self.predictors[i](averaged(own, first), training=True))
            total = total + mean_of_each(log_likelihood(averaged(cast(theirs), second), mean, self.log_scales[i]))
        return total

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "initial_variance": self.initial_variance}


EPSILON = 1e-5


def log_likelihood(target, mean, log_scale):
    """-log q(target), up to a constant, with the variance log(1 + exp(log_scale)) + epsilon of each channel."""
    variance = ops.softplus(log_scale) + EPSILON
    return 0.5 * (ops.square(target - mean) / variance + ops.log(variance))
