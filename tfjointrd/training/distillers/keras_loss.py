"""The losses of `keras.distillation` as methods: each network runs once a step, for all methods."""

from __future__ import annotations

from typing import Any

import keras

from tfjointrd.training.distillers.distiller import OutputDistiller, cast
from tfjointrd.training.distillers.taps import by_name


def is_keras_loss(value: Any) -> bool:
    """Whether it is a `keras.distillation.DistillationLoss`; Keras has them from version 3.12 on."""
    package = getattr(keras, "distillation", None)
    return package is not None and isinstance(value, package.DistillationLoss)


@keras.saving.register_keras_serializable(package="tfjointrd")
class KerasLoss(OutputDistiller):
    """A loss of `keras.distillation`, or a `keras.distillation.DistillationLoss` of your own.

    Such a loss among `methods` is this with weight 1. `LogitsDistillation` gets logits, also of networks that end in a
    softmax; give it a `keras.losses.KLDivergence()`, since with its default, the name of that, Keras 3.15 takes the
    divergence of logits as if they were probabilities. Others get the outputs as they are, or those of the layers that
    the loss names in `student_layer_name` and `teacher_layer_name`. The loss is one number a batch, so `sample_weight`
    does not reach it. To be saved, a class of your own needs `get_config` and `from_config`.

    Args:
        loss: The loss.
        weight: A number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If `loss` is something else, or a network does not have its layer.

    Example:

    >>> hint = keras.distillation.FeatureDistillation(
    ...     teacher_layer_name="head_pool", student_layer_name="head_pool"
    ... )
    >>> method = tfjointrd.distillers.KerasLoss(hint, weight=10.0)
    """

    def __init__(self, loss, weight=1.0, name: str | None = None):
        super().__init__(weight, name)
        loss = keras.saving.deserialize_keras_object(loss) if isinstance(loss, dict) else loss
        if not is_keras_loss(loss):
            raise ValueError(f"Expected `loss` to be a `keras.distillation.DistillationLoss`. Received: {loss!r}.")
        self.loss = loss
        names = [getattr(loss, f"{side}_layer_name", None) for side in ("student", "teacher")]
        self._names = None if names == [None, None] else tuple(names)

    def taps(self, student, teacher):
        """Those of the layers that the loss names."""
        if self._names is None:
            return [], []
        if None in self._names:
            raise ValueError(
                "Expected a layer of both networks, or of neither. Received: student_layer_name="
                f"{self._names[0]!r}, teacher_layer_name={self._names[1]!r}."
            )
        return by_name([self._names], student, teacher)

    def call(self, student, teacher):
        """The loss, a scalar."""
        if isinstance(self.loss, keras.distillation.LogitsDistillation):
            pairs = [
                self.logits(i, output, target, self.tasks[i].compared)
                for i, (output, target) in enumerate(zip(student, teacher, strict=True))
            ]
            student, teacher = ([pair[side] for pair in pairs] for side in (0, 1))
        student, teacher = ([cast(tensor) for tensor in side] for side in (student, teacher))
        if len(student) == 1:
            student, teacher = student[0], teacher[0]
        self.loss.validate_outputs(teacher, student)
        return cast(self.loss.compute_loss(teacher, student))

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
