"""Criteria that look at weights alone."""

from __future__ import annotations

import keras
import numpy as np

from tfjointrd.surgery.importance.criterion import Criterion, register_importance


@keras.saving.register_keras_serializable(package="tfjointrd")
class L1(Criterion):
    """The sum of absolute weights of each kernel and each normalisation's scale.

    Layers that make the channels are scored by the weights that compute them, layers that take the channels by the
    weights that read them, and batch normalisations by gamma. Each layer gives a vector of scores of its own. The paper
    looks at the filters of one layer: `L1(reduction="first")`.

    Args:
        reduction: See `Criterion`.
        normalize: See `Criterion`.

    Reference:
        Pruning Filters for Efficient ConvNets (https://arxiv.org/abs/1608.08710), section 3.1: s_j = sum |F_ij|.
    """

    def members(self, tied, slices, measured):
        """The norms of the slices."""
        return [self.norm(one.values) for one in slices if one.is_kernel or one.is_scale]

    def norm(self, values: np.ndarray) -> np.ndarray:
        """The norm of each row."""
        return np.sum(np.abs(values), axis=1, dtype="float64")


@keras.saving.register_keras_serializable(package="tfjointrd")
class L2(L1):
    """The Euclidean norm of the same weights as `L1`.

    Args:
        reduction: See `Criterion`.
        normalize: See `Criterion`.

    Reference:
        Soft Filter Pruning (https://arxiv.org/abs/1808.06866), Eqn 2 with p = 2.
    """

    def norm(self, values):
        """The norm of each row."""
        return np.sqrt(np.sum(np.square(values, dtype="float64"), axis=1))


@keras.saving.register_keras_serializable(package="tfjointrd")
class BatchNormGamma(Criterion):
    """The absolute scale of batch normalisations, by which network slimming ranks channels of all layers together.

    It says nothing of sets without a batch normalisation that has a scale. It is made for networks whose gammas were
    trained towards zero.

    Args:
        reduction: See `Criterion`.
        normalize: See `Criterion`; by default nothing, as in the paper.

    Reference:
        Network Slimming (https://arxiv.org/abs/1708.06519), section 3.
    """

    def __init__(self, reduction: str = "mean", normalize: str | None = None):
        super().__init__(reduction, normalize)

    def members(self, tied, slices, measured):
        """The scales."""
        return [np.abs(one.values).sum(axis=1) for one in slices if one.is_scale]


@keras.saving.register_keras_serializable(package="tfjointrd")
class FPGM(Criterion):
    """The sum of distances from the other kernels of the set: those near the geometric median can be replaced.

    Layers that make the channels are scored by distances between the weights that compute them, layers that take the
    channels by distances between the weights that read them.

    Args:
        reduction: See `Criterion`.
        normalize: See `Criterion`.

    Reference:
        Filter Pruning via Geometric Median (https://arxiv.org/abs/1811.00250), Eqn 6.
    """

    def members(self, tied, slices, measured):
        """Sums of Euclidean distances."""
        return [_distances(one.values) for one in slices if one.is_kernel]


@keras.saving.register_keras_serializable(package="tfjointrd")
class LAMP(Criterion):
    """The squared norm as a part of those that are at least as large: scores of different sets compare as they are.

    The largest channel of each set has the score 1, so that no set is emptied. The squared norm is that of all weights
    which `L2` looks at, reduced over the set.

    Args:
        reduction: As for `Criterion`.

    Reference:
        Layer-adaptive Sparsity for the Magnitude-based Pruning (https://arxiv.org/abs/2010.07611), Eqn 3, for channels
        in place of single weights.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction, None)

    def members(self, tied, slices, measured):
        """Squared norms."""
        kernels = [one.values for one in slices if one.is_kernel or one.is_scale]
        return [np.sum(np.square(values, dtype="float64"), axis=1) for values in kernels]

    def combined(self, members):
        """Each as a part of the sum of those from it on, in rising order."""
        squares = super().combined(members)
        order = np.argsort(squares, kind="stable")
        rest = np.cumsum(squares[order][::-1])[::-1]
        scores = np.zeros_like(squares)
        scores[order] = np.divide(squares[order], rest, out=np.zeros_like(rest), where=rest > 0)
        return scores


@keras.saving.register_keras_serializable(package="tfjointrd")
class Random(Criterion):
    """Random numbers, the control that every criterion has to beat.

    Args:
        seed: Two networks of the same sets get the same scores by the same seed.
    """

    needs_slices = False

    def __init__(self, seed: int = 0):
        super().__init__(normalize=None)
        self.seed = seed

    def measure(self, model, sets, data):
        """The generator."""
        return np.random.default_rng(self.seed)

    def members(self, tied, slices, measured):
        """Uniform numbers from 0 to 1."""
        return [measured.uniform(size=len(tied))]


def _distances(values: np.ndarray) -> np.ndarray:
    """For each row the sum of its Euclidean distances from all rows, `(rows,)`."""
    values = np.asarray(values, "float64")
    values = values - values.mean(axis=0)  # keeps the difference of squares accurate
    squares = np.sum(values**2, axis=1)
    found = squares[:, None] + squares[None] - 2 * values @ values.T
    np.fill_diagonal(found, 0)
    return np.sqrt(np.maximum(found, 0)).sum(axis=1)


register_importance("l1", L1)
register_importance("l2", L2)
register_importance("gamma", BatchNormGamma)
register_importance("fpgm", FPGM)
register_importance("lamp", LAMP)
register_importance("random", Random)
