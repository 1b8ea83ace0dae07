"""Relational Knowledge Distillation (Park et al. 2019): distances and angles between the images of a batch."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import flat, unit
from tfjointrd.training.distillers.taps import embedding


@keras.saving.register_keras_serializable(package="tfjointrd")
class RKD(LayerDistiller):
    """The Huber loss of distances between two images' embeddings, and of the angle that two form at a third.

    Distances are over their mean in the batch, so neither the scale nor a rotation of the embeddings matters, and the
    networks may differ in their size. The loss of an image is the mean over all pairs and triplets that it is the
    first of.

    Args:
        layers: The layers whose outputs are the embeddings, as a name or a pair `(student_name, teacher_name)`. By
            default the input of the last `Dense` layer.
        distance_weight: How much distances count, lambda_RKD-D.
        angle_weight: How much angles count, lambda_RKD-A.
        weight: How much both count: a number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Raises:
        ValueError: If a layer does not exist, or no embedding is found.

    Example:

    >>> relations = tfjointrd.distillers.RKD(distance_weight=25.0, angle_weight=50.0)

    Reference:
        Relational Knowledge Distillation (https://arxiv.org/abs/1904.05068), Eqn 4 to 9; the weights are those of its
        section 4.2, image classification; RepDistiller and mdistiller have the same.
    """

    relational = True

    def __init__(self, layers=None, distance_weight=25.0, angle_weight=50.0, weight=1.0, name=None):
        super().__init__(layers, weight, name)
        for argument, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not value >= 0:
                raise ValueError(f"Expected `{argument}` from 0. Received: {argument}={value}.")
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def find(self, student, teacher):
        """The embeddings."""
        return [embedding(student)], [embedding(teacher)]

    def call(self, student, teacher):
        """The loss of each image, `(batch,)`."""
        total = 0.0
        for pair in zip(student, teacher, strict=True):
            between = [_between(flat(vectors)) for vectors in pair]
            if self.distance_weight:
                own, theirs = map(relative_distances, between)
                total = total + self.distance_weight * ops.mean(huber(own - theirs), axis=-1)
            if self.angle_weight:
                own, theirs = map(cosines, between)
                total = total + self.angle_weight * ops.mean(huber(own - theirs), axis=(1, 2))
        return total

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"distance_weight": self.distance_weight, "angle_weight": self.angle_weight}
        return {**super().get_config(), **own}


def _between(vectors):
    """The vectors from each image to each other, `(batch, batch, numbers)`."""
    return ops.expand_dims(vectors, 0) - ops.expand_dims(vectors, 1)


def relative_distances(between):
    """Eqn 4 and 5: the distances of all pairs over their mean, `(batch, batch)`."""
    squares = ops.sum(ops.square(between), axis=-1)
    apart = squares > 1e-12
    distances = ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)
    count = cast(ops.shape(squares)[0])
    mean = ops.sum(distances) / ops.maximum(count * (count - 1), 1.0)
    return distances / ops.maximum(mean, 1e-12)


def cosines(between):
    """Eqn 7: the cosine at each image of the angle between each two others, `(batch, batch, batch)`."""
    directions = unit(between)
    return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))


def huber(difference):
    """Eqn 6: half the square up to 1, and linear beyond."""
    size = ops.abs(difference)
    return ops.where(size <= 1, 0.5 * ops.square(difference), size - 0.5)
