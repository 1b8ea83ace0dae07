"""Decoupled Knowledge Distillation (Zhao et al. 2022): the right class, and the others among themselves."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.data.labels import CLASSES
from tfjointrd.training.distillers.distiller import OutputDistiller
from tfjointrd.training.losses import distillation_values
from tfjointrd.training.schedules import WARM_UP


@keras.saving.register_keras_serializable(package="tfjointrd")
class DKD(OutputDistiller):
    """T² times KL of right against wrong, and KL of the wrong classes among themselves, each with a weight of its own.

    In Hinton's loss, the wrong classes count less if the teacher is more confident.

    Args:
        temperature: T.
        target_weight: How much right against wrong counts; alpha in the paper.
        others_weight: How much the wrong classes count; beta in the paper, where it is from 1 to 8 by network: the
            authors' code has 8 unless a pair has its own, and 2 for ResNet-56 and ResNet-20 on CIFAR-100.
        weight: How much both count: a number or a `tfjointrd.training.Schedule`. By default it rises over the first 20
            of 240 epochs.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range, or an output is not of classes of which one is right.

    Example:

    >>> decoupled = tfjointrd.distillers.DKD(others_weight=2.0)

    Reference:
        Decoupled Knowledge Distillation (https://arxiv.org/abs/2203.08679), Eqn 7; the defaults are those of the
        authors' code (https://github.com/megvii-research/mdistiller: mdistiller/engine/cfg.py, configs/cifar100/dkd).
    """

    def __init__(self, temperature=4.0, target_weight=1.0, others_weight=8.0, weight=WARM_UP, name=None):
        super().__init__(weight, name)
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` above 0. Received: temperature={temperature}.")
        for argument, value in (("target_weight", target_weight), ("others_weight", others_weight)):
            if not value >= 0:
                raise ValueError(f"Expected `{argument}` from 0. Received: {argument}={value}.")
        self.temperature, self.target_weight, self.others_weight = temperature, target_weight, others_weight

    def attach(self, outputs, teacher_layer):
        """Notes what the outputs are for."""
        super().attach(outputs, teacher_layer)
        self._check_kinds()

    def _check_kinds(self) -> None:
        for task in self.tasks:
            if task.compared != CLASSES:
                raise ValueError(
                    "Expected outputs of classes, one of which is right, for DKD; KD compares others. Received: output "
                    f"'{task.name}', whose {task.channels} channel(s) are {task.compared}."
                )

    def call(self, student, teacher, labels):
        """The losses of each output, a list of `(batch, ...)`."""
        self._check_kinds()
        return [
            self._of_output(*self.logits(i, own, theirs, CLASSES), right)
            for i, (own, theirs, right) in enumerate(zip(student, teacher, labels, strict=True))
        ]

    def _of_output(self, student, teacher, labels):
        if _have_their_form(labels, student):  # where they are smoothed or mixed, the largest share is the right class
            labels = ops.argmax(labels, axis=-1)
        right = one_hot(labels, student)
        both = [_right_and_wrong(logits / self.temperature, right) for logits in (teacher, student)]
        target = distillation_values(*both, 1.0)
        others = distillation_values(*(logits / self.temperature - 1e4 * right for logits in (teacher, student)), 1.0)
        return self.temperature**2 * (self.target_weight * target + self.others_weight * others)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"target_weight": self.target_weight, "others_weight": self.others_weight}
        return {**super().get_config(), "temperature": self.temperature, **own}


def one_hot(labels, logits):
    """Labels of classes in the form of the logits: 1 for the right one."""
    labels = ops.convert_to_tensor(labels)
    if _have_their_form(labels, logits):
        return ops.cast(labels, logits.dtype)
    if len(labels.shape) == len(logits.shape):
        labels = ops.squeeze(labels, axis=-1)
    return ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)


def _have_their_form(labels, logits) -> bool:
    return len(labels.shape) == len(logits.shape) and labels.shape[-1] == logits.shape[-1] != 1


def _right_and_wrong(logits, right):
    """The logarithms of the probabilities of the right class and of all others together, `(..., 2)`."""
    total = ops.logsumexp(logits, axis=-1)
    of_right = ops.sum(right * logits, axis=-1)
    of_others = ops.logsumexp(logits - 1e4 * right, axis=-1)
    return ops.stack([of_right - total, of_others - total], axis=-1)
