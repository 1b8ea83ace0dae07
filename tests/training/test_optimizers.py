"""`OptimizerPair`: what `compile` makes of a student's and a teacher's optimizer, and what callbacks see."""

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, remove_shortcuts
from tfjointrd.training.optimizers import OptimizerPair, like


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def joint_of(tiny, mode="joint"):
    return JointRD(remove_shortcuts(tiny()), tiny(), teacher_mode=mode)


def rates(model):
    return [float(numpy(optimizer.learning_rate)) for optimizer in model.optimizer.optimizers]


def two_variables(*values):
    return [keras.Variable(np.array(value, "float32"), name="kernel") for value in values]


def test_each_applies_its_own():
    """Momentum of Keras' SGD: v = m v - r g, w = w + v."""
    own, other = two_variables([1.0, 2.0], [3.0])
    student, teacher = keras.optimizers.SGD(0.1, momentum=0.5), keras.optimizers.SGD(1.0)
    pair = OptimizerPair(student, teacher, [other])
    pair.build([other, own])
    for _ in range(2):
        pair.apply([keras.ops.ones(1), keras.ops.ones(2)], [other, own])
    np.testing.assert_allclose(numpy(own.value), [1 - 0.1 - 0.15, 2 - 0.25], rtol=1e-6)
    np.testing.assert_allclose(numpy(other.value), [1.0])
    assert [int(numpy(o.iterations)) for o in (pair, student, teacher)] == [2, 2, 2]
    held = {id(variable) for variable in pair.variables}
    assert held >= {id(variable) for optimizer in (student, teacher) for variable in optimizer.variables}


def test_the_default_is_like_the_students(tiny):
    joint = joint_of(tiny)
    schedule = keras.optimizers.schedules.CosineDecay(0.2, 10)
    optimizer = keras.optimizers.SGD(schedule, momentum=0.8, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma"])
    joint.compile(optimizer)
    student, teacher = joint.optimizer.optimizers
    assert student is optimizer and teacher is not optimizer
    assert keras.saving.serialize_keras_object(teacher) == keras.saving.serialize_keras_object(student)
    # What is left out of weight decay is left out for the teacher, too.
    joint.optimizer.build(joint.trainable_variables)
    before = {v.path: numpy(v.value).copy() for v in joint.teacher.trainable_variables}
    joint.optimizer.apply([keras.ops.zeros(v.shape) for v in joint.trainable_variables], joint.trainable_variables)
    moved = {v.name for v in joint.teacher.trainable_variables if np.abs(numpy(v.value) - before[v.path]).max() > 0}
    assert moved == {"kernel"}


@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_exclusions_are_saved(tiny, tmp_path, mode):
    """By name and by variable, of either optimizer; Keras saves all of an optimizer but these."""
    joint = joint_of(tiny, mode)
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(joint.student.trainable_variables[:1], ["bias", "beta"])
    options = {}
    if mode == "joint":
        options["teacher_optimizer"] = keras.optimizers.SGD(0.1, weight_decay=0.5)
        options["teacher_optimizer"].exclude_from_weight_decay(var_names=["gamma"])
    joint.compile(optimizer, **options)
    joint.save(tmp_path / "joint.keras")
    again = keras.saving.load_model(tmp_path / "joint.keras")

    def decaying(model):
        before = [numpy(v.value).copy() for v in model.trainable_variables]
        model.optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
        pairs = zip(model.trainable_variables, before, strict=True)
        return [v.path for v, old in pairs if np.abs(numpy(v.value) - old).max() > 0]

    for variable in (*joint.trainable_variables, *again.trainable_variables):
        variable.assign(keras.ops.ones(variable.shape))
    joint.optimizer.build(joint.trainable_variables)
    expected = [v.path for v in joint.student.trainable_variables[1:] if v.name not in ("bias", "beta")]
    expected += [v.path for v in joint.teacher.trainable_variables if v.name != "gamma"]  # none of a frozen one
    assert decaying(joint) == decaying(again) == expected


def test_like_copies_exclusions_of_variables():
    kept, decays = two_variables([1.0], [1.0])
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[kept])
    again = like(optimizer)
    again.build([kept, decays])
    again.apply([keras.ops.zeros(1)] * 2, [kept, decays])
    np.testing.assert_allclose([*numpy(kept.value), *numpy(decays.value)], [1.0, 0.95])


def test_names_and_settings(tiny):
    joint = joint_of(tiny)
    joint.compile("sgd", teacher_optimizer="adam")
    assert [type(o) for o in joint.optimizer.optimizers] == [keras.optimizers.SGD, keras.optimizers.Adam]
    joint.compile(keras.optimizers.SGD(0.3), teacher_optimizer=keras.optimizers.SGD(0.2))
    assert rates(joint) == pytest.approx([0.3, 0.2])


@pytest.mark.parametrize("plateau", [False, True])
def test_callbacks_set_both_learning_rates(tiny, images, plateau):
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    if plateau:
        callback = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=100.0)
    joint = joint_of(tiny)
    joint.compile(keras.optimizers.SGD(0.4), teacher_optimizer=keras.optimizers.SGD(0.2))
    joint.fit(*images, batch_size=64, epochs=2, callbacks=[callback], verbose=0)
    assert rates(joint) == pytest.approx([0.2, 0.1] if plateau else [0.1, 0.05])
    joint.optimizer.learning_rate = 0.3
    assert rates(joint) == pytest.approx([0.3, 0.1 if plateau else 0.05])
    assert float(numpy(joint.optimizer.learning_rate)) == pytest.approx(0.3)


def test_averages_are_put_in_place(tiny, images):
    """With `use_ema`, `fit` ends with the averages as weights: those of the student alone, if only it has them."""
    joint = joint_of(tiny)
    averaging = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    joint.compile(averaging, teacher_optimizer=keras.optimizers.SGD(0.1))
    joint.fit(*images, batch_size=32, verbose=0)
    averages = [numpy(v.value) for v in averaging.variables if "average" in v.path]
    assert len(averages) == len(joint.student.trainable_variables) > 0
    for average, variable in zip(averages, joint.student.trainable_variables, strict=True):
        np.testing.assert_array_equal(numpy(variable.value), average)


def test_optimizers_that_cannot_be(tiny):
    with pytest.raises(ValueError, match="Expected no `teacher_optimizer` for a frozen teacher"):
        joint_of(tiny, "frozen").compile("sgd", teacher_optimizer="sgd")
    joint = joint_of(tiny)
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="Expected `teacher_optimizer` to be another than `optimizer`"):
        joint.compile(optimizer, teacher_optimizer=optimizer)
    for scaled in (keras.optimizers.SGD(loss_scale_factor=8.0), keras.optimizers.LossScaleOptimizer(optimizer)):
        with pytest.raises(ValueError, match="leave the loss as it is"):
            joint.compile(scaled, teacher_optimizer="sgd")
        with pytest.raises(ValueError, match="leave the loss as it is"):
            joint.compile("sgd", teacher_optimizer=scaled)
