"""Boundaries and networks that do not fit together, and connectors where they can be made to. Runs on JAX too."""

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, adjoin, remove_shortcuts
from tfjointrd.training import CosineFade

L = keras.layers
PAIR = [("stage1_relu", "stage2_relu")]  # 8x8x4 in the student, 4x4x8 in the teacher


def plain(tiny, **kwargs):
    return remove_shortcuts(tiny(**kwargs))


def network_of_any_size():
    inputs = keras.Input((None, None, 1))
    x = inputs
    for strides in (1, 2):
        x = L.Conv2D(4, 3, strides, padding="same")(x)
        x = L.Add()([x, L.Conv2D(4, 3, padding="same")(x)])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def fitted(joint, images, learning_rate=0.05, **kwargs):
    joint.compile(optimizer=keras.optimizers.SGD(learning_rate))
    return joint.fit(*images, batch_size=32, verbose=0, shuffle=False, **kwargs).history["loss"]


def kernels(joint):
    return {name: model.get_weights()[0].copy() for name, model in joint.boundary_connectors.items()}


def test_no_boundary_is_found(tiny):
    inputs = keras.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, name="other")(inputs))
    other = keras.Model(inputs, L.Dense(3)(x), name="other")
    with pytest.raises(ValueError, match="Found no stage .* Pass `boundaries`.* student 'other', teacher 'tiny'"):
        JointRD(other, tiny())
    with pytest.raises(ValueError, match="Found no stage"):  # a plain teacher has no stages
        JointRD(plain(tiny), plain(tiny))
    unsized = network_of_any_size()
    with pytest.raises(ValueError, match="known image size, or `boundaries`"):
        JointRD(remove_shortcuts(unsized), unsized)


@pytest.mark.parametrize(
    "boundaries, message",
    [
        ([], r"at least one layer. Received: boundaries=\[\]"),
        ("stage1_relu", "Received: boundaries='stage1_relu'"),
        (["nowhere"], "name layers of the student. Received: 'nowhere'"),
        ([("stage1_relu", "nowhere")], "name layers of the teacher. Received: 'nowhere'"),
        ([("stage1_relu", "stage1_relu", "stage1_relu")], r"or pairs of names .* Received: \('stage1_relu', 'st"),
        ([("stage1_relu", 1)], r"or pairs of names .* Received: \('stage1_relu', 1\)"),
        (["stage2_relu1"], "Received: 'stage2_relu1', which a shortcut bypasses"),
        (["stage2_relu", "stage1_relu"], "in network order"),
        (["stage1_relu", "stage1_relu"], "each once"),
        (
            [("head_pool", "stage1_relu")],
            r"Expected feature maps .*'head_pool'.*'stage1_relu'.* \(12,\) and \(8, 8, 4\)",
        ),
        (
            [("stage2_relu", "stage1_relu")],
            r"resolution at boundary 'stage2_relu' .* 'stage1_relu' .* \(4, 4, 8\) and \(8, 8, 4\)",
        ),
    ],
)
def test_boundaries_that_cannot_be(tiny, boundaries, message):
    with pytest.raises(ValueError, match=message):
        JointRD(plain(tiny), tiny(), boundaries=boundaries)


def test_other_shapes_are_connected_and_said(tiny, images):
    student, teacher = plain(tiny), tiny()
    with pytest.warns(UserWarning) as caught:
        joint = JointRD(student, teacher, boundaries=PAIR)
    (warning,) = [warning for warning in caught if "1x1" in str(warning.message)]
    assert Path(warning.filename) == Path(__file__)  # the line that makes it, not one of ours
    for part in ("'stage1_relu' of the student", "(8, 8, 4)", "'stage2_relu' of the teacher", "(4, 4, 8)", "1x1"):
        assert part in str(warning.message)
    assert joint.boundary_connectors["stage1_relu"].output_shape == (None, 4, 4, 8)
    before = kernels(joint)
    assert np.isfinite(fitted(joint, images)).all()
    assert np.abs(kernels(joint)["stage1_relu"] - before["stage1_relu"]).max() > 0
    assert joint(images[0]).shape == (64, 3)


def test_equal_shapes_are_not_connected(tiny):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joint = JointRD(plain(tiny), tiny())
    assert joint.boundary_connectors == {}
    assert not [warning for warning in caught if "1x1" in str(warning.message)]


def test_narrow_student(tiny, images):
    """Same names, other widths: connected where found, trained with its connectors, and the connectors stay behind."""
    student, teacher = plain(tiny, filters=4), tiny(filters=6)
    with pytest.warns(UserWarning, match="learned 1x1 convolution"):
        joint = JointRD(student, teacher, tail_weight=1.0)
    assert joint.boundaries == [(name, name) for name in ("stage1_relu", "stage2_relu")]
    assert [m.output_shape[1:] for m in joint.boundary_connectors.values()] == [(8, 8, 6), (4, 4, 12)]
    # The tails take what a ReLU leaves, as they do from the teacher itself.
    shown = joint.boundary_connectors["stage1_relu"].predict(np.ones((2, 8, 8, 4)), verbose=0)
    assert shown.min() == 0 < shown.max()
    before = kernels(joint)
    losses = fitted(joint, images, learning_rate=0.1, epochs=8)
    assert losses[-1] < losses[0]
    for name, kernel in kernels(joint).items():
        assert np.abs(kernel - before[name]).max() > 1e-4
    assert len(student.weights) == len(plain(tiny).weights)


@pytest.mark.filterwarnings("ignore:Boundary")
def test_connectors_are_saved(tiny, images, tmp_path):
    joint = JointRD(plain(tiny, filters=4), tiny(filters=6), tail_weight=1.0)
    fitted(joint, images)
    joint.save(tmp_path / "joint.keras")
    again = keras.saving.load_model(tmp_path / "joint.keras")
    for name, kernel in kernels(joint).items():
        np.testing.assert_array_equal(again.boundary_connectors[name].get_weights()[0], kernel)
    for ours, theirs in zip(again.get_weights(), joint.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for model in (joint, again):
        model.fit(*images, batch_size=32, epochs=2, verbose=0, shuffle=False)
    for name, kernel in kernels(joint).items():
        np.testing.assert_allclose(again.boundary_connectors[name].get_weights()[0], kernel, atol=1e-5)


def test_a_warning_on_loading_points_to_the_loading(tiny, tmp_path):
    with pytest.warns(UserWarning, match="Boundary"):
        joint = JointRD(plain(tiny), tiny(), boundaries=PAIR)
    joint.save(tmp_path / "joint.keras")
    with pytest.warns(UserWarning, match="Boundary") as caught:
        keras.saving.load_model(tmp_path / "joint.keras")
    (warning,) = [warning for warning in caught if "1x1" in str(warning.message)]
    assert Path(warning.filename) == Path(__file__)


def test_teacher_of_other_classes(tiny):
    with pytest.raises(ValueError, match="the same classes. Received: a student with 3 and a teacher with 5"):
        JointRD(plain(tiny), tiny(classes=5))


def test_fade_of_zero():
    """A tail that never weighs anything but the floor is a constant, not a fade of no length."""
    with pytest.raises(ValueError, match=r"`fade`, a part of the training, in \(0, 1\]. Received: fade=0"):
        CosineFade(fade=0)


def test_networks_that_share_layers(tiny):
    teacher = tiny()
    features = teacher.get_layer("stage2_relu").output
    student = keras.Model(teacher.input, L.Dense(3)(L.GlobalAveragePooling2D()(features)))
    with pytest.raises(ValueError, match="layers of their own.* share stem_conv/kernel and .* other weights"):
        JointRD(student, teacher)


def test_shortcuts_left_in_the_student(tiny, images):
    student = remove_shortcuts(tiny(), keep_projections=True)
    with pytest.raises(ValueError, match="strict=True. Received: .* with stage2_add, stage3_add"):
        JointRD(student, tiny(), strict=True)
    with pytest.raises(ValueError, match="strict=True. Received: .* with stage2_add, stage3_add"):
        JointRD(adjoin(student, round_to=1), tiny(), strict=True)
    assert np.isfinite(fitted(JointRD(student, tiny()), images)).all()


def test_boundaries_named_like_outputs(tiny):
    student, teacher = remove_shortcuts(tiny()), tiny()
    inputs = keras.Input(student.input_shape[1:])
    x = inputs
    for layer in student.layers[1:]:
        config = {**layer.get_config(), "name": "teacher" if layer.name == "stage1_relu" else layer.name}
        x = type(layer).from_config(config)(x)
    with pytest.raises(ValueError, match="other names than the model's own outputs. Received: {'teacher'}"):
        JointRD(keras.Model(inputs, x), teacher, boundaries=[("teacher", "stage1_relu")])


def test_joint_teacher_that_is_frozen(tiny):
    student, teacher = remove_shortcuts(tiny()), tiny()
    teacher.trainable = False
    with pytest.raises(ValueError, match="Expected a trainable `teacher`.*trainable=False"):
        JointRD(student, teacher, teacher_mode="joint")
