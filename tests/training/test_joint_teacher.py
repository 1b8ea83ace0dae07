"""`JointRD` with a teacher that learns beside the student, against steps written by hand; and on JAX as on TensorFlow.

`python test_joint_teacher.py FILE` writes what each of `CASES` comes to on the backend that it runs on.
"""

import os
import sys

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, dirac, remove_shortcuts
from tfjointrd.experiments.checkpoint import variables_of
from tfjointrd.training.distillers import KD, Overhaul

TAPS = ("stage1_relu", "stage2_relu")
STUDENT, TEACHER = {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 0.03, "momentum": 0.5}


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def pair(tiny, **kwargs):
    """A plain student and a teacher, with the same random weights on every backend."""
    networks = remove_shortcuts(tiny(**kwargs)), tiny(**kwargs)
    rng = np.random.default_rng(0)
    for network in networks:
        for variable in network.trainable_variables:
            if variable.name == "kernel":
                fan = np.prod(variable.shape[:-1])
                variable.assign(rng.normal(0, np.sqrt(2 / fan), variable.shape))
    return networks


def copy_of(network):
    again = keras.models.clone_model(network)
    again.set_weights(network.get_weights())
    return again


def sgd(settings):
    return keras.optimizers.SGD(**settings)


def equal(ours, theirs, **close):
    for own, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, **close)


def difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True))


# === Steps by hand ===


def by_hand(student, teacher, x, y, steps, tail_weight, tails_first=False):
    """Copies of both networks after steps of their own; `tails_first` runs the tails on the older statistics."""
    import tensorflow as tf

    student, teacher = copy_of(student), copy_of(teacher)
    taps = keras.Model(student.input, [*(student.get_layer(name).output for name in TAPS), student.output])
    tails = [keras.Model(teacher.get_layer(name).output, teacher.output) for name in TAPS]
    velocities = {}

    def cross_entropy(logits):
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

    def through_tails(features):
        return sum(cross_entropy(tail(f, training=False)) for tail, f in zip(tails, features, strict=True))

    def descend(network, gradients, settings):
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            old = velocities.get(id(variable), 0.0)
            velocities[id(variable)] = settings["momentum"] * old - settings["learning_rate"] * gradient.numpy()
            variable.assign(variable.numpy() + velocities[id(variable)])

    for _ in range(steps):
        with tf.GradientTape(persistent=True) as tape:
            *features, logits = taps(x, training=True)
            early = through_tails(features) if tails_first else None
            teacher_loss = cross_entropy(teacher(x, training=True))
            tail_loss = early if tails_first else through_tails(features)
            student_loss = cross_entropy(logits) + tail_weight * tail_loss
        gradients = [tape.gradient(student_loss, student.trainable_variables)]
        gradients.append(tape.gradient(teacher_loss, teacher.trainable_variables))
        descend(student, gradients[0], STUDENT)
        descend(teacher, gradients[1], TEACHER)
    return student, teacher


@pytest.mark.usefixtures("eager")
def test_two_steps_by_hand(tiny, images):
    x, y = images
    student, teacher = pair(tiny)
    expected = by_hand(student, teacher, x, y, 2, tail_weight=0.7)
    other, _ = by_hand(student, teacher, x, y, 2, tail_weight=0.7, tails_first=True)
    joint = JointRD(student, teacher, tail_weight=0.7, teacher_mode="joint")
    assert joint.student is student and joint.teacher is teacher
    joint.compile(sgd(STUDENT), teacher_optimizer=sgd(TEACHER))
    joint.fit(x, y, batch_size=64, epochs=2, verbose=0)
    equal(student, expected[0], atol=1e-5)
    equal(teacher, expected[1], atol=1e-5)
    assert difference(other, expected[0]) > 1e-3  # the order of statistics and tails is seen here


@pytest.mark.usefixtures("eager")
def test_the_teacher_learns_as_it_does_alone(tiny, images):
    """No gradient of a tail, a target or a feature reaches it, and its statistics move with its own pass only."""
    x, y = images
    student, teacher = pair(tiny)
    alone, before = copy_of(teacher), copy_of(teacher)
    joint = JointRD(student, teacher, tail_weight=1.0, teacher_mode="joint", methods=[Overhaul(0.01), KD(weight=0.5)])
    connectors = [copy_of(connector) for connector in joint.connectors.values()]
    joint.compile(sgd(STUDENT), teacher_optimizer=sgd(TEACHER))
    alone.compile(sgd(TEACHER), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for model in (joint, alone):
        model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    equal(teacher, alone, atol=2e-6)
    assert difference(teacher, before) > 0.05
    assert len(connectors) == 3
    for old, new in zip(connectors, joint.connectors.values(), strict=True):
        assert all(np.abs(a - b).max() > 0 for a, b in zip(old.get_weights(), new.get_weights(), strict=True))


# === Saving, precision ===


def trained(joint, x, y, start, end):
    joint.fit(x, y, batch_size=32, epochs=end, initial_epoch=start, shuffle=False, verbose=0)
    return joint


def compiled(joint):
    joint.compile(keras.optimizers.SGD(0.05, momentum=0.9), teacher_optimizer=keras.optimizers.Adam(0.01))
    return joint


def test_continued_from_a_file_or_a_checkpoint(tiny, images, tmp_path):
    """Either holds enough, of both optimizers, to go on as if nothing had been."""
    joint = trained(compiled(JointRD(*pair(tiny), teacher_mode="joint")), *images, 0, 2)
    joint.save(tmp_path / "joint.keras")
    loaded = keras.saving.load_model(tmp_path / "joint.keras")
    assert loaded.teacher_mode == "joint" and loaded.teacher.trainable_variables
    kinds = [type(optimizer) for optimizer in loaded.optimizer.optimizers]
    assert kinds == [keras.optimizers.SGD, keras.optimizers.Adam]
    assert [int(numpy(v)) for v in (loaded.optimizer.iterations, loaded.step)] == [4, 4]
    restored = compiled(JointRD(*pair(tiny), teacher_mode="joint"))
    restored.optimizer.build(restored.trainable_variables)
    for group in ("model", "optimizer"):
        for new, old in zip(variables_of(restored)[group], variables_of(joint)[group], strict=True):
            new.assign(old)
    held = {id(variable) for variable in variables_of(joint)["optimizer"]}
    assert all(held >= {id(v) for v in optimizer.variables} for optimizer in joint.optimizer.optimizers)
    for model in (joint, loaded, restored):
        trained(model, *images, 2, 3)
    equal(loaded, joint, atol=1e-6)
    equal(restored, joint, atol=1e-6)


@pytest.mark.usefixtures("traced")
def test_mixed_precision(tiny, images, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    student, teacher = pair(tiny)
    before = copy_of(student), copy_of(teacher)
    joint = compiled(JointRD(student, teacher, teacher_mode="joint", methods=Overhaul()))
    assert np.isfinite(joint.fit(*images, epochs=2, verbose=0).history["loss"]).all()
    assert all(difference(*networks) > 1e-3 for networks in zip(before, (student, teacher), strict=True))
    joint.optimizer.learning_rate = 0.5
    assert float(numpy(joint.optimizer.inner_optimizer.optimizers[0].learning_rate)) == 0.5
    config = joint.get_compile_config()
    assert config["optimizer"]["class_name"] == "SGD" and config["teacher_optimizer"]["class_name"] == "Adam"
    joint.save(tmp_path / "joint.keras")
    keras.config.set_dtype_policy("float32")
    again = keras.saving.load_model(tmp_path / "joint.keras")
    for one, other in zip(again.optimizer.variables, joint.optimizer.variables, strict=True):  # the loss scale included
        np.testing.assert_array_equal(numpy(one), numpy(other))
    assert type(again.optimizer) is type(joint.optimizer) is keras.optimizers.LossScaleOptimizer


# === Other backends ===

CASES = {
    "joint": lambda student, teacher: JointRD(
        student, teacher, tail_weight=0.5, teacher_mode="joint", methods=Overhaul(0.01), path_scale="mean"
    ),
    "distilled": lambda student, teacher: Distillation(dirac(student), teacher, [KD(weight=0.5), Overhaul(0.01)]),
}


def run_cases(tiny, path):
    """Losses and weights of two steps of each case."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 8, 8, 1)).astype("float32"), np.arange(32) % 3
    found = {}
    for name, make in CASES.items():
        model = make(*pair(tiny))
        draw = np.random.default_rng(2)
        for connector in model.connectors.values():
            connector.layers[0].kernel.assign(draw.normal(size=connector.layers[0].kernel.shape))
        model.compile(sgd(STUDENT), **({"teacher_optimizer": sgd(TEACHER)} if name == "joint" else {}))
        for step in (1, 2):
            history = model.fit(x, y, batch_size=32, epochs=step, initial_epoch=step - 1, verbose=0).history
            found[f"{name}_loss{step}"] = history["loss"][0]
            if step == 1:
                weights = [*model.student.get_weights(), *model.teacher.get_weights()]
                found.update({f"{name}_{i}": value for i, value in enumerate(weights)})
    np.savez(path, **found)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow")
def test_jax_comes_to_the_same(tiny, tmp_path):
    """Gradients too. On JAX, statistics that a pass has just moved are functions of weights, and would hand them on."""
    import forked  # which the script of this file does not find

    code = f"import runpy, sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    code += f"runpy.run_path({__file__!r}, run_name='__main__')"
    forked.run(code, tmp_path / "jax.npz")
    run_cases(tiny, tmp_path / "tensorflow.npz")
    ours, theirs = (np.load(tmp_path / f"{backend}.npz") for backend in ("jax", "tensorflow"))
    assert set(ours) == set(theirs) and len(ours.files) > 80
    for name in theirs:
        assert np.isfinite(ours[name]).all()
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, rtol=1e-4, err_msg=name)


if __name__ == "__main__":
    from conftest import small_resnet

    run_cases(small_resnet, sys.argv[1])
