"""Loss functions, and what they need to know of a network's output."""

from __future__ import annotations

from keras import ops

from tfjointrd.layers.batch_normalization import replicas
from tfjointrd.surgery.output_activation import categorical, default_loss, ends_in_softmax  # noqa: F401
from tfjointrd.training.precision import loss_dtype

EPSILON = 1e-6  # Adjoined Networks, section 4


def per_replica(loss):
    """One device's part of a loss that is a mean over the batch, or that every device computes alike.

    A TensorFlow strategy adds the gradients of its devices up. Keras' loss objects allow for that themselves.
    """
    return loss / replicas() if replicas() > 1 else loss


def kullback_leibler(p, q, sample_weight=None, epsilon: float = EPSILON):
    """KL(p, q) = sum_i p_i log((p_i + epsilon) / (q_i + epsilon)), averaged over the batch.

    Args:
        p: Probabilities `(batch, classes)` of the full network.
        q: Probabilities `(batch, classes)` of the small network.
        sample_weight: `(batch,)` weights, or `None`.
        epsilon: 1e-6 in the paper.

    Returns:
        A scalar of `loss_dtype()`.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 3 with epsilon = 1e-6.
    """
    p, q = ops.cast(p, loss_dtype()), ops.cast(q, loss_dtype())
    return weighted_mean(ops.sum(p * ops.log((p + epsilon) / (q + epsilon)), axis=-1), sample_weight)


def divergence(full, small, probabilities: bool, epsilon: float | None = None, sample_weight=None):
    """KL(p, q) of two networks' outputs, averaged over the batch.

    Args:
        full: Logits or probabilities `(batch, classes)` of the full network.
        small: Those of the small network.
        probabilities: Whether the outputs are probabilities.
        epsilon: As for `kullback_leibler`. `None` computes logits' divergence from log-softmax, whose gradient does not
            vanish where q does; it differs from the printed form by as much as epsilon matters.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        A scalar of `loss_dtype()`.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 3.
    """
    full, small = ops.cast(full, loss_dtype()), ops.cast(small, loss_dtype())
    if probabilities:
        return kullback_leibler(full, small, sample_weight, epsilon or EPSILON)
    if epsilon is None:
        return distillation(full, small, 1.0, sample_weight)
    return kullback_leibler(ops.softmax(full), ops.softmax(small), sample_weight, epsilon)


def distillation(teacher, student, temperature: float, sample_weight=None):
    """T² KL(softmax(teacher / T), softmax(student / T)), averaged over the batch.

    Args:
        teacher: Logits `(batch, classes)`.
        student: Logits `(batch, classes)`.
        temperature: T.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        A scalar of `loss_dtype()`.

    Reference:
        Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531), section 2.
    """
    p, q = (ops.log_softmax(ops.cast(logits, loss_dtype()) / temperature, axis=-1) for logits in (teacher, student))
    return temperature**2 * weighted_mean(ops.sum(ops.exp(p) * (p - q), axis=-1), sample_weight)


def weighted_mean(values, sample_weight=None):
    """The mean over a batch.

    Args:
        values: One for each image, `(batch,)`.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        A scalar: the weighted sum by the number of images, as Keras' losses are averaged.
    """
    if sample_weight is not None:
        values = values * ops.reshape(ops.cast(sample_weight, loss_dtype()), ops.shape(values))
    return ops.mean(values)
