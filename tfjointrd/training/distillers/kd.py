"""Distilling the Knowledge in a Neural Network (Hinton et al. 2015): the teacher's outputs as targets."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.data.labels import BINARY, NUMBERS
from tfjointrd.training import losses
from tfjointrd.training.distillers.distiller import OutputDistiller, cast
from tfjointrd.training.objective import (
    KINDS_OF_DIVERGENCES,
    Divergence,
    Objective,
    deserialize_divergence,
    serialize_divergence,
)


@keras.saving.register_keras_serializable(package="tfjointrd")
class KD(OutputDistiller):
    """T² KL(teacher, student), both with their logits divided by a temperature T.

    This is for classes. Outputs that are yes or no have the KL of these. Numbers have the squared difference, without
    T.

    Args:
        temperature: T.
        weight: A number or a `tfjointrd.training.Schedule`. It is a share: the loss on the labels counts `1 - weight`,
            unless the training has a `label_weight`.
        divergence: What takes the place of T² KL: `"kullback_leibler"`, `"bernoulli"` or `"squared_error"`, which are
            the three above, or a function `(teacher, student) -> (batch, ...)` of outputs as the networks return them;
            for several outputs also a list, or a dict by their names.
        name: The layer's name.

    Raises:
        ValueError: If `temperature` is not above 0, or `divergence` does not fit an output.

    Example:

    >>> hinton = tfjointrd.distillers.KD(temperature=4.0, weight=0.9)

    Reference:
        Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531), section 2. The defaults are
        those of Contrastive Representation Distillation (https://arxiv.org/abs/1910.10699).
    """

    takes_from_labels = True

    def __init__(self, temperature: float = 4.0, weight=0.9, divergence: Divergence = None, name: str | None = None):
        super().__init__(weight, name)
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` above 0. Received: temperature={temperature}.")
        self.temperature, self.divergence = temperature, deserialize_divergence(divergence)

    def attach(self, outputs, teacher_layer):
        """Notes what the outputs are for, and what each is compared by."""
        super().attach(outputs, teacher_layer)
        self._outputs.divergences = Objective(self.tasks, self.divergence).divergences

    def call(self, student, teacher):
        """The losses of each output, a list of `(batch, ...)`."""
        found = []
        pairs = zip(self.tasks, self._outputs.divergences, student, teacher, strict=True)
        for i, (task, divergence, output, target) in enumerate(pairs):
            if callable(divergence):
                found.append(divergence(cast(target), cast(output)))
                continue
            kind = task.compared if divergence is None else KINDS_OF_DIVERGENCES[divergence]
            if kind == NUMBERS:
                found.append(ops.mean(ops.square(cast(target) - cast(output)), axis=-1))
                continue
            output, target = self.logits(i, output, target, kind)
            values = losses.bernoulli_values if kind == BINARY else losses.distillation_values
            found.append(values(target, output, self.temperature))
        return found

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"temperature": self.temperature, "divergence": serialize_divergence(self.divergence)}
        return {**super().get_config(), **own}
