"""Every method on every kind of output, against numbers computed by hand. Runs on JAX too."""

import functools

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, Pruning, adjoin, distillers, remove_shortcuts, search
from tfjointrd.training import GradientRecorder
from tfjointrd.training.losses import (
    bernoulli,
    bernoulli_values,
    distillation,
    divergence,
    squared_error,
    weighted_mean,
)

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 8, 8, 3)).astype("float32")
CLASSES = RNG.integers(0, 4, 16)
MAP = RNG.integers(0, 4, (16, 4, 4))
MANY = RNG.integers(0, 2, (16, 4)).astype("float32")


@keras.saving.register_keras_serializable(package="test")
def sparsemax(z):
    """Keras' own is another function: its sums are not 1."""
    ordered = keras.ops.flip(keras.ops.sort(z, axis=-1), axis=-1)
    above = keras.ops.cumsum(ordered, axis=-1) - 1
    count = keras.ops.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    return keras.ops.relu(z - keras.ops.max(above / count, axis=-1, keepdims=True))


def body(inputs, name="", shortcuts=False):
    x = L.ReLU(name=f"{name}relu1")(L.Conv2D(8, 3, padding="same", name=f"{name}conv1")(inputs))
    if shortcuts:
        x = L.ReLU(name=f"{name}relu2")(L.Add(name=f"{name}add1")([x, L.Conv2D(8, 3, padding="same", name="a")(x)]))
    z = L.Conv2D(8, 3, 2, padding="same", name=f"{name}conv2")(x)
    if shortcuts:
        z = L.Add(name=f"{name}add2")([z, L.Conv2D(8, 3, padding="same", name=f"{name}b")(z)])
    return L.ReLU(name=f"{name}relu3")(z)


def vector(x, channels, activation=None, name="head"):
    return L.Dense(channels, activation=activation, name=name)(L.GlobalAveragePooling2D(name=f"{name}_pool")(x))


def network(ending, shortcuts=False):
    inputs = keras.Input((8, 8, 3))
    x = body(inputs, shortcuts=shortcuts)
    if ending == "average":
        heads = [vector(x, 4, "softmax", f"head{i}") for i in range(2)]
        outputs = L.Average()(heads)
    else:
        outputs = {
            "logits": lambda: vector(x, 4),
            "softmax": lambda: vector(x, 4, "softmax"),
            "log_softmax": lambda: keras.ops.log_softmax(vector(x, 4)),
            "sparsemax": lambda: vector(x, 4, sparsemax),
            "one": lambda: vector(x, 1),
            "one_sigmoid": lambda: vector(x, 1, "sigmoid"),
            "sigmoid": lambda: vector(x, 4, "sigmoid"),
            "map": lambda: L.Conv2D(4, 1, name="head")(x),
            "map_softmax": lambda: L.Softmax()(L.Conv2D(4, 1, name="head")(x)),
            "map_one": lambda: L.Conv2D(1, 1, name="head")(x),
        }[ending]()
    return keras.Model(inputs, outputs)


def one_hot(y):
    return np.eye(4, dtype="float32")[y]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy(x):
    return keras.ops.convert_to_numpy(x).astype("float64")


# === What the losses are ===


def cross_entropy(p, y):
    labels = y.reshape(p.shape[:-1]) if y.shape != p.shape else None
    chosen = np.take_along_axis(p, labels[..., None], -1)[..., 0] if labels is not None else (p * y).sum(-1)
    return -np.log(np.clip(chosen, 1e-7, 1)).mean() if labels is not None else -(np.log(p + 1e-12) * y).sum(-1).mean()


def kl(p, q):
    return (p * np.log((p + 1e-6) / (q + 1e-6))).sum(-1).mean()


def binary_cross_entropy(p, y):
    y = y.reshape(p.shape)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()


def binary_kl(p, q):
    return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()


def squares(a, b):
    return np.square(a - b.reshape(a.shape)).mean()


def same(z):
    return z


C, B, N = (cross_entropy, kl), (binary_cross_entropy, binary_kl), (squares, squares)
YES = RNG.integers(0, 2, 16)
CASES = {  # ending, labels, the loss to pass, from outputs to probabilities or numbers, loss and divergence
    "classes": ("logits", CLASSES, None, softmax, C),
    "one_hot": ("logits", one_hot(CLASSES), None, softmax, C),
    "probabilities": ("softmax", CLASSES[:, None], None, same, C),
    "one_hot_probabilities": ("softmax", one_hot(CLASSES), None, same, C),
    "averaged": ("average", CLASSES, None, same, C),
    "log_probabilities": ("log_softmax", CLASSES, None, softmax, C),
    "sparsemax": ("sparsemax", CLASSES, None, same, C),
    "binary": ("one", YES, None, sigmoid, B),
    "binary_sigmoid": ("one_sigmoid", YES[:, None].astype("float32"), None, same, B),
    "multi_label": ("sigmoid", MANY, None, same, B),
    "multi_label_logits": ("logits", MANY, keras.losses.BinaryCrossentropy(from_logits=True), sigmoid, B),
    "regression": ("one", 3 * RNG.normal(size=16), None, same, N),
    "regression_of_four": ("logits", RNG.normal(size=(16, 4)), None, same, N),
    "regression_of_whole_numbers": ("one", CLASSES * 10, "mse", same, N),
    "map": ("map", MAP, None, softmax, C),
    "map_with_axis": ("map_softmax", MAP[..., None], None, same, C),
    "map_one_hot": ("map", one_hot(MAP), None, softmax, C),
    "map_binary": ("map_one", MAP > 1, None, sigmoid, B),
    "map_of_numbers": ("map_one", RNG.normal(size=(16, 4, 4, 1)), None, same, N),
}


def cases(*shown):
    """All cases by name, those that are not shown here with the slow tests."""
    slow = {"marks": pytest.mark.slow}
    found = [pytest.param(case, id=name, **({} if name in shown else slow)) for name, case in CASES.items()]
    return pytest.mark.parametrize("case", found)


@cases("one_hot", "averaged", "binary", "multi_label", "regression", "map_with_axis")
def test_adjoined(case):
    """Loss, divergence, an epoch with validation, and the small network that comes out."""
    ending, y, loss, transform, (own, between) = case
    pair = adjoin(network(ending), 2, (), round_to=1, kl_weight=0.7)
    pair.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    p, q = (transform(numpy(pair(X)[key])) for key in ("full", "small"))
    result = pair.evaluate(X, y, verbose=0, return_dict=True)
    assert result["full_loss"] == pytest.approx(own(p, y), rel=1e-3)
    assert result["small_kl"] == pytest.approx(between(p, q), rel=1e-3, abs=1e-6)
    assert result["loss"] == pytest.approx(own(p, y) + 0.7 * between(p, q), rel=1e-3)
    assert between(p, q) > 1e-6
    history = pair.fit(X, y, validation_data=(X, y), verbose=0).history
    assert np.isfinite(history["loss"] + history["val_loss"]).all()
    np.testing.assert_allclose(numpy(pair.small()(X)), numpy(pair(X)["small"]), atol=1e-5)


def with_temperature(p, temperature):
    """Probabilities as their logits, divided by the temperature, give them."""
    return softmax(np.log(p + 1e-7) / temperature)


@cases("averaged", "multi_label_logits", "regression", "map_binary")
def test_distillation(case):
    """(1 - alpha) loss + alpha T² KL, or the squared error of numbers without T."""
    ending, y, loss, transform, (own, between) = case
    student, teacher = network(ending), network(ending)
    distilled = Distillation(student, teacher, distillers.KD(temperature=2.0, weight=0.4))
    distilled.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    distilled.check_labels(y)
    p, q = (transform(numpy(net(X))) for net in (teacher, student))
    found = float(distilled.compute_loss(X, y, distilled(X, training=True)))
    if own is cross_entropy:
        soft = 4 * kl(with_temperature(p, 2), with_temperature(q, 2))
    elif own is binary_cross_entropy:
        a, b = (sigmoid(np.log(r / (1 - r)) / 2) for r in (p, q))
        soft = 4 * binary_kl(a, b)
    else:
        soft = squares(p, q)
    assert found == pytest.approx(0.6 * own(q, y) + 0.4 * soft, rel=2e-3) and soft > 1e-6
    assert np.isfinite(distilled.fit(X, y, validation_data=(X, y), verbose=0).history["val_loss"]).all()


@cases("averaged", "regression")
def test_jointrd(case):
    """Every path has the loss of its output."""
    ending, y, loss, transform, (own, _) = case
    teacher = network(ending, shortcuts=True)
    joint = JointRD(remove_shortcuts(teacher), teacher, ["relu2"], tail_weight=0.5)
    joint.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    joint.check_labels(y)
    outputs = joint(X, training=True)
    expected = own(transform(numpy(outputs["student"])), y) + 0.5 * own(transform(numpy(outputs["relu2"])), y)
    assert float(joint.compute_loss(X, y, outputs)) == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(joint.fit(X, y, validation_data=(X, y), verbose=0).history["val_loss"]).all()


@cases("regression")
def test_search(case):
    ending, y, loss, transform, (own, between) = case
    dan = search(network(ending), (1, 2), (), round_to=1, kl_weight=1.0)
    dan.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    dan.fit(X, y, held_out=(X, y), verbose=0)
    p, q = (transform(numpy(dan(X)[key])) for key in ("full", "small"))
    result = dan.evaluate(X, y, verbose=0, return_dict=True)
    assert (result["full_loss"], result["small_kl"]) == pytest.approx((own(p, y), between(p, q)), rel=1e-3)


# === Several outputs ===


def three_outputs(form, shortcuts=False):
    inputs = keras.Input((8, 8, 3))
    x = body(inputs, shortcuts=shortcuts)
    heads = [vector(x, 4, name="kind"), vector(x, 3, "sigmoid", "tags"), vector(x, 2, name="where")]
    return keras.Model(inputs, heads if form is list else dict(zip(["kind", "tags", "where"], heads, strict=True)))


LABELS = {"kind": CLASSES, "tags": MANY[:, :3], "where": RNG.normal(size=(16, 2))}
WEIGHTS = {"kind": 1.0, "tags": 2.0, "where": 0.5}
METRICS = {"kind": ["accuracy"], "tags": ["binary_accuracy"], "where": ["mae"]}


def by_hand(outputs, prefix=""):
    found = {name: numpy(outputs[f"{prefix}{name}"]) for name in LABELS}
    losses = cross_entropy(softmax(found["kind"]), CLASSES), binary_cross_entropy(found["tags"], LABELS["tags"])
    return losses[0] + 2 * losses[1] + 0.5 * squares(found["where"], LABELS["where"])


@pytest.mark.parametrize("form", [list, pytest.param(dict, marks=pytest.mark.slow)])
def test_several_outputs(form):
    options = {"loss_weights": WEIGHTS, "metrics": METRICS, "run_eagerly": True}
    pair = adjoin(three_outputs(form), 2, (), round_to=1, kl_weight=1.0)
    pair.compile(keras.optimizers.SGD(0.01), **options)
    outputs = pair(X)
    result = pair.evaluate(X, LABELS, verbose=0, return_dict=True)
    p, q = ({name: numpy(outputs[f"{path}_{name}"]) for name in LABELS} for path in ("full", "small"))
    between = kl(softmax(p["kind"]), softmax(q["kind"])) + 2 * binary_kl(p["tags"], q["tags"])
    between += 0.5 * squares(p["where"], q["where"])
    assert result["loss"] == pytest.approx(by_hand(outputs, "full_") + between, rel=1e-3)
    assert {"full_kind_accuracy", "small_tags_binary_accuracy", "small_where_mae"} <= set(result)

    teacher = three_outputs(form, shortcuts=True)
    joint = JointRD(remove_shortcuts(teacher), teacher, ["relu2"], tail_weight=1.0, methods=distillers.KD(weight=0.5))
    joint.compile(keras.optimizers.SGD(0.01), **options)
    history = joint.fit(X, LABELS, validation_data=(X, LABELS), verbose=0, callbacks=[GradientRecorder(X, LABELS)])
    assert {"kind_accuracy", "val_tags_binary_accuracy", "val_where_mae"} <= set(history.history)
    predicted = joint.predict(X, verbose=0)
    assert set(predicted) == set(LABELS)
    assert joint.evaluate(X, LABELS, verbose=0)[0] == pytest.approx(by_hand(predicted), rel=1e-3)
    training = joint(X, training=True)
    teachers = dict(zip(LABELS, keras.tree.flatten(joint.teacher(X)), strict=True)) if form is list else teacher(X)
    kinds = [numpy(part["kind"]) for part in (teachers, training["student"])]
    tags = [numpy(part["tags"]) for part in (teachers, training["student"])]
    places = [numpy(part["where"]) for part in (teachers, training["student"])]
    soft = 16 * kl(*(softmax(z / 4) for z in kinds)) + 0.5 * squares(*places)
    soft += 2 * 16 * binary_kl(*(sigmoid(np.log(r / (1 - r)) / 4) for r in tags))
    expected = 0.5 * by_hand(training["student"]) + 0.5 * soft + by_hand(training["relu2"])
    joint.check_labels(LABELS)
    assert float(joint.compute_loss(X, LABELS, training)) == pytest.approx(expected, rel=1e-3)


def test_weights_of_images_for_several_outputs():
    objective = adjoin(three_outputs(list), 2, (), round_to=1).objective
    weights = {"kind": np.arange(16.0), "tags": np.ones((16, 1)), "where": None}
    np.testing.assert_allclose(numpy(objective.weight_of_images(weights)), (np.arange(16) + 1) / 2)
    y, p = [LABELS[name] for name in LABELS], list(three_outputs(list)(X))
    objective.settle(LABELS)
    without = float(objective.loss(y, p, {"kind": np.zeros(16), "tags": np.zeros(16), "where": None}))
    assert without == pytest.approx(squares(numpy(p[2]), LABELS["where"]), rel=1e-4)


def test_outputs_are_matched_by_name():
    student, teacher = three_outputs(dict), three_outputs(dict)
    turned = keras.Model(teacher.input, {name: teacher.output[name] for name in ("where", "tags", "kind")})
    losses = []
    for other in (teacher, turned):
        distilled = Distillation(student, other, distillers.KD(weight=1.0))
        distilled.check_labels(LABELS)
        losses.append(float(distilled.compute_loss(X, LABELS, distilled(X, training=True))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with pytest.raises(ValueError, match="have the same outputs. Received: a student with 3 and a teacher with 1"):
        Distillation(student, network("logits"))


# === What the user says ===


@keras.saving.register_keras_serializable(package="test")
def distance(full, small):
    return keras.ops.sum(keras.ops.abs(full - small), axis=-1)


@pytest.mark.parametrize("given", ["bernoulli", distance, {"head": "squared_error"}])
def test_divergence_is_given(given, tmp_path):
    pair = adjoin(network("logits"), 2, (), round_to=1, kl_weight=1.0, divergence=given)
    pair.compile("sgd", run_eagerly=True)
    p, q = (numpy(pair(X)[key]) for key in ("full", "small"))
    found = {"bernoulli": binary_kl(sigmoid(p), sigmoid(q)), distance: np.abs(p - q).sum(-1).mean()}
    expected = squares(p, q) if isinstance(given, dict) or given not in found else found[given]
    pair.save(tmp_path / "pair.keras")
    for model in (pair, keras.saving.load_model(tmp_path / "pair.keras")):
        assert model.evaluate(X, CLASSES, verbose=0, return_dict=True)["small_kl"] == pytest.approx(expected, rel=1e-3)


def test_divergences_that_do_not_fit():
    with pytest.raises(ValueError, match="Expected `divergence` to be one of .* Received: divergence='kl'"):
        adjoin(network("logits"), 2, (), round_to=1, divergence="kl")
    for ending, wrong in (("sigmoid", "kullback_leibler"), ("one", "kullback_leibler"), ("softmax", "bernoulli")):
        with pytest.raises(ValueError, match=f"to fit output '.*', . channel.* Received: divergence='{wrong}'"):
            adjoin(network(ending), 2, (), round_to=1, divergence=wrong)
    with pytest.raises(ValueError, match="since KD compares outputs. Received: a student that ends in a sigmoid"):
        Distillation(network("sigmoid"), network("softmax"))


def test_yes_or_no_is_two_classes():
    a, b = RNG.normal(size=(2, 8, 1)).astype("float32")
    two = [np.concatenate([np.zeros_like(z), z], -1) for z in (a, b)]
    for temperature in (1.0, 3.0):
        expected = float(distillation(*two, temperature))
        assert float(keras.ops.mean(bernoulli_values(a, b, temperature))) == pytest.approx(expected, rel=1e-4)
    assert float(bernoulli(a, b, False, 1e-6)) == pytest.approx(float(divergence(*two, False, 1e-6)), rel=1e-4)
    assert float(bernoulli(sigmoid(a), sigmoid(b), True)) == pytest.approx(float(divergence(*two, False)), rel=1e-3)
    assert np.isfinite(float(bernoulli(a * 1e4, b * -1e4, False)))


def test_weights_of_images_and_positions():
    values, images = RNG.uniform(size=(4, 3, 3)).astype("float32"), np.array([0, 1, 2, 3], "float32")
    expected = (values * images[:, None, None]).mean()
    for weights in (images, images[:, None], np.broadcast_to(images[:, None, None], (4, 3, 3))):
        assert float(weighted_mean(values, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(weighted_mean(values[:, 0, 0], weights)) == pytest.approx((values[:, 0, 0] * images).mean(), rel=1e-5)
    assert float(squared_error(values, 0 * values, images[:, None])) == pytest.approx(
        (np.square(values) * images[:, None, None]).mean(), rel=1e-5
    )


def test_the_loss_that_a_network_was_compiled_with(tmp_path):
    """Is taken over; one that is passed comes first."""
    base = network("logits")
    base.compile("sgd", "mae")
    pair = adjoin(base, 2, (), round_to=1, kl_weight=1.0)
    pair.compile("sgd", run_eagerly=True)
    y = np.zeros((16, 4))
    pair.save(tmp_path / "pair.keras")
    for model in (pair, keras.saving.load_model(tmp_path / "pair.keras")):
        p, q = (numpy(model(X)[key]) for key in ("full", "small"))
        result = model.evaluate(X, y, verbose=0, return_dict=True)
        assert (result["full_loss"], result["small_kl"]) == pytest.approx((np.abs(p).mean(), squares(p, q)), rel=1e-3)
    pair.compile("sgd", "mse", run_eagerly=True)
    assert pair.evaluate(X, y, verbose=0, return_dict=True)["full_loss"] == pytest.approx(squares(p, 0 * p), rel=1e-3)
    student = network("logits")
    for networks in ((student, base), (base, student)):
        distilled = Distillation(*networks)
        distilled.compile("sgd", run_eagerly=True)
        own = numpy(networks[0](X))
        assert distilled.evaluate(X, y, verbose=0) == pytest.approx(np.abs(own).mean(), rel=1e-3)


def test_a_loss_without_a_name_is_said():
    base = network("logits")
    base.compile("sgd", lambda y, p: keras.ops.mean(p))
    with pytest.warns(UserWarning, match="compiled with the loss .*lambda.* pass `loss` to `compile`"):
        adjoin(base, 2, (), round_to=1)


def own_loss(y, p):
    return keras.ops.mean(keras.ops.square(p - y[:, :1]), axis=-1)


def test_a_loss_of_ones_own_wants_labels_of_its_own():
    """Here two numbers for one output; then nothing tells what the divergence is, which is said."""
    pair = adjoin(network("one"), 2, (), round_to=1, kl_weight=1.0)
    pair.compile("sgd", own_loss, run_eagerly=True)
    with pytest.warns(UserWarning, match="what output 'head' is for.*compared by 'bernoulli'.* pass `div"):
        pair.fit(X, RNG.normal(size=(16, 2)), verbose=0)
    given = adjoin(network("one"), 2, (), round_to=1, kl_weight=1.0, divergence="squared_error")
    given.compile("sgd", functools.partial(own_loss), run_eagerly=True)
    given.fit(X, RNG.normal(size=(16, 2)), verbose=0)


def test_the_kind_may_change_between_trainings():
    """Labels of the same shape, and another loss: no step that was traced before is used."""
    pair = adjoin(network("one"), 2, (), round_to=1, kl_weight=0.0)
    pair.compile(keras.optimizers.SGD(0.0))
    for y, transform, loss in ((YES, sigmoid, binary_cross_entropy), (YES * 7.5, same, squares)):
        y = y.astype("float32")
        found = pair.fit(X, y, batch_size=16, verbose=0).history["loss"][0]
        assert found == pytest.approx(loss(transform(numpy(pair(X)["full"])), y), rel=1e-3)


# === Labels ===

WRONG = [
    ("logits", np.where(np.arange(16) == 3, np.nan, 1.0), "finite labels{}. Received: .* with 1 that are NaN"),
    ("logits", np.array(["cat", "dog"] * 8), "labels{} as numbers.*Received: labels of dtype <U3"),
    ("logits", CLASSES + 1, "between 0 and 3 .*Received: labels between . and 4{}"),
    ("logits", CLASSES * 0.5, "whole numbers as labels{}"),
    ("logits", MANY, "say what they are.*BinaryCrossentropy.*mean_squared_error"),
    ("softmax", MANY, "whose sum over the classes is 1"),
    ("sigmoid", CLASSES, r"labels{} of shape \(batch, 4\), 0 or 1 for each of 4 outputs"),
    ("sigmoid", 2 * MANY, "between 0 and 1 for a network with outputs that each are yes or no"),
    ("one", CLASSES * 3, "between 0 and 1 for a network with one output.*'mean_squared_error'"),
    ("one", np.linspace(0, 1, 16), "say what they are.*probabilities or numbers"),
    ("map", CLASSES, r"labels{} of shape \(batch, 4, 4\), one of 4 classes each, or \(batch, 4, 4, 4\)"),
    ("logits", None, "Expected labels{}. Received: none"),
]


@pytest.mark.parametrize("ending, y, message", WRONG)
def test_labels_that_do_not_fit(ending, y, message):
    """One message for training, evaluation and validation, before the first step."""
    pair = adjoin(network(ending), 2, (), round_to=1)
    pair.compile("sgd", run_eagerly=True)
    right = {"one": YES, "sigmoid": MANY, "map": MAP}.get(ending, CLASSES)
    for where, run in (
        ("", lambda: pair.fit(X, y, verbose=0)),
        ("", lambda: pair.evaluate(X, y, verbose=0)),
        ("", lambda: pair.test_on_batch(X, y)),
        (" of `validation_data`", lambda: pair.fit(X, right, validation_data=(X, y), verbose=0)),
    ):
        if where and "say what they are" in message:
            continue  # the training has told
        with pytest.raises(ValueError, match=message.format(where)) as raised:
            run()
        assert len(str(raised.value)) < 500 and int(pair.step) == 0


def test_labels_of_several_outputs_are_named():
    pair = adjoin(three_outputs(list), 2, (), round_to=1)
    pair.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="between 0 and 1 .* Received: labels between 0.0 and 3.0 for output 'tags'"):
        pair.fit(X, {**LABELS, "tags": 3 * LABELS["tags"]}, verbose=0)


def test_labels_in_generators_and_validation_sets():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return X, CLASSES + 9

    def batches(y):
        for start in range(0, 16, 4):
            yield X[start : start + 4], y[start : start + 4]

    pair = adjoin(network("logits"), 2, (), round_to=1)
    pair.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="Received: labels between . and 12 of `validation_data`"):
        pair.fit(X, CLASSES, validation_data=Batches(), verbose=0)
    with pytest.raises(ValueError, match="between 0 and 3 .* Received: labels between .* and 1.\\."):
        pair.fit(batches(CLASSES + 9), steps_per_epoch=4, verbose=0)
    assert int(pair.step) == 0
    pair.fit(batches(CLASSES), steps_per_epoch=4, verbose=0)  # none of the four is missing
    assert int(pair.step) == 4


@pytest.mark.parametrize(
    "loss, y, message",
    [
        ("sparse_categorical_crossentropy", one_hot(CLASSES), "whole numbers as labels, since the loss is sparse_cat"),
        ("categorical_crossentropy", CLASSES, "one-hot labels of 4 classes, since the loss is categorical_crossentr"),
    ],
)
def test_labels_and_loss_of_another_form(loss, y, message):
    pair = adjoin(network("softmax"), 2, (), round_to=1)
    pair.compile("sgd", loss, run_eagerly=True)
    with pytest.raises(ValueError, match=message):
        pair.fit(X, y, verbose=0)
    with pytest.raises(ValueError, match="`loss` for output 'head' with one channel"):
        adjoin(network("one"), 2, (), round_to=1).compile("sgd", loss)


# === Losses as functions ===


def own_mse(y, outputs):
    return keras.ops.mean(keras.ops.square(y - outputs), axis=-1)


@pytest.mark.parametrize("loss", [own_mse, functools.partial(own_mse), "hinge", "binary_crossentropy"])
@pytest.mark.parametrize("shape", ["one number an image", "a number a position", "a column"])
def test_a_function_sees_labels_as_in_keras(loss, shape):
    """Labels `(batch,)` of outputs `(batch, 1)` would otherwise be subtracted from each other one by one."""
    inputs = keras.Input((8, 8, 3))
    x = body(inputs)
    positions = shape == "a number a position"
    model = keras.Model(inputs, L.Conv2D(1, 1, activation="sigmoid")(x) if positions else vector(x, 1, "sigmoid"))
    y = (RNG.random((16, 4, 4) if positions else (16, 1) if shape == "a column" else 16) > 0.5).astype("float32")
    model.compile("sgd", loss=loss)
    expected = model.evaluate(X, y, verbose=0)
    for training in (Pruning(model, target_macs=0.9, round_to=1), adjoin(model, 2, keep=(), round_to=1)):
        training.compile("sgd", loss=loss)
        found = training.evaluate(X, y, verbose=0, return_dict=True)
        assert found.get("full_loss", found["loss"]) == pytest.approx(expected, rel=1e-5)
