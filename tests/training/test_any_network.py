"""Residual networks that are not ours: boundaries, training, narrowing and folding. Runs on JAX too."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, dirac, fold, remove_shortcuts, slim
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.training.distillers import Overhaul, last_map
from tfjointrd.training.distillers.overhaul import margin_layer

L = keras.layers
SIZE = (32, 32, 3)


def convolution(x, filters, strides=1):
    x = L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    return L.BatchNormalization()(x)


def sub_model(shape, filters, strides, name):
    """A residual block as a network of its own, its addition an operator."""
    inputs = keras.Input(shape)
    x = convolution(L.ReLU()(convolution(inputs, filters, strides)), filters)
    shortcut = inputs
    if strides > 1:
        shortcut = L.BatchNormalization()(L.Conv2D(filters, 1, strides, use_bias=False)(inputs))
    return keras.Model(inputs, L.ReLU(name=f"{name}_end")(x + shortcut), name=name)


def own_network():
    """A user's own: a Sequential stem, blocks that are networks of their own, pre-activation blocks with operators."""
    inputs = keras.Input(SIZE)
    stem = [keras.Input(SIZE), L.Conv2D(8, 3, 2, padding="same"), L.BatchNormalization(), L.ReLU()]
    x = keras.Sequential(stem, name="stem")(inputs)
    x = sub_model(x.shape[1:], 8, 1, "first")(x)
    x = sub_model(x.shape[1:], 16, 2, "second")(x)
    x = x + L.Conv2D(16, 3, padding="same", name="third_conv")(keras.ops.relu(L.BatchNormalization()(x)))
    y = L.ReLU()(L.BatchNormalization()(x))
    y = L.Conv2D(24, 3, 2, padding="same", name="fourth_conv")(y)
    x = L.Conv2D(24, 1, 2, name="fourth_shortcut")(x) + y
    x = L.ReLU(name="last_relu")(L.BatchNormalization(name="last_bn")(x))
    x = L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="own")


def network(name):
    """A new network that returns logits, which show differences that probabilities hide."""
    if name == "own":
        return own_network()
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=SIZE, classes=3, classifier_activation=None)


BOUNDARIES = {
    "ResNet50": [(name, name) for name in ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out")],
    "ResNet50V2": [
        ("conv2_block2_3_conv", "conv2_block2_out"),
        ("conv3_block3_3_conv", "conv3_block3_out"),
        ("conv4_block5_3_conv", "conv4_block5_out"),
    ],
    "MobileNetV2": [(f"block_{i}_expand_relu",) * 2 for i in (3, 6, 13)],
    "own": [("first_end", "first_end"), None],  # the second is an operator, whose name Keras chooses
}
# The last feature map of student and teacher, and the teacher's batch normalisation ahead of it.
FEATURES = {
    "ResNet50": ("conv5_block3_3_bn", "conv5_block3_add", "conv5_block3_3_bn"),
    "ResNet50V2": ("post_bn", "post_bn", "post_bn"),
    "MobileNetV2": ("Conv_1_bn", "Conv_1_bn", "Conv_1_bn"),
    "own": ("last_bn", "last_bn", "last_bn"),
}


def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, *SIZE)).astype("float32"), rng.integers(0, 3, 8)


def fitted(model):
    """The loss of two steps. Without a graph: to trace one of these networks takes longer than to run it."""
    model.compile(keras.optimizers.SGD(0.01, clipnorm=1.0), run_eagerly=True)
    return model.fit(*images(), batch_size=4, verbose=0).history["loss"][0]


def kernels(model):
    return [keras.ops.convert_to_numpy(v.value).copy() for v in model.trainable_variables if "kernel" in v.name]


def randomise(model):
    """Random batch normalisations about the statistics of some images, so that these can be told apart far behind."""
    rng = np.random.default_rng(0)
    normalizations = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    for layer in normalizations:
        layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
        layer.momentum = 0.0
    model(images()[0], training=True)
    for layer in normalizations:
        layer.moving_variance.assign(layer.moving_variance * rng.uniform(0.5, 1.5, layer.gamma.shape))


def outputs(model):
    return keras.ops.convert_to_numpy(model(images()[0], training=False))


def assert_same_function(model, reference, tolerance):
    """To `tolerance` times the largest output, of networks that tell images apart."""
    expected = outputs(reference)
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(outputs(model), expected, rtol=0, atol=tolerance * np.abs(expected).max())


# The graphs of these two are large; the own network has blocks of both kinds.
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet50", "ResNet50V2")]


@pytest.fixture(scope="module", params=[*LARGE, "MobileNetV2", "own"])
def trained(request):
    """A network, its plain student after two steps without and two with the feature loss, and what it was before."""
    keras.utils.set_random_seed(0)
    teacher = network(request.param)
    student = remove_shortcuts(teacher)
    joints = [JointRD(student, teacher, methods=methods, strict=True) for methods in (None, Overhaul(1e-3))]

    def teachers():
        return [w for model in (teacher, *(joint.teacher for joint in joints)) for w in model.get_weights()]

    before = {
        "student": kernels(student),
        "teachers": [w.copy() for w in teachers()],
        "connector": joints[1].connectors["student"].get_weights()[0].copy(),
    }
    losses = [fitted(joint) for joint in joints]
    return SimpleNamespace(
        name=request.param,
        teacher=teacher,
        teachers=teachers,
        student=student,
        before=before,
        joints=joints,
        losses=losses,
    )


def test_boundaries(trained):
    for found, expected in zip(trained.joints[0].boundaries, BOUNDARIES[trained.name], strict=True):
        assert expected is None or found == expected
    if trained.name == "own":
        assert trained.joints[0].boundaries[1][0] == "third_conv"
    assert not trained.joints[0].boundary_connectors


def test_last_map_and_margins(trained):
    student, teacher = read_graph(trained.student), read_graph(trained.teacher)
    feature = last_map(teacher)
    names = last_map(student).layer, feature.layer, margin_layer(teacher, feature)
    assert names == FEATURES[trained.name]


def test_two_steps(trained):
    """The student moves, the connector of the feature loss too; the teacher does not."""
    assert np.isfinite(trained.losses).all()
    for ours, old in zip(trained.teachers(), trained.before["teachers"], strict=True):
        np.testing.assert_array_equal(ours, old)
    pairs = zip(kernels(trained.student), trained.before["student"], strict=True)
    assert all(np.abs(ours - old).max() > 0 for ours, old in pairs)
    paths = ["student", *(name for name, _ in trained.joints[1].boundaries)]
    assert list(trained.joints[1].connectors) == paths
    moved = trained.joints[1].connectors["student"].get_weights()[0] - trained.before["connector"]
    assert np.abs(moved).max() > 0


def test_trained_student_slims(trained):
    randomise(trained.student)
    channels = Channels(read_graph(trained.student))
    widths = {name: channels.width(name) for name in channels.producers() if not channels.fixed(name)}
    whole = slim(trained.student, {name: range(width) for name, width in widths.items()})
    assert_same_function(whole, trained.student, 1e-6)
    narrow = slim(trained.student, {name: range(width // 2) for name, width in widths.items()})
    assert narrow.count_params() < 0.4 * trained.student.count_params()
    assert np.isfinite(outputs(narrow)).all()


@pytest.mark.parametrize("name", [LARGE[0], pytest.param("MobileNetV2", marks=pytest.mark.slow), "own"])
def test_dirac_students(name):
    teacher = network(name)
    student = dirac(remove_shortcuts(teacher))
    assert np.isfinite(fitted(JointRD(student, teacher, strict=True)))
    randomise(student)
    folded = fold(student)
    assert all(layer.__class__.__module__.startswith("keras.") for layer in folded.layers)
    assert_same_function(folded, student, 1e-5)


def test_networks_of_networks():
    """A network of sub-models is a student as it is, and a teacher that is trained beside."""
    student, teacher = own_network(), own_network()
    x, y = np.random.default_rng(0).normal(size=(4, *SIZE)).astype("float32"), np.array([0, 1, 2, 0])
    joint = JointRD(student, teacher, methods=Overhaul(1e-3), teacher_mode="joint")
    joint.compile(keras.optimizers.SGD(0.01, clipnorm=1.0), metrics=["accuracy"])
    outputs = joint(x, training=True)
    np.testing.assert_allclose(numpy(outputs["teacher"]["output"]), numpy(teacher(x, training=True)), rtol=1e-4)
    before = [[w.copy() for w in network.get_weights()] for network in (student, teacher)]
    assert np.isfinite(joint.fit(x, y, epochs=2, verbose=0).history["loss"]).all()
    for network, weights in zip((student, teacher), before, strict=True):
        assert any(np.abs(a - b).max() > 0 for a, b in zip(network.get_weights(), weights, strict=True))
    np.testing.assert_allclose(joint.predict(x, verbose=0), student.predict(x, verbose=0), atol=1e-6)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)
