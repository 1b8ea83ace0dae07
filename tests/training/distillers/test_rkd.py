"""RKD against numpy, pair by pair and triplet by triplet, and what it does not look at. Runs on JAX too."""

from itertools import product

import numpy as np
import pytest
from reference import maps, numpy, same_as, unit

from tfjointrd.training.distillers import RKD


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def distances(x):
    found = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    return found / (found.sum() / (len(x) * (len(x) - 1)))


def angle(a, b, c):
    """At `a`, between `b` and `c`; 0 where one of them is `a`."""
    both = b - a, c - a
    return 0.0 if not all(np.abs(v).any() for v in both) else unit(both[0]) @ unit(both[1])


def reference(student, teacher):
    own, theirs = distances(student), distances(teacher)
    count, found = len(student), np.zeros(len(student))
    for i, j in product(range(count), repeat=2):
        found[i] += 25 * huber(own[i, j] - theirs[i, j]) / count
    for i, j, k in product(range(count), repeat=3):
        angles = (angle(x[i], x[j], x[k]) for x in (student, teacher))
        found[i] += 50 * huber(np.subtract(*angles)) / count**2
    return found


def test_value_and_gradient():
    method = RKD()
    same_as(lambda own, theirs: method([own], [theirs]), reference, maps(4, 3), 4 * maps(4, 6))


def test_scale_rotation_and_place_do_not_matter():
    x, y = maps(5, 4).astype("float32"), maps(5, 4).astype("float32")
    turn = np.linalg.qr(maps(4, 4))[0].astype("float32")
    before = numpy(RKD()([x], [y]))
    np.testing.assert_allclose(numpy(RKD()([3 * x @ turn + 1], [0.1 * y @ turn])), before, rtol=1e-3)
    np.testing.assert_allclose(numpy(RKD()([x], [7 * x @ turn])), 0, atol=1e-4)
    assert (before > 1).all()


def test_one_image_and_equal_images_cost_nothing():
    x = np.ones((3, 4), "float32")
    for own, theirs in ((x[:1], 2 * x[:1]), (x, x)):
        np.testing.assert_array_equal(numpy(RKD()([own], [theirs])), 0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="Expected `angle_weight` from 0. Received: angle_weight=-1"):
        RKD(angle_weight=-1)
