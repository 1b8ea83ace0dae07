"""Loss functions: how far one network's output is from another's, for each kind of output.

All are means over the batch and over positions, where a map has a prediction at each.
"""

from __future__ import annotations

from keras import ops

from tfjointrd.layers.batch_normalization import replicas
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
    return weighted_mean(distillation_values(teacher, student, temperature), sample_weight)


def distillation_values(teacher, student, temperature: float):
    """As `distillation`, of each image and position: `(batch, ...)`."""
    p, q = (ops.log_softmax(ops.cast(logits, loss_dtype()) / temperature, axis=-1) for logits in (teacher, student))
    return temperature**2 * ops.sum(ops.exp(p) * (p - q), axis=-1)


def bernoulli(full, small, probabilities: bool, epsilon: float | None = None, sample_weight=None):
    """KL of yes-or-no outputs, p log(p / q) + (1 - p) log((1 - p) / (1 - q)), their mean over channels and batch.

    It is what `divergence` gives for the two classes yes and no. The mean over the channels is that of Keras' binary
    cross-entropy.

    Args:
        full: Logits or probabilities `(batch, ..., channels)` of the full network.
        small: Those of the small network.
        probabilities: Whether the outputs are probabilities.
        epsilon: Added to each probability, as in Eqn 3. `None` computes logits' divergence from log-sigmoid.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        A scalar of `loss_dtype()`.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 3, for two classes.
    """
    full, small = ops.cast(full, loss_dtype()), ops.cast(small, loss_dtype())
    if not probabilities and epsilon is None:
        return weighted_mean(bernoulli_values(full, small, 1.0), sample_weight)
    p, q = (full, small) if probabilities else (ops.sigmoid(full), ops.sigmoid(small))
    epsilon = epsilon or EPSILON
    values = sum(a * ops.log((a + epsilon) / (b + epsilon)) for a, b in ((p, q), (1 - p, 1 - q)))
    return weighted_mean(ops.mean(values, axis=-1), sample_weight)


def bernoulli_values(teacher, student, temperature: float):
    """T² KL of yes-or-no outputs at a temperature, of each image and position: `(batch, ...)`.

    Args:
        teacher: Logits `(batch, ..., channels)`.
        student: Logits `(batch, ..., channels)`.
        temperature: T.
    """
    full, small = (ops.cast(logits, loss_dtype()) / temperature for logits in (teacher, student))
    values = ops.sigmoid(full) * (full - small) - ops.softplus(full) + ops.softplus(small)
    return temperature**2 * ops.mean(values, axis=-1)


def squared_error(full, small, sample_weight=None):
    """The squared difference of two networks' outputs, its mean over channels and batch, as Keras' own.

    Args:
        full: Numbers `(batch, ..., channels)` of the full network.
        small: Those of the small network.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        A scalar of `loss_dtype()`.
    """
    full, small = ops.cast(full, loss_dtype()), ops.cast(small, loss_dtype())
    return weighted_mean(ops.mean(ops.square(full - small), axis=-1), sample_weight)


def weighted_mean(values, sample_weight=None):
    """The mean over a batch, and over positions.

    Args:
        values: One for each image or position, `(batch, ...)`.
        sample_weight: `(batch,)` or `(batch, ...)` weights, or `None`. Images whose positions have weights of their own
            weigh as much as these on average, where values have none.

    Returns:
        A scalar: the weighted sum by the number of values, as Keras' losses are averaged.
    """
    if sample_weight is not None:
        weights, rank = ops.cast(sample_weight, loss_dtype()), len(values.shape)
        if len(weights.shape) > 1 and weights.shape[-1] == 1:
            weights = ops.squeeze(weights, axis=-1)
        if len(weights.shape) > rank:
            weights = ops.mean(weights, axis=tuple(range(rank, len(weights.shape))))
        values = values * ops.reshape(weights, (*ops.shape(weights), *[1] * (rank - len(weights.shape))))
    return ops.mean(values)
