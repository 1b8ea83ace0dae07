"""`Distillation`, and what `JointRD` adds to its loss, against numbers computed by hand. Runs on JAX too."""

import keras
import numpy as np
import pytest
from test_features import distance_by_cases

from tfjointrd import Distillation, JointRD, remove_shortcuts
from tfjointrd.training import LinearFade
from tfjointrd.training.distillers import KD, Overhaul
from tfjointrd.training.distillers.overhaul import margins

L = keras.layers


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def pair(tiny, **kwargs):
    """A plain student and a teacher with other weights and with statistics of their own."""
    keras.utils.set_random_seed(1)
    teacher = tiny(**kwargs)
    rng = np.random.default_rng(4)
    for layer in teacher.layers:
        for variable in layer.weights:
            if variable.name == "moving_variance":
                variable.assign(rng.uniform(0.5, 2, variable.shape))
            elif variable.name in ("moving_mean", "beta"):
                variable.assign(rng.normal(0, 0.5, variable.shape))
    keras.utils.set_random_seed(2)
    return remove_shortcuts(tiny(**kwargs)), teacher


def copy_of(network):
    again = keras.models.clone_model(network)
    again.set_weights(network.get_weights())
    return again


def outputs_of(network, names, x, training):
    """What layers of a copy of the network return for `x`."""
    network = copy_of(network)
    taps = keras.Model(network.input, [network.get_layer(name).output for name in names])
    return [numpy(value) for value in keras.tree.flatten(taps(x, training=training))]


def log_softmax(logits):
    logits = logits.astype("float64") - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(logits, y, weights=1.0):
    return -(weights * log_softmax(logits)[np.arange(len(y)), y]).mean()


def divergence(teacher, student, temperature, weights=1.0):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (weights * (np.exp(p) * (p - q)).sum(-1)).mean()


def compiled(model, learning_rate=0.05, **kwargs):
    model.compile(optimizer=keras.optimizers.SGD(learning_rate, momentum=0.9), metrics=["accuracy"], **kwargs)
    return model


def losses(model, x, y, steps=1, sample_weight=None):
    """The losses of the first steps of a training, with weights that stay."""
    compiled(model).total_steps.assign(float(steps))
    found = []
    for _ in range(steps):
        outputs = model(x, training=True)
        found.append(float(numpy(model.compute_loss(x, y, outputs, sample_weight, training=True))))
    return found


# === Hinton's ===


@pytest.mark.parametrize("alpha, temperature, weighted", [(1.0, 4, False), (0.3, 2.5, True)])
def test_loss(tiny, images, alpha, temperature, weighted):
    x, y = images
    student, teacher = pair(tiny)
    weights = np.random.default_rng(0).uniform(0, 2, len(y)).astype("float32") if weighted else np.ones(len(y))
    logits = outputs_of(student, ["logits"], x, True)[0]
    targets = outputs_of(teacher, ["logits"], x, False)[0]
    expected = (1 - alpha) * cross_entropy(logits, y, weights)
    expected += alpha * divergence(targets, logits, temperature, weights)
    (found,) = losses(Distillation(student, teacher, KD(temperature, alpha)), x, y, 1, weights if weighted else None)
    assert found == pytest.approx(expected, rel=1e-4)


def test_evaluation_is_the_students_cross_entropy(tiny, images):
    x, y = images
    student, teacher = pair(tiny)
    result = compiled(Distillation(student, teacher)).evaluate(x, y, verbose=0, return_dict=True)
    logits = outputs_of(student, ["logits"], x, False)[0]
    assert result["loss"] == pytest.approx(cross_entropy(logits, y), rel=1e-4)
    assert result["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())


def test_probabilities_are_as_good_as_logits(tiny, images):
    x, y = images
    found = {}
    for soft in (False, True):
        for soft_teacher in (False, True):
            student, teacher = pair(tiny, softmax=False)
            if soft:
                student = _with_softmax(tiny, student, shortcuts=False)
            if soft_teacher:
                teacher = _with_softmax(tiny, teacher)
            (found[soft, soft_teacher],) = losses(Distillation(student, teacher, KD(3.0, 0.6)), x, y)
    assert list(found.values()) == pytest.approx([found[False, False]] * 4, rel=1e-4)


def _with_softmax(tiny, network, **kwargs):
    again = tiny(softmax=True, **kwargs)
    again.set_weights(network.get_weights())
    return again


def test_who_moves_and_what_is_left(tiny, images):
    """A student of another architecture, which afterwards is an ordinary network; the teacher is as it was."""
    x, y = images
    teacher = pair(tiny)[1]
    student = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(5, 3), L.ReLU(), L.Flatten(), L.Dense(3)])
    before = [w.copy() for w in student.get_weights()], [w.copy() for w in teacher.get_weights()]
    distilled = compiled(Distillation(student, teacher, KD(weight=0.7)))
    assert distilled.teacher is not teacher and not distilled.teacher.trainable_variables
    distilled.fit(x, y, verbose=0)
    for ours, own, old in zip(distilled.teacher.get_weights(), teacher.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(ours, old)
        np.testing.assert_array_equal(own, old)
    assert all(np.abs(now - old).max() > 0 for now, old in zip(distilled.student.get_weights(), before[0], strict=True))
    np.testing.assert_array_equal(distilled.predict(x, verbose=0), distilled.student.predict(x, verbose=0))
    # The Sequential itself was trained.
    np.testing.assert_allclose(student.predict(x, verbose=0), distilled.predict(x, verbose=0), atol=1e-6)


@pytest.mark.usefixtures("traced")
def test_saved_and_trained_on(tiny, images, tmp_path):
    x, y = images
    distilled = compiled(Distillation(*pair(tiny), [KD(temperature=2.0, weight=0.5), Overhaul(1e-3)]))
    distilled.fit(x, y, batch_size=32, epochs=2, verbose=0, shuffle=False)
    distilled.save(tmp_path / "distilled.keras")
    again = keras.saving.load_model(tmp_path / "distilled.keras")
    assert [type(method) for method in again.methods] == [KD, Overhaul]
    assert (again.methods[0].temperature, *(method.weight for method in again.methods)) == (2.0, 0.5, 1e-3)
    assert set(again.connectors) == set(distilled.connectors) == {"student"}
    for model in (distilled, again):
        model.fit(x, y, batch_size=32, epochs=4, initial_epoch=2, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), distilled.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_bad_arguments(tiny):
    student, teacher = pair(tiny)
    with pytest.raises(ValueError, match="Expected `methods` to list at least one. Received: methods="):
        Distillation(student, teacher, [])
    with pytest.raises(ValueError, match="networks that share stem_conv/kernel and .* other weights"):
        Distillation(student, student)
    with pytest.raises(ValueError, match="a student with 3 and a teacher with 5"):
        Distillation(student, tiny(classes=5))


# === Features ===


def test_feature_loss(tiny, images):
    x, y = images
    student, teacher = pair(tiny)
    distilled = Distillation(student, teacher, Overhaul(0.01))
    logits, feature = outputs_of(student, ["logits", "stage3_bn2"], x, True)
    target = outputs_of(teacher, ["stage3_add"], x, False)[0]
    connected = numpy(copy_of(distilled.connectors["student"])(feature, training=True))
    margin = numpy(margins(teacher.get_layer("stage3_bn2")))
    expected = cross_entropy(logits, y) + 0.01 * distance_by_cases(connected, target, margin)
    (found,) = losses(distilled, x, y)
    assert found == pytest.approx(expected, rel=1e-4)
    assert distance_by_cases(connected, target, margin) > 1


def nothing(y, outputs):
    """A cross-entropy that is zero."""
    return keras.ops.sum(0 * outputs, axis=-1)


def test_features_move_student_and_connectors(tiny, images):
    """Without a cross-entropy all but the head moves, and nothing of the teacher."""
    x, y = images
    distilled = Distillation(*pair(tiny), Overhaul(1e-3))
    distilled.compile(keras.optimizers.SGD(0.1), loss=nothing)
    before = {v.path: numpy(v.value).copy() for v in distilled.variables}
    distilled.fit(x, y, verbose=0, batch_size=64)
    moved = {v.path for v in distilled.variables if np.abs(numpy(v.value) - before[v.path]).max() > 0}
    teacher = {v.path for v in distilled.teacher.variables} - {v.path for v in distilled.student.variables}
    assert all(np.array_equal(numpy(v.value), before[v.path]) for v in distilled.teacher.variables if v.path in teacher)
    for network in (distilled.student, distilled.connectors["student"]):
        still = {v.path for v in network.trainable_variables} - moved
        assert {path.split("/")[-2] for path in still} == ({"logits"} if network is distilled.student else set())


# === JointRD ===


@pytest.mark.parametrize(
    "weight, alpha, temperature, path_scale", [(0.01, 0.4, 2.0, "sum"), (0.01, 0, 4.0, "mean"), (0, 0.9, 4.0, "mean")]
)
def test_jointrd_path_by_path(tiny, images, weight, alpha, temperature, path_scale):
    """Each path as a network of its own, m(t) from its formula, at the first and the second of two steps."""
    x, y = images
    student, teacher = pair(tiny)
    methods = [KD(temperature, alpha)] * bool(alpha) + [Overhaul(weight)] * bool(weight)
    joint = JointRD(student, teacher, tail_weight=LinearFade(0.2, 1.0), methods=methods, path_scale=path_scale)
    *taps, logits, feature = outputs_of(student, ["stage1_relu", "stage2_relu", "logits", "stage3_bn2"], x, True)
    targets, target = outputs_of(teacher, ["logits", "stage3_add"], x, False)
    margin = numpy(margins(teacher.get_layer("stage3_bn2")))

    def distance(path, feature):
        if not weight:
            return 0
        return distance_by_cases(numpy(copy_of(joint.connectors[path])(feature, training=True)), target, margin)

    own = (1 - alpha) * cross_entropy(logits, y) + weight * distance("student", feature)
    own += alpha * divergence(targets, logits, temperature)
    tails = 0
    for name, tap in zip(("stage1_relu", "stage2_relu"), taps, strict=True):
        ends = [teacher.output, teacher.get_layer("stage3_add").output]
        tail, feature = map(numpy, keras.Model(teacher.get_layer(name).output, ends)(tap, training=False))
        tails += cross_entropy(tail, y) + weight * distance(name, feature)
    scale = 3 if path_scale == "mean" else 1
    expected = [(own + m * tails) / scale for m in (1.0, 0.6)]
    assert losses(joint, x, y, steps=2) == pytest.approx(expected, rel=1e-4)


def test_frozen_teachers_stay_frozen(tiny, images):
    """Whatever was done to `trainable` between compile and fit, or to a single layer before."""
    student, teacher = tiny(), tiny()
    distilled = Distillation(student, teacher, KD(weight=0.5))
    distilled.teacher.layers[1].trainable = True
    distilled.compile(keras.optimizers.SGD(0.1))
    assert not distilled.teacher.trainable_variables
    distilled.trainable = False
    distilled.trainable = True
    before = [weight.copy() for weight in distilled.teacher.get_weights()]
    distilled.fit(*images, verbose=0)
    for ours, theirs in zip(distilled.teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_feature_loss_honours_sample_weights(tiny, images):
    x, y = images
    distilled = Distillation(tiny(), tiny(), Overhaul(1.0), label_weight=1.0)
    distilled.compile(keras.optimizers.SGD(0.0))
    outputs = distilled(x, training=True)
    weights = np.zeros(len(x), "float32")
    assert float(distilled.training_loss(y, outputs, weights)) == 0.0
    weights[:10] = 1.0
    assert 0 < float(distilled.training_loss(y, outputs, weights)) < float(distilled.training_loss(y, outputs))


def test_sub_models_of_equal_layer_names(tiny, images):
    """What is not looked into may be anything; what is gives a clear error."""

    def two_bodies():
        inputs = keras.Input((8, 8, 1))
        x = inputs
        for name in ("first", "second"):
            body = [keras.Input(x.shape[1:]), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.ReLU(name="relu")]
            x = keras.Sequential(body, name=name)(x)
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))

    distilled = Distillation(two_bodies(), tiny(), KD(weight=0.5))
    distilled.compile("sgd")
    assert np.isfinite(distilled.fit(*images, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="sub-models of .* whose layers have names of their own"):
        Distillation(two_bodies(), tiny(), Overhaul())


def test_data_without_a_length(tiny, images):
    """Are enough where the loss does not change over the training."""
    tf = pytest.importorskip("tensorflow")
    x, y = images
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16).filter(lambda x, y: True)
    student, teacher = pair(tiny)
    distilled = Distillation(student, teacher, [KD(), Overhaul()])
    distilled.compile(keras.optimizers.SGD(0.0))
    losses = distilled.fit(data, epochs=2, verbose=0).history["loss"]
    # TensorFlow counts the step at which the data are found to end, for Keras as for us.
    assert len(losses) == 2 and int(distilled.step) == int(distilled.optimizer.iterations) >= 8
    joint = JointRD(student, teacher)
    joint.compile("sgd")
    with pytest.raises(ValueError, match=r"since `tail_weight` changes over the training.* Pass `steps_per_epoch`"):
        joint.fit(data, verbose=0)
