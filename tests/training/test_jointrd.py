"""`JointRD`: its paths, its loss, who moves, and that it is an ordinary Keras model. Runs on JAX too."""

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, models, remove_shortcuts
from tfjointrd.surgery import read_graph
from tfjointrd.training import Constant, CosineFade
from tfjointrd.training.distillers import KD, Overhaul


def pair(tiny, **kwargs):
    """A student and a teacher with different weights."""
    keras.utils.set_random_seed(1)
    teacher = tiny(**kwargs)
    keras.utils.set_random_seed(2)
    return remove_shortcuts(tiny(**kwargs)), teacher


def compiled(joint, learning_rate=0.05, **kwargs):
    joint.compile(optimizer=keras.optimizers.SGD(learning_rate), metrics=["accuracy"], **kwargs)
    return joint


def cross_entropy(logits, y):
    logits = logits - logits.max(-1, keepdims=True)
    return -(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(len(y)), y].mean()


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_boundaries_are_found(tiny):
    joint = JointRD(*pair(tiny))
    assert joint.boundaries == [("stage1_relu", "stage1_relu"), ("stage2_relu", "stage2_relu")]
    for name, depth in (("resnet20", 3), ("wide_resnet18", 2), ("xresnet18", 2)):
        teacher = getattr(models, name)(num_classes=10, input_shape=(32, 32, 3))
        stages = 2 if name == "resnet20" else 3
        found = [student for student, _ in JointRD(remove_shortcuts(teacher), teacher).boundaries]
        assert found == [f"stage{i}_block{depth}_relu" for i in range(1, stages + 1)]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ResNet50", ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out"]),
        ("MobileNetV2", ["block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu"]),
    ],
)
def test_boundaries_of_applications(name, expected):
    teacher = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    assert [name for name, _ in JointRD(remove_shortcuts(teacher), teacher).boundaries] == expected


def test_paths_run_through_the_teachers_tails(tiny, images):
    """Each tail, run as a network of its own on the student's feature, gives the same output."""
    student, teacher = pair(tiny)
    x = images[0]
    joint = JointRD(student, teacher)
    reference = keras.models.clone_model(student)
    reference.set_weights(student.get_weights())
    outputs = joint(x, training=True)
    assert set(outputs) == {"student", "stage1_relu", "stage2_relu"}
    features = keras.Model(reference.input, [reference.get_layer(n).output for n in ("stage1_relu", "stage2_relu")])
    for name, feature in zip(("stage1_relu", "stage2_relu"), features(x, training=True), strict=True):
        tail = keras.Model(teacher.get_layer(name).output, teacher.output)
        np.testing.assert_allclose(numpy(outputs[name]), numpy(tail(feature, training=False)), atol=1e-5)
    assert joint(x).shape == (64, 3)


def test_loss(tiny, images):
    x, y = images
    student, teacher = pair(tiny)
    joint = compiled(JointRD(student, teacher, tail_weight=Constant(0.25)), learning_rate=0.0)
    outputs = {name: numpy(value) for name, value in joint(x, training=True).items()}
    expected = cross_entropy(outputs["student"], y) + 0.25 * (
        cross_entropy(outputs["stage1_relu"], y) + cross_entropy(outputs["stage2_relu"], y)
    )
    history = joint.fit(x, y, batch_size=64, epochs=1, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)
    result = joint.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(cross_entropy(student.predict(x, verbose=0), y), rel=1e-4)
    assert result["accuracy"] == pytest.approx((student.predict(x, verbose=0).argmax(-1) == y).mean())


def test_sample_and_class_weights(tiny, images):
    """Each image's weight multiplies its part of every path's loss."""
    x, y = images
    joint = compiled(JointRD(*pair(tiny), tail_weight=Constant(0.5)), learning_rate=0.0)
    outputs = {name: numpy(value) for name, value in joint(x, training=True).items()}
    of_class = {0: 3.0, 1: 0.0, 2: 0.5}
    weights = np.array([of_class[label] for label in y])
    losses = {}
    for name, logits in outputs.items():
        shifted = logits - logits.max(-1, keepdims=True)
        losses[name] = (np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(64), y]) * weights
    expected = losses["student"].mean() + 0.5 * (losses["stage1_relu"].mean() + losses["stage2_relu"].mean())
    for options in ({"sample_weight": weights}, {"class_weight": of_class}):
        loss = joint.fit(x, y, batch_size=64, verbose=0, **options).history["loss"][0]
        assert loss == pytest.approx(expected, rel=1e-4)


def test_losses_of_layers_count(tiny, images):
    x, y = images
    student, teacher = pair(tiny)
    plain = compiled(JointRD(student, teacher), learning_rate=0.0).fit(x, y, batch_size=64, verbose=0).history["loss"]
    student.get_layer("logits").kernel.regularizer = keras.regularizers.L2(0.1)
    regularised = compiled(JointRD(student, teacher), learning_rate=0.0)
    loss = regularised.fit(x, y, batch_size=64, verbose=0).history["loss"][0]
    penalty = 0.1 * np.square(numpy(student.get_layer("logits").kernel)).sum()
    assert loss == pytest.approx(plain[0] + penalty, rel=1e-4) and penalty > 1e-3


@pytest.mark.parametrize("form", [lambda output: [output], lambda output: {"scores": output}], ids=["list", "dict"])
def test_an_output_in_a_list_or_dict(tiny, images, form):
    x, y = images
    student, teacher = (keras.Model(network.input, form(network.output)) for network in pair(tiny))
    joint = compiled(JointRD(student, teacher, methods=[Overhaul(), KD(weight=0.5)]))
    history = joint.fit(x, y, epochs=1, validation_data=(x, y), verbose=0).history
    assert np.isfinite(history["loss"] + history["val_loss"]).all()
    assert joint.predict(x, verbose=0).shape == (64, 3)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_two_classes_with_one_output(tiny, images, activation):
    x, y = images
    networks = []
    for network in pair(tiny):
        outputs = keras.layers.Dense(1, activation=activation, name="score")(network.get_layer("head_pool").output)
        networks.append(keras.Model(network.input, outputs))
    joint = compiled(JointRD(*networks, tail_weight=Constant(0.5)), learning_rate=0.0)
    losses = {}
    for name, value in joint(x, training=True).items():
        p = numpy(value)[:, 0] if activation else 1 / (1 + np.exp(-numpy(value)[:, 0]))
        losses[name] = -np.log(np.where(y > 0, p, 1 - p)).mean()
    expected = losses["student"] + 0.5 * (losses["stage1_relu"] + losses["stage2_relu"])
    assert joint.fit(x, y > 0, batch_size=64, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="between 0 and 1 for a network with one output. Received: labels between 0 a"):
        joint.fit(x, y, verbose=0)


def test_maps_of_other_images_are_not_compared(tiny):
    L = keras.layers
    student, teacher = pair(tiny)
    inputs = keras.Input((8, 8, 1))
    augmenting = keras.Model(inputs, student(L.RandomFlip("horizontal", name="flip")(inputs)))
    JointRD(augmenting, teacher, boundaries=["stage1_relu"])  # every path of the same image
    with pytest.raises(ValueError, match="without random augmentation, .* Received: .* with the RandomFlip 'flip'"):
        JointRD(augmenting, teacher, boundaries=["stage1_relu"], methods=Overhaul())
    inputs = keras.Input((1, 8, 8))
    first = L.Conv2D(3, 3, data_format="channels_first", padding="same", name="first")(inputs)
    outputs = L.Dense(3)(L.GlobalAveragePooling2D(data_format="channels_first")(first))
    with pytest.raises(ValueError, match="'first' expects data_format='channels_last'. Received: data_format='chan"):
        Distillation(keras.Model(inputs, outputs), teacher, Overhaul())


def test_who_moves(tiny, images):
    """The student does, the teacher does not; what lies behind the last boundary moves by its own path alone."""
    x, y = images
    student, teacher = pair(tiny)
    joint = JointRD(student, teacher, tail_weight=1.0)
    assert joint.student is student and joint.teacher is not teacher
    frozen = [w.copy() for w in joint.teacher.get_weights()]
    assert len(joint.trainable_variables) == len(student.trainable_variables)
    alone = keras.models.clone_model(student)
    alone.set_weights(student.get_weights())
    alone.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {layer.name: [w.copy() for w in layer.get_weights()] for layer in student.layers}
    compiled(joint).fit(x, y, batch_size=64, verbose=0)
    alone.fit(x, y, batch_size=64, verbose=0)
    for ours, theirs in zip(joint.teacher.get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert teacher.trainable and len(teacher.trainable_variables) > 0
    for layer in student.layers:
        if not layer.get_weights():
            continue
        ours, theirs = layer.get_weights()[0], alone.get_layer(layer.name).get_weights()[0]
        assert np.abs(ours - before[layer.name][0]).max() > 0
        if layer.name.startswith(("stage3", "logits")):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        else:
            assert np.abs(ours - theirs).max() > 1e-6


def test_thawing_leaves_the_teacher_frozen(tiny, images):
    joint = JointRD(*pair(tiny))
    joint.trainable = False
    joint.trainable = True
    compiled(joint)
    assert not joint.teacher.trainable_variables and joint.student.trainable_variables


def test_student_learns_and_stays_an_ordinary_network(tiny, images, tmp_path):
    x, y = images
    student, teacher = pair(tiny, filters=8)
    joint = compiled(JointRD(student, teacher))
    history = joint.fit(x, y, batch_size=16, epochs=25, validation_data=(x, y), verbose=0).history
    assert history["val_accuracy"][-1] > 0.9
    np.testing.assert_array_equal(joint.predict(x, verbose=0), student.predict(x, verbose=0))
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), student.predict(x, verbose=0), atol=1e-6)


def test_saved_and_trained_on(tiny, images, tmp_path):
    x, y = images
    student, teacher = pair(tiny)
    joint = compiled(JointRD(student, teacher, tail_weight=CosineFade(0.1, 0.8)))
    joint.fit(x, y, batch_size=16, epochs=4, steps_per_epoch=4, verbose=0, shuffle=False)
    joint.save(tmp_path / "joint.keras")
    again = keras.saving.load_model(tmp_path / "joint.keras")
    assert again.boundaries == joint.boundaries and again.tail_weight.get_config() == {"floor": 0.1, "fade": 0.8}
    assert int(again.step) == 16 == int(again.optimizer.iterations)
    for model in (joint, again):
        model.fit(x, y, batch_size=16, epochs=6, initial_epoch=4, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), joint.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(tiny, images, policy):
    keras.config.set_dtype_policy(policy)
    joint = compiled(JointRD(*pair(tiny)))
    assert np.isfinite(joint.fit(*images, epochs=2, verbose=0).history["loss"]).all()


def test_softmax_networks_and_mixed_pairs(tiny, images):
    student, teacher = pair(tiny, softmax=True)
    assert np.isfinite(compiled(JointRD(student, teacher)).fit(*images, verbose=0).history["loss"]).all()
    mixed = JointRD(remove_shortcuts(tiny()), teacher)
    assert np.isfinite(compiled(mixed).fit(*images, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="one `loss` to fit both"):
        mixed.compile("sgd", loss="sparse_categorical_crossentropy")


def test_boundaries_of_different_names(tiny, images):
    student, teacher = pair(tiny)
    joint = JointRD(student, teacher, boundaries=[("stage1_bn2", "stage1_add"), "stage2_relu"])
    assert set(compiled(joint)(images[0], training=True)) == {"student", "stage1_bn2", "stage2_relu"}


@pytest.mark.parametrize(
    "boundaries, message",
    [
        ([], "at least one layer"),
        (["nowhere"], "layers of the student. Received: 'nowhere'"),
        ([("stage1_relu", "nowhere")], "layers of the teacher. Received: 'nowhere'"),
        (["stage2_relu1"], "Received: 'stage2_relu1', which a shortcut bypasses"),
        (["stage2_relu", "stage1_relu"], "in network order"),
        ([1], "pairs of names .* Received: 1"),
        (5, "at least one layer. Received: boundaries=5"),
        ("stage1_relu", "at least one layer. Received: boundaries='stage1_relu'"),
    ],
)
def test_boundaries_that_cannot_be(tiny, boundaries, message):
    with pytest.raises(ValueError, match=message):
        JointRD(*pair(tiny), boundaries=boundaries)


def test_networks_that_do_not_fit_together(tiny):
    student, teacher = pair(tiny)
    with pytest.raises(ValueError, match="a student with 3 and a teacher with 5"):
        JointRD(student, tiny(classes=5))
    with pytest.raises(ValueError, match="Found no stage .* Received: student"):
        JointRD(student, remove_shortcuts(teacher))
    with pytest.raises(ValueError, match="`teacher` to be a functional"):
        JointRD(student, "teacher")
    two = keras.Model(teacher.input, [teacher.output, teacher.output])
    larger = keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"images of the same shape. Received: .* \(8, 8, 1\) .* \(9, 9, 1\)"):
        Distillation(student, larger)
    with pytest.raises(ValueError, match="Expected a `tail_weight` from 0 throughout the training. Received: -0.5"):
        JointRD(student, teacher, tail_weight=-0.5)
    with pytest.raises(ValueError, match="Expected a finite `weight`. Received: weight=nan"):
        JointRD(student, teacher, tail_weight=float("nan"))
    with pytest.raises(ValueError, match="the same outputs. Received: a student with 1 and a teacher with 2"):
        JointRD(student, two)


@pytest.mark.parametrize("name", ["stage3_relu", "stage3_add"])
def test_boundaries_behind_the_compared_feature(tiny, name):
    """Without the feature loss a tail may begin there; with it, nothing of the feature lies ahead."""
    student, teacher = pair(tiny)
    pairs = ["stage1_relu", ("stage3_relu", name)]
    assert len(JointRD(student, teacher, boundaries=pairs).boundaries) == 2
    with pytest.raises(ValueError, match=f"teacher's 'stage3_add', by which a method .* Received: .*'{name}'"):
        JointRD(student, teacher, boundaries=pairs, methods=Overhaul())


@pytest.mark.parametrize("form", ["cut", "sequential"])
def test_networks_whose_layers_were_called_before(tiny, images, form):
    """Parts of networks, and ones whose layers stand in another too, train as copies of them do."""
    student, teacher = pair(tiny)
    x, y = images
    if form == "cut":
        student, teacher = (keras.Model(n.get_layer("stem_relu").output, n.output) for n in (student, teacher))
        x = np.repeat(x, 4, axis=-1)
    else:
        layers, student = student.layers[1:], keras.Sequential([keras.Input((8, 8, 1))])
        for layer in layers:
            student.add(layer)
    copies = read_graph(student).build(), read_graph(teacher).build()
    for networks in ((student, teacher), copies):
        joint = compiled(JointRD(*networks, tail_weight=1.0, methods=Overhaul(), teacher_mode="joint"))
        keras.utils.set_random_seed(3)
        for connector in joint.connectors.values():
            connector.layers[0].kernel.assign(keras.random.normal(connector.layers[0].kernel.shape, seed=1))
        joint.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    for ours, theirs in zip((student, teacher), copies, strict=True):
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
