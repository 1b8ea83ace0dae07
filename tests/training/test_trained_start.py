"""A trained network in its usual forms, as the start of every training."""

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, Pruning, adjoin, prune, remove_shortcuts, sort_channels
from tfjointrd.surgery.importance import channel_importance

L = keras.layers


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def randomise(network):
    """Weights and statistics as a training leaves them: no two channels alike."""
    rng = np.random.default_rng(0)
    for variable in network.weights:
        low, high = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 1.5)}.get(variable.name, (-0.3, 0.3))
        if variable.name in ("gamma", "beta", "moving_mean", "moving_variance", "bias"):
            variable.assign(rng.uniform(low, high, variable.shape))
    return network


def tutorial(tiny, frozen):
    """As Keras' tutorial on transfer learning: augmentation, preprocessing by operators, the base, a new head."""
    whole = randomise(tiny(filters=8))
    base = keras.Model(whole.input, whole.get_layer("stage3_relu").output, name="base")
    base.trainable = not frozen
    augmentation = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)], name="augmentation")
    inputs = keras.Input((8, 8, 1))
    x = augmentation(inputs)
    x = keras.applications.mobilenet_v2.preprocess_input(x * 127.5 + 127.5)  # division and subtraction, as operators
    x = base(x, training=False)
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, L.Dense(3, name="head")(x), name="tutorial")


def plain_of(tiny, frozen):
    """The network itself, some of its layers frozen."""
    network = randomise(tiny(filters=8))
    for layer in network.layers:
        layer.trainable = not (frozen and layer.name.startswith(("stem", "stage1", "stage2")))
    return network


MODELS = {"tutorial": tutorial, "plain": plain_of}
CASES = [
    pytest.param(("tutorial", True), id="tutorial, frozen"),
    pytest.param(("tutorial", False), id="tutorial"),
    pytest.param(("plain", True), id="plain, frozen", marks=pytest.mark.slow),
]


@pytest.fixture(params=CASES)
def start(request, tiny):
    name, frozen = request.param
    network = MODELS[name](tiny, frozen)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network


def outputs(network, x):
    return numpy(network(x, training=False))


def trained(model, images, **options):
    model.compile(keras.optimizers.SGD(0.01), metrics=["accuracy"], run_eagerly=True)
    history = model.fit(*images, batch_size=32, verbose=0, **options).history
    assert np.isfinite(history["loss"]).all()
    return history


def frozen_names(network):
    return {layer.name for layer in network._flatten_layers() if layer.weights and not layer.trainable_variables}


def weights_of(network):
    return {variable.path.split("/")[-2] + "/" + variable.name: numpy(variable) for variable in network.weights}


def test_pruned_and_trained_on(start, images):
    small = prune(start, "l2", target_macs=0.6, round_to=1)
    kept = {name: small.get_layer(name).kernel.shape[-1] for name in ("stage2_conv1", "stage3_conv1")}
    assert any(width < {"stage2_conv1": 16, "stage3_conv1": 24}[name] for name, width in kept.items())
    assert {n for n in frozen_names(small) if "conv" in n} == {n for n in frozen_names(start) if "conv" in n}
    before = weights_of(small)
    small.compile(keras.optimizers.SGD(0.01), start.loss, run_eagerly=True)
    assert np.isfinite(small.fit(*images, batch_size=32, verbose=0).history["loss"]).all()
    moved = {key for key, value in weights_of(small).items() if np.any(value != before[key])}
    assert "head/kernel" in moved or "logits/kernel" in moved
    assert ("stage2_conv1/kernel" in moved) == ("stage2_conv1" not in frozen_names(small))


@pytest.mark.filterwarnings("ignore:.*frozen layers")
def test_sorted_and_adjoined(start, images):
    x = images[0]
    best_first = sort_channels(start, "l2")
    np.testing.assert_allclose(outputs(best_first, x), outputs(start, x), atol=1e-5)
    scores = channel_importance(best_first, "l2")["stage3_conv1"]
    assert np.all(np.diff(scores) <= 1e-6) and np.any(np.diff(channel_importance(start, "l2")["stage3_conv1"]) > 0)
    pairs = adjoin(best_first, 2, round_to=1), adjoin(start, 2, round_to=1, order="l2")
    for ours, theirs in zip(*(pair.get_weights() for pair in pairs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(outputs(pairs[0].full(), x), outputs(start, x), atol=1e-5)
    trained(pairs[1], images)
    assert outputs(pairs[1].small(), x).shape == (len(x), 3)


@pytest.mark.filterwarnings("ignore:.*frozen layers")
def test_pruned_while_trained(start, images):
    model = Pruning(start, target_macs=0.6, round_to=1, regularizer="group")
    np.testing.assert_allclose(outputs(model.network, images[0]), outputs(start, images[0]), atol=1e-5)
    assert trained(model, images, epochs=2)["left_macs"][-1] <= 0.6
    small = model.derive()
    np.testing.assert_allclose(outputs(small, images[0]), outputs(model.network, images[0]), atol=1e-5)
    assert {n for n in frozen_names(small) if "conv" in n} == {n for n in frozen_names(start) if "conv" in n}


@pytest.mark.filterwarnings("ignore:.*frozen layers")
def test_its_own_teacher(start, images):
    """The student starts from the teacher's weights, all but the shortcuts'; the teacher keeps them."""
    student = remove_shortcuts(start)
    ours, theirs = weights_of(student), weights_of(start)
    assert {key.split("/")[0] for key in theirs.keys() - ours.keys()} == {"stage2_shortcut", "stage3_shortcut"}
    for key in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    assert len(ours) > 20
    trained(JointRD(student, start), images)
    changed = weights_of(student)
    assert np.any(changed["stage3_conv1/kernel"] != ours["stage3_conv1/kernel"]) or "stage3_conv1" in frozen_names(
        start
    )
    for key, value in weights_of(start).items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
