"""Methods by which networks of a cohort teach each other: DML (Zhang et al. 2018) and KDCL (Guo et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from tfjointrd.training import schedules
from tfjointrd.training.distillers.distiller import cast
from tfjointrd.training.distillers.dkd import one_hot
from tfjointrd.training.losses import distillation_values


class PeerDistiller(keras.layers.Layer):
    """Base class of the methods of a `tfjointrd.Cohort`. Subclasses define `call` and `get_config`.

    Args:
        weight: How much the loss counts beside that on the labels: a number or a `tfjointrd.training.Schedule`.
        temperature: T, by which logits are divided.
        name: The layer's name.

    Call arguments:
        logits: The logits `(batch, ..., classes)` of each network.
        labels: Their labels.

    Returns:
        For each network the losses `(batch, ...)`.
    """

    def __init__(self, weight: schedules.Schedule | float = 1.0, temperature: float = 1.0, name: str | None = None):
        super().__init__(name=name, autocast=False)
        self.schedule = schedules.not_negative(weight, "weight")
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` above 0. Received: temperature={temperature}.")
        self.temperature = temperature

    def build(self, input_shape):
        """There is nothing to learn."""

    def get_build_config(self):
        """Nothing."""
        return None

    def get_config(self):
        """The configuration from which the layer can be made again."""
        weight = keras.saving.serialize_keras_object(self.schedule)
        return {"name": self.name, "weight": weight, "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="tfjointrd")
class DML(PeerDistiller):
    """Each network learns from the others' outputs: the mean of T² KL(other, own) over all others.

    All networks take their step at once, from the same outputs. In the paper's Algorithm 1 the networks take their
    steps in turn, and each sees the others' outputs after their steps.

    Args:
        weight: A number or a `tfjointrd.training.Schedule`.
        temperature: T; 1 in the paper.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> cohort = tfjointrd.Cohort([network, keras.models.clone_model(network)], tfjointrd.distillers.DML())

    Reference:
        Deep Mutual Learning (https://arxiv.org/abs/1706.00384), Eqn 5 for two networks and Eqn 8 for more.
    """

    def call(self, logits: Sequence, labels):
        """The losses of each network."""
        return [
            sum(
                distillation_values(ops.stop_gradient(other), own, self.temperature)
                for j, other in enumerate(logits)
                if j != i
            )
            / (len(logits) - 1)
            for i, own in enumerate(logits)
        ]


@keras.saving.register_keras_serializable(package="tfjointrd")
class KDCL(PeerDistiller):
    """Each network learns from one target that is made from all networks: T² KL(target, own).

    The logit of the right class is subtracted from each network's logits. The target is the smallest of these, class by
    class (KDCL-MinLogit): the network that is surest that a class is wrong decides. (Adjoined Networks' Table 2 calls
    the method KDCR.) In the paper each network sees the images distorted in another way. Here all networks see the same
    images.

    Args:
        weight: A number or a `tfjointrd.training.Schedule`; lambda in the paper.
        temperature: T. The default is this project's choice: no code of the authors was found.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> cohort = tfjointrd.Cohort([network, keras.models.clone_model(network)], tfjointrd.distillers.KDCL())

    Reference:
        Online Knowledge Distillation via Collaborative Learning (Guo et al., CVPR 2020), section 3.2, KDCL-MinLogit.
    """

    def __init__(self, weight=1.0, temperature=2.0, name=None):
        super().__init__(weight, temperature, name)

    def call(self, logits: Sequence, labels):
        """The losses of each network."""
        right = one_hot(labels, logits[0])
        relative = [own - ops.sum(right * own, axis=-1, keepdims=True) for own in map(cast, logits)]
        target = ops.stop_gradient(ops.min(ops.stack(relative), axis=0))
        return [distillation_values(target, own, self.temperature) for own in logits]
