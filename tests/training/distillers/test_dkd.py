"""DKD against numpy, as its paper splits Hinton's loss. Runs on JAX too."""

import keras
import numpy as np
import pytest
from reference import log_softmax, maps, numpy, of_outputs, same_as

from tfjointrd.training.distillers import DKD, KD

LABELS = np.array([0, 4, 2, 2])
T = 3.0


def split(student, teacher):
    """TCKD, NCKD and the teacher's probability of the wrong classes, image by image."""
    rows = []
    for own, theirs, right in zip(student, teacher, LABELS, strict=True):
        p, q = np.exp(log_softmax(theirs / T)), np.exp(log_softmax(own / T))
        target = p[right] * np.log(p[right] / q[right]) + (1 - p[right]) * np.log((1 - p[right]) / (1 - q[right]))
        p_hat, q_hat = np.delete(p, right) / (1 - p[right]), np.delete(q, right) / (1 - q[right])
        rows.append((target, (p_hat * np.log(p_hat / q_hat)).sum(), 1 - p[right]))
    return np.array(rows).T


def test_value_and_gradient():
    method = of_outputs(DKD(T, target_weight=0.7, others_weight=2.0), 5)

    def reference(student, teacher):
        target, others, _ = split(student, teacher)
        return T**2 * (0.7 * target + 2.0 * others)

    arrays = 3 * maps(4, 5), 3 * maps(4, 5)
    one_hot = np.eye(5, dtype="float32")[LABELS]
    for labels in (LABELS, LABELS[:, None], one_hot):
        same_as(lambda own, theirs, y=labels: method([own], [theirs], labels=[y])[0], reference, *arrays)


def test_it_is_hintons_loss_split_in_two():
    """KD = TCKD + (1 - p_t) NCKD, Eqn 5."""
    student, teacher = 2 * maps(4, 5), 2 * maps(4, 5)
    target, others, wrong = split(student, teacher)
    found = of_outputs(KD(T), 5)([student.astype("float32")], [teacher.astype("float32")])[0]
    np.testing.assert_allclose(numpy(found), T**2 * (target + wrong * others), rtol=1e-4)


def test_labels_that_are_smoothed():
    """The class with the largest share is the right one."""
    student, teacher = maps(4, 5).astype("float32"), maps(4, 5).astype("float32")
    hard = np.eye(5, dtype="float32")[[0, 3, 3, 1]]
    for labels in (np.array([0, 3, 3, 1]), 0.9 * hard + 0.02):
        found = DKD()._of_output(student, teacher, labels)
        np.testing.assert_allclose(numpy(found), numpy(DKD()._of_output(student, teacher, hard)), rtol=1e-5)


def test_the_same_outputs_cost_nothing():
    x = 40 * maps(4, 5).astype("float32")  # of a teacher that is sure
    np.testing.assert_allclose(numpy(of_outputs(DKD(), 5)([x], [x], labels=[LABELS])[0]), 0, atol=1e-4)
    other = numpy(of_outputs(DKD(), 5)([-x], [x], labels=[LABELS])[0])
    assert np.isfinite(other).all() and (other > 1).all()


def test_outputs_of_one_channel_are_refused(tiny):
    with pytest.raises(ValueError, match="outputs of classes, .* Received: output 'scores', whose 1 channel"):
        of_outputs(DKD(), 1)
    with pytest.raises(ValueError, match="Expected `others_weight` from 0. Received: others_weight=-1"):
        DKD(others_weight=-1)
    assert isinstance(keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(DKD())), DKD)
