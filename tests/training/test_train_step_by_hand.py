"""The training step that notebook 02 writes out computes what `JointRD` computes. TensorFlow only, as that step is."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, remove_shortcuts
from tfjointrd.training import CosineFade

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_jointrd_step_by_step.ipynb"
ENDS = ["stage1_relu", "stage2_relu"]
STEPS = 10


@pytest.fixture
def routed_student():
    """The notebook's class."""
    import tensorflow as tf

    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (source,) = (s for s in ("".join(cell["source"]) for cell in cells) if s.startswith("class RoutedStudent"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = {"keras": keras, "tf": tf, "loss": loss}
    exec(source, names)
    return names["RoutedStudent"]


def pair(routed_student, tiny):
    """The step by hand and `JointRD`, on equal students and teachers."""
    keras.utils.set_random_seed(1)
    teacher = tiny()
    keras.utils.set_random_seed(2)
    network = tiny()
    # Statistics other than those of any batch: a tail that used a batch's own would be seen.
    for layer in teacher.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.random.default_rng(0).normal(size=layer.moving_mean.shape))
    fade = CosineFade(floor=0.25, fade=0.8)
    by_package = JointRD(remove_shortcuts(network), teacher, tail_weight=fade)
    by_hand = routed_student(remove_shortcuts(network), teacher, ENDS, fade, STEPS)
    for model in (by_hand, by_package):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss=loss, metrics=["accuracy"])
    by_package.total_steps.assign(STEPS)
    return by_hand, by_package


@pytest.mark.parametrize("step", [0, 3, 9])
def test_loss_and_gradients_are_those_of_jointrd(routed_student, tiny, images, step):
    import tensorflow as tf

    by_hand, by_package = pair(routed_student, tiny)
    by_hand.optimizer.iterations.assign(step)
    by_package.step.assign(step)
    _, value, gradients = by_hand.loss_and_gradients(*images)
    with tf.GradientTape() as tape:
        expected = by_package.compute_loss(*images, by_package(images[0], training=True))
    references = tape.gradient(expected, by_package.student.trainable_variables)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert len(gradients) == len(references) == len(by_package.trainable_variables)
    largest = max(np.abs(gradient).max() for gradient in references)
    for gradient, reference in zip(gradients, references, strict=True):
        assert np.abs(gradient - reference).max() < 1e-6 * largest


def test_a_training_by_hand_is_that_of_jointrd(routed_student, tiny, images):
    by_hand, by_package = pair(routed_student, tiny)
    frozen = [weight.copy() for tail in by_hand.tails for weight in tail.get_weights()]
    histories = [
        model.fit(*images, batch_size=32, epochs=STEPS // 2, shuffle=False, verbose=0).history
        for model in (by_hand, by_package)
    ]
    assert histories[0].keys() == histories[1].keys() == {"loss", "accuracy"}
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4)
    weights = [model.student.get_weights() for model in (by_hand, by_package)]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for now, before in zip((w for tail in by_hand.tails for w in tail.get_weights()), frozen, strict=True):
        np.testing.assert_array_equal(now, before)


def test_in_double_precision_a_training_is_the_same(float64, routed_student, tiny, images):
    by_hand, by_package = pair(routed_student, tiny)
    options = {"batch_size": 32, "epochs": STEPS // 2, "shuffle": False, "verbose": 0}
    histories = [model.fit(*images, **options).history["loss"] for model in (by_hand, by_package)]
    np.testing.assert_allclose(*histories, rtol=1e-6)  # Keras averages the loss in single precision
    for a, b in zip(by_hand.student.get_weights(), by_package.student.get_weights(), strict=True):
        assert a.dtype == "float64"
        np.testing.assert_allclose(a, b, atol=1e-11)
