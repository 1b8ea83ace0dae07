"""Correlation Congruence for Knowledge Distillation (Peng et al. 2019): how alike a batch's images are."""

from __future__ import annotations

import math

import keras
from keras import ops

from tfjointrd.training.distillers.distiller import LayerDistiller
from tfjointrd.training.distillers.measures import flat, unit
from tfjointrd.training.distillers.taps import embedding


@keras.saving.register_keras_serializable(package="tfjointrd")
class CC(LayerDistiller):
    """The mean squared difference of both networks' correlations of all pairs of images.

    The correlation is the Gaussian kernel of embeddings of length 1, exp(-gamma |x - y|²), by its Taylor series. The
    networks may differ in the embeddings' size. The loss of an image is the mean over its pairs.

    Args:
        layers: The layers whose outputs are the embeddings, as a name or a pair `(student_name, teacher_name)`. By
            default the input of the last `Dense` layer.
        gamma: The kernel's gamma.
        order: The highest power of the series, P.
        weight: A number or a `tfjointrd.training.Schedule`. The default is of a size with the loss on the labels, in
            this project's choice. RepDistiller's 0.02 (distiller_zoo/CC.py, by the author's word) does not
            carry over: its loss multiplies the differences of successive images' embeddings and has no kernel.
        name: The layer's name.

    Raises:
        ValueError: If an argument is out of its range, a layer does not exist, or no embedding is found.

    Example:

    >>> correlations = tfjointrd.distillers.CC()

    Reference:
        Correlation Congruence for Knowledge Distillation (https://arxiv.org/abs/1904.01802), section 3.3: the Gaussian
        kernel, P = 2 and gamma = 0.4.
    """

    relational = True

    def __init__(self, layers=None, gamma=0.4, order=2, weight=100.0, name=None):
        super().__init__(layers, weight, name)
        if not gamma > 0:
            raise ValueError(f"Expected `gamma` above 0. Received: gamma={gamma}.")
        if isinstance(order, bool) or not isinstance(order, int) or order < 1:
            raise ValueError(f"Expected `order` to be a whole number from 1 on. Received: order={order!r}.")
        self.gamma, self.order = gamma, order

    def find(self, student, teacher):
        """The embeddings."""
        return [embedding(student)], [embedding(teacher)]

    def call(self, student, teacher):
        """The loss of each image, `(batch,)`."""
        return sum(
            ops.mean(ops.square(self.correlations(own) - self.correlations(theirs)), axis=-1)
            for own, theirs in zip(student, teacher, strict=True)
        )

    def correlations(self, embeddings):
        """The kernel of each two images, `(batch, batch)`: exp(-2 gamma) sum_p (2 gamma)^p / p! (x·y)^p."""
        vectors = unit(flat(embeddings))
        products = ops.matmul(vectors, ops.transpose(vectors))
        factors = [(2 * self.gamma) ** p / math.factorial(p) for p in range(self.order + 1)]
        return math.exp(-2 * self.gamma) * sum(factor * products**p for p, factor in enumerate(factors))

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "gamma": self.gamma, "order": self.order}
