import keras
import numpy as np
import pytest

from tfjointrd.surgery.output_activation import final_activation
from tfjointrd.surgery.tasks import default_loss
from tfjointrd.training import kullback_leibler
from tfjointrd.training.losses import distillation, per_replica


def test_kullback_leibler_as_printed():
    """Eqn 3: sum_i p_i log((p_i + 1e-6) / (q_i + 1e-6)), the mean over the batch."""
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(4), size=5).astype("float32") for _ in range(2))
    q[0] = [1, 0, 0, 0]
    expected = np.sum(p * np.log((p + 1e-6) / (q + 1e-6)), axis=-1)
    assert float(kullback_leibler(p, q)) == pytest.approx(expected.mean(), rel=1e-5)
    weights = np.array([1, 0, 2, 0, 0.5], "float32")
    assert float(kullback_leibler(p, q, weights)) == pytest.approx((expected * weights).mean(), rel=1e-5)
    assert float(kullback_leibler(p, p)) == pytest.approx(0, abs=1e-6)


def test_distillation_with_weights():
    """T² KL(softmax(a / T), softmax(b / T)), each image times its weight, the mean over the batch."""
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(-1, keepdims=True) for z in (a, b))
    weights = np.array([1, 0, 2, 0.25, 0.5], "float32")
    expected = 9 * np.mean(weights * np.sum(p * np.log(p / q), axis=-1))
    assert float(distillation(a, b, 3.0, weights)) == pytest.approx(expected, rel=1e-4)


def test_logits_and_probabilities_are_told_apart(tiny):
    assert final_activation(tiny()) is None
    assert final_activation(tiny(softmax=True)) == "softmax"
    layered = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])
    assert final_activation(layered) == "softmax"
    activated = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Activation("softmax")])
    assert final_activation(activated) == "softmax"
    assert default_loss(tiny()).get_config()["from_logits"]
    assert not default_loss(tiny(softmax=True)).get_config()["from_logits"]


def test_per_replica(monkeypatch):
    assert per_replica(6.0) == 6.0
    monkeypatch.setattr("tfjointrd.training.losses.replicas", lambda: 2)
    assert per_replica(6.0) == 3.0


def test_softmax_as_an_operator_is_seen():
    inputs = keras.Input((4,))
    logits = keras.layers.Dense(3)(inputs)
    assert final_activation(keras.Model(inputs, keras.ops.softmax(logits))) == "softmax"
    assert final_activation(keras.Model(inputs, logits)) is None
