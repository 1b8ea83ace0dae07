"""Hinton's loss against numpy; mixed with what outputs other than classes have in `test_tasks.py`. Runs on JAX too."""

import numpy as np
import pytest
from reference import log_softmax, maps, numpy, of_outputs, same_as

from tfjointrd.training.distillers import KD


def reference(student, teacher):
    """T² sum_i p_i log(p_i / q_i)."""
    p, q = log_softmax(teacher / 3), log_softmax(student / 3)
    return 9 * (np.exp(p) * (p - q)).sum(-1)


def test_value_and_gradient():
    method = of_outputs(KD(temperature=3.0), 5)
    same_as(lambda own, theirs: method([own], [theirs])[0], reference, 3 * maps(4, 5), 3 * maps(4, 5))


def test_the_same_outputs_cost_nothing():
    method, x = of_outputs(KD(), 5), maps(4, 5).astype("float32")
    np.testing.assert_allclose(numpy(method([x], [x + 2.0])[0]), 0, atol=1e-5)  # logits are up to a constant


def test_bad_arguments():
    with pytest.raises(ValueError, match="Expected `temperature` above 0. Received: temperature=0"):
        KD(temperature=0)
    with pytest.raises(ValueError, match="Expected a `weight` from 0 throughout the training. Received: -1"):
        KD(weight=-1.0)
