"""FitNets: Hints for Thin Deep Nets (Romero et al. 2015): the student's middle stage regresses onto the teacher's."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.training.distillers.adapters import check_maps, connector
from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import mean_of_each
from tfjointrd.training.distillers.taps import relu_of, stage_ends


@keras.saving.register_keras_serializable(package="tfjointrd")
class FitNets(LayerDistiller):
    """The mean squared difference between a hint of the teacher and a guided layer of the student, behind a regressor.

    By default both are the end of the middle stage. The regressor is a learned 1x1 convolution with batch normalisation
    and, as the paper asks, the hint's own activation, if that is a ReLU or one of its relatives. The paper trains in
    two stages, first with hints and then by Hinton's distillation. Here it is one stage: the hint is added to the loss.

    Args:
        layers: The guided layer and the hint, as a name or a pair `(student_name, teacher_name)`; or several.
        weight: A number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If a layer does not exist, or no convolution leads from its resolution to the hint's.

    Example:

    >>> hints = tfjointrd.distillers.FitNets("stage2_block1_relu")

    Reference:
        FitNets (https://arxiv.org/abs/1412.6550), Eqn 3, with a mean in place of half the sum. The weight is that of
        Contrastive Representation Distillation (https://arxiv.org/abs/1910.10699), which trains in one stage too; so
        is that of mdistiller (https://github.com/megvii-research/mdistiller, mdistiller/engine/cfg.py).
    """

    def __init__(self, layers=None, weight=100.0, name=None):
        super().__init__(layers, weight, name)

    def find(self, student, teacher):
        """The end of the middle stage."""
        ends = stage_ends(student, teacher)
        middle = (len(ends[0]) - 1) // 2
        return [ends[0][middle]], [ends[1][middle]]

    def taps(self, student, teacher):
        """Those, and the hints' activations."""
        found = super().taps(student, teacher)
        self._activations = [relu_of(teacher, ref.layer) for ref in found[1]]
        return found

    def build(self, student_shape, teacher_shape):
        """Makes the regressors."""
        check_maps([*student_shape, *teacher_shape], "FitNets")
        parts = zip(student_shape, teacher_shape, self._activations, strict=True)
        self.regressors = [
            connector(own[1:], hint[1:], f"{self.name}_regressor{i}", activation)
            for i, (own, hint, activation) in enumerate(parts)
        ]

    def call(self, student, teacher):
        """The sum over the hints, `(batch,)`."""
        return sum(
            mean_of_each(ops.square(cast(regressor(own, training=True)) - cast(hint)))
            for regressor, own, hint in zip(self.regressors, student, teacher, strict=True)
        )
