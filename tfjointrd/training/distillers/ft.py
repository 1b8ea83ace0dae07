"""Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim et al. 2018)."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.training.distillers.adapters import averaged, pooling
from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import flat, mean_of_each, unit
from tfjointrd.training.distillers.taps import stage_ends

SLOPE = 0.1  # of the leaky ReLUs


@keras.saving.register_keras_serializable(package="tfjointrd")
class FT(LayerDistiller):
    """The difference of factors: a paraphrase of the teacher's last map, and the student's translation of its own.

    In phase one, a paraphraser learns to reproduce the teacher's map through fewer channels, the factors. In phase two
    the paraphraser is fixed. Student and translator learn together to compute the same factors from the student's map.
    Both phases are within one training: in phase one the student learns from its labels, and from other methods. (In
    the paper phase one comes before the student's training.) An interrupted training continues in its phase.

    Args:
        layers: The layers whose maps are compared, as a name or a pair `(student_name, teacher_name)`. By default the
            end of the last stage.
        rate: The number of factors' channels over that of the teacher's.
        phase_one: The part of the training that is phase one.
        factor_weight: How much the difference of the factors counts in phase two; beta in the paper.
        weight: How much the loss counts in either phase: a number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range, a layer does not exist or returns no map, or resolutions are no
            multiples of each other.

    Example:

    >>> factors = tfjointrd.distillers.FT(phase_one=0.1)

    Reference:
        Factor transfer (https://arxiv.org/abs/1802.04977), Eqn 1 for phase one and Eqn 3, with p = 1 and as a mean, for
        phase two; rate and weight are the authors'. RepDistiller has a weight of 200
        (https://github.com/HobbitLong/RepDistiller, scripts/run_cifar_distill.sh).
    """

    def __init__(self, layers=None, rate=0.5, phase_one=0.1, factor_weight=500.0, weight=1.0, name=None):
        super().__init__(layers, weight, name)
        if not 0 < phase_one < 1:
            raise ValueError(f"Expected `phase_one` between 0 and 1. Received: phase_one={phase_one}.")
        for argument, value in (("rate", rate), ("factor_weight", factor_weight)):
            if not value > 0:
                raise ValueError(f"Expected `{argument}` above 0. Received: {argument}={value}.")
        self.rate, self.phase_one, self.factor_weight = rate, phase_one, factor_weight

    def find(self, student, teacher):
        """The end of the last stage."""
        ends = stage_ends(student, teacher)
        return ends[0][-1:], ends[1][-1:]

    def build(self, student_shape, teacher_shape):
        """Makes paraphraser and translator."""
        (own,), (theirs,) = student_shape, teacher_shape
        self._windows = pooling(own, theirs, "FT")
        channels, factors = theirs[-1], max(1, int(self.rate * theirs[-1]))
        widths = [channels, channels, factors, factors]
        self.encoder = self._kernels("encoder", widths)
        self.decoder = self._kernels("decoder", widths[::-1])
        # What the encoder was at the end of phase one: weight decay goes on with the trained one.
        self.paraphraser = self._kernels("paraphraser", widths, trainable=False)
        layers = []
        for filters in (own[-1], factors, factors):
            layers += [
                keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal"),
                FusedBatchNormalization(momentum=0.9, epsilon=1e-5),
                keras.layers.LeakyReLU(SLOPE),
            ]
        self.translator = keras.Sequential(
            [keras.Input((None, None, own[-1])), *layers], name=f"{self.name}_translator"
        )

    def _kernels(self, name: str, widths: list[int], trainable: bool = True) -> list:
        """Kernels and biases of convolutions from each width to the next."""
        options = {"trainable": trainable} if trainable else {"trainable": False, "aggregation": "only_first_replica"}
        found = []
        for i, pair in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            kernel = keras.initializers.HeNormal() if trainable else "zeros"
            found.append(self.add_weight(name=f"{name}{i}_kernel", shape=(3, 3, *pair), initializer=kernel, **options))
            found.append(self.add_weight(name=f"{name}{i}_bias", shape=pair[1:], initializer="zeros", **options))
        return found

    def call(self, student, teacher, progress):
        """The loss of each image, `(batch,)`: of the reconstruction, and in phase two of the factors."""
        first, second = self._windows
        target = averaged(cast(teacher[0]), second)
        learning = progress < self.phase_one
        reconstruction = convolved(convolved(target, self.encoder), self.decoder)
        for kept, trained in zip(self.paraphraser, self.encoder, strict=True):
            kept.assign(ops.where(learning, ops.stop_gradient(trained.value), kept.value))
        factors = ops.stop_gradient(convolved(target, self.paraphraser))
        translated = cast(self.translator(averaged(student[0], first), training=True))
        return ops.where(
            learning,
            mean_of_each(ops.square(reconstruction - target)),
            self.factor_weight * mean_of_each(ops.abs(unit(flat(translated)) - unit(flat(factors)))),
        )

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"rate": self.rate, "phase_one": self.phase_one, "factor_weight": self.factor_weight}
        return {**super().get_config(), **own}


def convolved(features, weights):
    """Features behind 3x3 convolutions, each followed by a leaky ReLU.

    Args:
        features: `(batch, height, width, channels)`.
        weights: Kernels and biases in turn.
    """
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        features = ops.conv(features, kernel, padding="same", data_format="channels_last") + bias
        features = ops.leaky_relu(features, SLOPE)
    return features
