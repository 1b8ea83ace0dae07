"""Knowledge review against numpy. Runs on JAX too."""

import numpy as np
import pytest
from reference import built, conv, maps, normalized, numpy, same_as, weights_of

from tfjointrd.training.distillers import ReviewKD
from tfjointrd.training.distillers.review_kd import hcl


def pooled(x, size):
    windows = [slice(i * x.shape[1] // size, -(-(i + 1) * x.shape[1] // size)) for i in range(size)]
    return np.array([[x[:, rows, columns].mean((1, 2)) for columns in windows] for rows in windows]).transpose(
        2, 0, 1, 3
    )


def distance(own, theirs):
    """HCL."""
    total, weights = np.square(own - theirs).mean((1, 2, 3)), 1.0
    for size, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        if size < own.shape[1]:
            # The weights are halved from one size that there is to the next.
            weight = 0.5 ** (1 + sum(other < own.shape[1] for other in (4, 2, 1) if other > size))
            total = total + weight * np.square(pooled(own, size) - pooled(theirs, size)).mean((1, 2, 3))
            weights += weight
    return total / weights


@pytest.mark.parametrize("side", [1, 4, 6, 7, 8])
def test_the_hierarchical_distance(side):
    same_as(hcl, distance, maps(2, side, side, 2), maps(2, side, side, 2))


def test_value_and_gradient():
    method = built(ReviewKD(channels=3), [(4, 4, 2), (2, 2, 3)], [(4, 4, 3), (2, 2, 4)])
    inner, outer, attention = (list(map(weights_of, part)) for part in (method.inner, method.outer, method.attentions))

    def reference(first, second, *targets):
        own = [first, second, second.mean((1, 2), keepdims=True)]
        theirs = [*targets, targets[-1].mean((1, 2), keepdims=True)]
        total, deeper = 0, None
        for i in (2, 1, 0):
            kernel, gamma, beta, *_ = inner[i]
            joined = normalized(conv(own[i], kernel), gamma, beta)
            if deeper is not None:
                deeper = deeper.repeat(2, axis=1).repeat(2, axis=2)
                scores = 1 / (1 + np.exp(-conv(np.concatenate([joined, deeper], -1), *attention[i])))
                joined = joined * scores[..., :1] + deeper * scores[..., 1:]
            deeper = joined
            kernel, gamma, beta, *_ = outer[i]
            total = total + distance(normalized(conv(joined, kernel), gamma, beta), theirs[i])
        return total

    arrays = maps(3, 4, 4, 2), maps(3, 2, 2, 3), maps(3, 4, 4, 3), maps(3, 2, 2, 4)
    same_as(lambda a, b, c, d: method([a, b], [c, d]), reference, *arrays, rtol=5e-3)


def test_the_same_maps_cost_nothing():
    x = maps(2, 4, 4, 3).astype("float32")
    np.testing.assert_array_equal(numpy(hcl(x, x)), 0)


def test_shapes_that_do_not_fit():
    for own, theirs, message in (
        ([(4, 4, 2)], [(2, 2, 2)], "same height and width in both networks for ReviewKD"),
        ([(5, 5, 2), (2, 2, 2)], [(5, 5, 2), (2, 2, 2)], "whole multiples of the next one's for ReviewKD"),
    ):
        with pytest.raises(ValueError, match=message):
            built(ReviewKD(), own, theirs)
