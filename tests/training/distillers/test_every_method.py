"""What every method has in common: how it is trained, saved and deployed, and what it refuses. Runs on JAX too."""

import keras
import numpy as np
import pytest
from reference import numpy

from tfjointrd import Distillation, JointRD, distillers, remove_shortcuts
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.training import LinearRamp

L = keras.layers
METHODS = distillers.METHODS
NAMED = [name for name, cls in METHODS.items() if issubclass(cls, distillers.LayerDistiller)]


def micro(filters=3, softmax=False):
    """Two stages of one convolution each."""
    x = inputs = keras.Input((8, 8, 1))
    for stage in (1, 2):
        x = L.Conv2D(filters * stage, 3, stage, padding="same", use_bias=False, name=f"stage{stage}_conv")(x)
        x = L.ReLU(name=f"stage{stage}_relu")(L.BatchNormalization(momentum=0.8, name=f"stage{stage}_bn")(x))
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, L.Dense(3, "softmax" if softmax else None, name="logits")(x), name="micro")


def pair(**options):
    """A student and a wider teacher."""
    keras.utils.set_random_seed(5)
    return micro(**options), micro(4, **options)


def compiled(model):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    model.total_steps.assign(20.0)
    model.step.assign(10)
    return model


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", METHODS)
def test_trained_saved_and_deployed(images, name, tmp_path):
    x, y = images[0][:16], images[1][:16]
    student, teacher = pair()
    method = distillers.get(name)
    distilled = compiled(Distillation(student, teacher, method, label_weight=0.0))
    before = {id(v): numpy(v.value).copy() for v in distilled.variables}
    weights = np.linspace(0, 2, 16).astype("float32")
    loss = distilled.train_on_batch(x, y, sample_weight=weights)
    assert np.isfinite(loss) and abs(float(numpy(loss))) > 0

    def moved(variables):
        return [np.abs(numpy(v.value) - before[id(v)]).max() > 0 for v in variables]

    assert any(moved(student.trainable_variables)) and not any(moved(distilled.teacher.variables))
    still = {"encoder", "decoder"} if name == "ft" else set()  # of FT's phase one, which is over
    learned = [v for v in method.trainable_variables if v.name[:7] not in still]
    assert all(moved(learned))
    # The layers of the method are the training's, not the student's.
    assert len(student.weights) == len(micro().weights)
    np.testing.assert_array_equal(numpy(distilled(x)), numpy(student(x)))

    distilled.save(tmp_path / "training.keras")
    again = keras.saving.load_model(tmp_path / "training.keras")
    assert again.methods[0].get_config() == method.get_config()
    for ours, theirs in zip(again.get_weights(), distilled.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [numpy(model.compute_loss(x, y, model(x, training=True), weights)) for model in (distilled, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_all_at_once(images, monkeypatch):
    """Methods add up; each network runs once a step; in mixed precision; teachers that learn too.

    Evaluation has the labels' loss alone, and changes nothing.
    """
    keras.config.set_dtype_policy("mixed_float16")
    student, teacher = pair()
    # On JAX, where each compiles for long, those with labels, with variables of their own, and in two phases.
    names = list(METHODS) if keras.backend.backend() == "tensorflow" else ["dkd", "vid", "ft"]
    distilled = Distillation(student, teacher, names, teacher_mode="joint")
    assert [type(method) for method in distilled.methods] == [METHODS[name] for name in names]
    passes = {"student": 0, "teacher": 0}
    for key in passes:
        network = getattr(distilled._networks, key)

        def counted(*args, call=network.call, key=key, **kwargs):
            passes[key] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(network, "call", counted)
    distilled.compile(keras.optimizers.SGD(0.01))
    x, y = images[0][:32], images[1][:32]
    weights = np.linspace(0, 2, 32).astype("float32")
    before = [numpy(variable.value).copy() for variable in teacher.trainable_variables]
    # The first steps are left out, until the scale of the loss is small enough for half precision.
    losses = distilled.fit(x, y, sample_weight=weights, batch_size=32, epochs=6, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and passes["student"] == passes["teacher"] > 0
    learned = [numpy(variable.value) for variable in teacher.trainable_variables]
    assert any(np.abs(new - old).max() > 0 for new, old in zip(learned, before, strict=True))
    values = distilled.get_weights()
    expected = keras.losses.sparse_categorical_crossentropy(y, numpy(student(x)).astype("float32"), from_logits=True)
    assert distilled.evaluate(x, y, batch_size=32, verbose=0) == pytest.approx(numpy(expected).mean(), rel=1e-2)
    for ours, old in zip(distilled.get_weights(), values, strict=True):
        np.testing.assert_array_equal(ours, old)


@pytest.mark.usefixtures("traced")
def test_methods_in_a_graph(images):
    """As users have them: with a batch of unknown size, and one that is not full."""
    x, y = images[0][:24], images[1][:24]
    distilled = Distillation(*pair(), list(METHODS))
    distilled.compile(keras.optimizers.SGD(0.01))
    history = distilled.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and int(numpy(distilled.step.value)) == 4


@pytest.mark.usefixtures("eager")
def test_the_loss_is_the_weighted_sum(images):
    """Of losses that stand alone; weights may change over the training, and the labels have what is left."""
    x, y = images
    student, teacher = pair()
    found = {}
    for key, methods in {
        "labels": [distillers.KD(weight=0.0)],
        "kd": [distillers.KD(weight=1.0)],
        "rkd": [distillers.KD(weight=1.0), distillers.RKD()],
        "both": [distillers.KD(weight=LinearRamp()), distillers.RKD(weight=0.25)],
    }.items():
        model = compiled(Distillation(student, teacher, methods))
        found[key] = float(numpy(model.compute_loss(x, y, model(x, training=True))))
    expected = 0.5 * found["labels"] + 0.5 * found["kd"] + 0.25 * (found["rkd"] - found["kd"])
    assert found["both"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="over which `weight of kd.*` changes"):
        again = Distillation(student, teacher, distillers.KD(weight=LinearRamp()))
        again.compile("sgd")
        again.train_on_batch(x, y)
    with pytest.raises(ValueError, match="weights of KD up to 1 in all, .* Received: weight=0.9, weight=0.9"):
        Distillation(student, teacher, ["kd", "kd"])
    with pytest.raises(ValueError, match="Expected `label_weight` from 0. Received: label_weight=-1"):
        Distillation(student, teacher, "kd", label_weight=-1)


@pytest.mark.parametrize("name", NAMED)
def test_layers_that_are_not_there(name):
    student, teacher = map(read_graph, pair())
    with pytest.raises(ValueError, match="layers of the student. Received: 'stage1_rel', which .*Did you mean stage1_"):
        distillers.get(name, layers="stage1_rel").taps(student, teacher)
    with pytest.raises(ValueError, match="layers of the teacher. Received: 'nowhere'"):
        distillers.get(name, layers=[("stage1_relu", "nowhere")]).taps(student, teacher)
    for layers in ([], [1], 5):
        with pytest.raises(ValueError, match="Expected `layers` to"):
            distillers.get(name, layers=layers).taps(student, teacher)


def test_networks_without_what_is_looked_for():
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(3, 3, padding="same")(inputs)
    headless = read_graph(keras.Model(inputs, L.GlobalAveragePooling2D()(x), name="headless"))
    strided = read_graph(keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(3, 3)(inputs))), name="strided"))
    teacher = read_graph(micro())
    with pytest.raises(ValueError, match="ends in a Dense layer, .* Received: 'headless', which ends in 'conv2d"):
        distillers.RKD().taps(headless, teacher)
    with pytest.raises(ValueError, match=r"same height and width, or `layers`, .* Received: 'strided' with \[\(6, 6"):
        distillers.AT().taps(strided, teacher)
    assert [ref.layer for ref in distillers.RKD().taps(teacher, teacher)[0]] == ["pool"]


def test_methods_that_are_not_known():
    student, teacher = pair()
    for given, message in (
        ("rdk", "one of kd, .* Received: 'rdk'. Did you mean rkd"),
        (["kd", 3], r"Expected `methods` to list methods .* Received: 3"),
        (keras.losses.MeanSquaredError(), "or losses of `keras.distillation`. Received: <"),
    ):
        with pytest.raises(ValueError, match=message):
            Distillation(student, teacher, given)
    method = distillers.KD()
    with pytest.raises(ValueError, match="Expected new methods. Received: 'kd.*', which is given twice"):
        Distillation(student, teacher, [method, method])


@pytest.mark.parametrize("name", ["rkd", "cc"])
def test_relations_need_two_images(images, name):
    x, y = images
    distilled = compiled(Distillation(*pair(), name))
    message = f"Expected at least two images a step, since {name.upper()} compares images with each other. Received: 1"
    with pytest.raises(ValueError, match=message):
        distilled.fit(x, y, batch_size=1, verbose=0)
    with pytest.raises(ValueError, match=message):
        distilled.fit(x[:1], y[:1], verbose=0)
    with pytest.raises(ValueError, match=message):
        distilled.train_on_batch(x[:1], y[:1])
    with pytest.raises(ValueError, match=message):
        distilled.fit([x[:1]], y[:1], verbose=0)
    assert int(numpy(distilled.step.value)) == 10


@pytest.mark.usefixtures("eager")
def test_data_whose_batches_show_to_keras_only_are_counted_by_nobody(images, monkeypatch):
    x, y = images
    monkeypatch.setattr("tfjointrd.training.methods.distillation.with_first", lambda data: (None, data))
    distilled = compiled(Distillation(*pair(), "rkd"))
    history = distilled.fit(((x[:8], y[:8]) for _ in range(2)), epochs=2, steps_per_epoch=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.usefixtures("eager")
def test_jointrd_takes_them_too(tiny, images):
    joint = JointRD(remove_shortcuts(tiny()), tiny(), ["stage1_relu"], 1.0, ["kd", "at", "rkd", "overhaul"])
    assert set(joint.tail_methods) == {"stage1_relu"} and len(joint.tail_methods["stage1_relu"]) == 1
    compiled(joint)
    assert np.isfinite(joint.train_on_batch(*images))


@pytest.mark.usefixtures("eager")
def test_a_training_interrupted_in_phase_one_is_gone_on_with(images, tmp_path):
    """FT: four epochs of two steps, the first half of which is phase one, and the same saved after the first."""
    x, y = images[0][:32], images[1][:32]

    def trained(model, start, end):
        model.fit(x, y, batch_size=16, epochs=end, initial_epoch=start, steps_per_epoch=2, shuffle=False, verbose=0)
        return [numpy(v.value) for v in model.methods[0].paraphraser]

    distilled = Distillation(*pair(), distillers.FT(phase_one=0.5))
    distilled.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    distilled.total_steps.assign(8.0)
    for _ in range(2):
        distilled.train_on_batch(x[:16], y[:16])
    distilled.save(tmp_path / "training.keras")
    again = keras.saving.load_model(tmp_path / "training.keras")
    first, second = (trained(model, 1, 2) for model in (distilled, again))
    finished = [trained(model, 2, 4) for model in (distilled, again)]
    for ours, theirs, end in zip(first, second, finished[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.any() or ours.ndim == 1
        assert end.shape == ours.shape
    for ours, theirs in zip(again.get_weights(), distilled.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# === Losses of keras.distillation ===


@keras.saving.register_keras_serializable(package="test")
class Apart(getattr(getattr(keras, "distillation", None), "DistillationLoss", object)):
    """A loss of a user's own."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.mean(keras.ops.abs(teacher_outputs - student_outputs))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


@pytest.mark.skipif(not hasattr(keras, "distillation"), reason="a Keras without keras.distillation")
@pytest.mark.usefixtures("eager")
def test_losses_of_keras(images, tmp_path):
    x, y = images[0][:16], images[1][:16]
    student, teacher = pair(softmax=True)
    package = keras.distillation
    feature = package.FeatureDistillation(student_layer_name="stage1_bn", teacher_layer_name="stage1_bn")
    student = micro(4, softmax=True)
    given = [package.LogitsDistillation(2.0, keras.losses.KLDivergence()), feature, Apart()]
    distilled = compiled(Distillation(student, teacher, given))
    outputs = distilled(x, training=True)
    q = numpy(outputs["student"])
    p = numpy(teacher(x))
    soft = [np.square(z**0.5 / (z**0.5).sum(-1, keepdims=True)) ** 0.5 for z in (p, q)]
    expected = -np.log(q[np.arange(16), y]).mean() + 4 * (soft[0] * np.log(soft[0] / soft[1])).sum(-1).mean()
    own = keras.models.clone_model(student)
    own.set_weights(student.get_weights())
    relus = [
        numpy(keras.Model(net.input, net.get_layer("stage1_bn").output)(x, training=training))
        for net, training in ((own, True), (teacher, False))
    ]
    expected += np.square(relus[0] - relus[1]).mean() + np.abs(p - q).mean()
    assert float(numpy(distilled.compute_loss(x, y, outputs))) == pytest.approx(expected, rel=2e-3)
    distilled.save(tmp_path / "training.keras")
    again = keras.saving.load_model(tmp_path / "training.keras")
    assert [type(method.loss) for method in again.methods] == [type(one) for one in given]
    with pytest.raises(ValueError, match="layers of the student. Received: 'nowhere'"):
        wrong = package.FeatureDistillation(student_layer_name="nowhere", teacher_layer_name="stage1_bn")
        Distillation(*pair(), wrong)
