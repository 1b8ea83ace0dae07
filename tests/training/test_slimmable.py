"""Slimmable Networks: every width learns from the labels, and has batch normalisations of its own."""

import json

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, adjoin, data, remove_shortcuts
from tfjointrd.experiments import Recipe, catalog
from tfjointrd.experiments.trainers import make_trainer

L = keras.layers
WIDTHS, EPSILON, MOMENTUM, RATE = (6, 3, 2), 1e-3, 0.9, 0.1
PATHS = ("full", "small_a2", "small_a3")


def pointwise():
    """Two layers of 1x1 convolutions, which matrices write out."""
    inputs = keras.Input((2, 2, 4))
    x = inputs
    for number in (1, 2):
        x = L.Conv2D(6, 1, use_bias=False, name=f"conv{number}")(x)
        x = L.ReLU()(L.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"bn{number}")(x))
    return keras.Model(inputs, L.Dense(3, name="logits")(L.GlobalAveragePooling2D()(x)), name="pointwise")


def slimmable(network, alphas=(2, 3), **options):
    return adjoin(network, alphas=alphas, keep=(), round_to=1, objective="slimmable", **options)


def by_hand(weights, x, y):
    """Loss of all widths and its gradients, from the definition of Slimmable Networks; float64, matrices.

    Args:
        weights: `conv1`, `conv2`, `logits` and `bias`, shared; `gamma1`, `beta1` ... by width.
        x: Images `(batch, positions, channels)`.
        y: Labels.

    Returns:
        The loss, gradients as `weights`, and by width the mean and variance ahead of each normalisation.
    """
    gradients = {key: np.zeros_like(value) for key, value in weights.items() if not isinstance(value, list)}
    gradients |= {key: [None] * len(WIDTHS) for key, value in weights.items() if isinstance(value, list)}
    total, statistics = 0.0, []
    for place, width in enumerate(WIDTHS):
        taken, caches, moments = x, [], []
        for number in (1, 2):
            kernel = weights[f"conv{number}"][: taken.shape[-1], :width]
            z = taken @ kernel
            mean, variance = z.mean((0, 1)), z.var((0, 1))
            normal = (z - mean) / np.sqrt(variance + EPSILON)
            gamma, beta = weights[f"gamma{number}"][place], weights[f"beta{number}"][place]
            out = np.maximum(gamma * normal + beta, 0)
            caches.append((taken, kernel, normal, variance, gamma, out))
            moments.append((mean, variance))
            taken = out
        statistics.append(moments)
        pooled = taken.mean(1)
        logits = pooled @ weights["logits"][:width] + weights["bias"]
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        total += -np.log(p[np.arange(len(y)), y]).mean()
        back = (p - np.eye(3)[y]) / len(y)
        gradients["bias"] += back.sum(0)
        gradients["logits"][:width] += pooled.T @ back
        back = np.repeat((back @ weights["logits"][:width].T)[:, None] / x.shape[1], x.shape[1], axis=1)
        for number in (2, 1):
            taken, kernel, normal, variance, gamma, out = caches[number - 1]
            back = back * (out > 0)
            gradients[f"beta{number}"][place] = back.sum((0, 1))
            gradients[f"gamma{number}"][place] = (back * normal).sum((0, 1))
            back = back * gamma
            back = back - back.mean((0, 1)) - normal * (back * normal).mean((0, 1))
            back = back / np.sqrt(variance + EPSILON)
            gradients[f"conv{number}"][: taken.shape[-1], :width] += np.einsum("npi,npo->io", taken, back)
            back = back @ kernel.T
    return total, gradients, statistics


def shared_and_own(pair):
    """The variables of a pair under the names that `by_hand` has, those of widths as lists."""
    layer, found = pair.network.get_layer, {}
    for number in (1, 2):
        conv, norm = layer(f"conv{number}"), layer(f"bn{number}")
        found[f"conv{number}"] = getattr(conv, "full", conv).kernel
        parts = [norm.full, *(norm.own[path] for path in PATHS[1:])]
        found[f"gamma{number}"], found[f"beta{number}"] = ([getattr(p, k) for p in parts] for k in ("gamma", "beta"))
    return {**found, "logits": layer("logits").full.kernel, "bias": layer("logits").full.bias}


def numpy(variable):
    return keras.ops.convert_to_numpy(variable.value)


def values_of(variables):
    def plain(x):
        return numpy(x).reshape(numpy(x).shape[-2:]) if len(x.shape) == 4 else numpy(x)

    return {k: [plain(x) for x in v] if isinstance(v, list) else plain(v) for k, v in variables.items()}


def test_a_step_is_that_of_slimmable_networks(float64):
    """One step of SGD on the sum of all widths' losses; each width's statistics are those of its own activations."""
    pair, rng = slimmable(pointwise()), np.random.default_rng(0)
    variables = shared_and_own(pair)
    for variable in keras.tree.flatten(variables):
        low, high = (0.5, 1.5) if variable.name == "gamma" else (-1, 1)
        variable.assign(rng.uniform(low, high, variable.shape))
    assert len({id(v) for v in pair.trainable_variables}) == len(keras.tree.flatten(variables))  # and nothing else
    x, y = rng.normal(size=(8, 2, 2, 4)), rng.integers(0, 3, 8)
    before = values_of(variables)
    loss, gradients, statistics = by_hand(before, x.reshape(8, 4, 4), y)
    pair.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
    pair.total_steps.assign(1)
    assert float(pair.train_on_batch(x, y, return_dict=True)["loss"]) == pytest.approx(loss, rel=1e-6)
    after = values_of(variables)
    for key, gradient in gradients.items():
        moved = keras.tree.map_structure(lambda a, b: (a - b) / RATE, before[key], after[key])
        for found, expected in zip(*map(keras.tree.flatten, (moved, gradient)), strict=True):
            assert found.dtype == "float64" and np.abs(expected).max() > 1e-4, key
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=key)
    for path, width, moments in zip(PATHS, WIDTHS, statistics, strict=True):
        network = pair.full() if path == "full" else pair.small(int(path[-1]))
        for number, (mean, variance) in enumerate(moments, start=1):
            norm = network.get_layer(f"bn{number}")
            assert norm.moving_mean.shape == (width,)
            np.testing.assert_allclose(numpy(norm.moving_mean), (1 - MOMENTUM) * mean, atol=1e-12)
            np.testing.assert_allclose(numpy(norm.moving_variance), MOMENTUM + (1 - MOMENTUM) * variance, atol=1e-12)


@pytest.mark.usefixtures("eager")
def test_goes_on_from_a_file(tiny, images, tmp_path):
    x, y = images
    pair = slimmable(tiny(filters=6))
    assert pair.changing() == []
    pair.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
    options = {"batch_size": 32, "shuffle": False, "verbose": 0}
    history = pair.fit(x, y, epochs=2, **options).history
    assert all(history[f"{path}_loss"][-1] < history[f"{path}_loss"][0] for path in PATHS)
    assert history["loss"][-1] == pytest.approx(sum(history[f"{path}_loss"][-1] for path in PATHS), rel=1e-4)
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert again.slimmable
    for model in (pair, again):
        model.fit(x, y, epochs=3, initial_epoch=2, **options)
    for ours, theirs in zip(again.get_weights(), pair.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    outputs = pair.predict(x, verbose=0)
    np.testing.assert_allclose(again.small(3).predict(x, verbose=0), outputs["small_a3"], atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_in_place_distillation_has_the_gradient_of_soft_labels(tiny, images):
    """Universally Slimmable Networks: the cross-entropy of small networks with the full one's probabilities."""
    import tensorflow as tf

    x, y = images
    pair = adjoin(tiny(), 2, keep=(), round_to=1, kl_weight=1.0, stop_gradient=True)
    pair.compile("sgd")
    with tf.GradientTape(persistent=True) as tape:
        outputs = pair(x, training=True)
        found = pair.compute_loss(x, y, outputs)
        soft = tf.nn.softmax_cross_entropy_with_logits(
            tf.stop_gradient(tf.nn.softmax(outputs["full"])), outputs["small"]
        )
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs["full"])
        expected = tf.reduce_mean(hard) + tf.reduce_mean(soft)
    for ours, theirs in zip(
        *(tape.gradient(loss, pair.trainable_variables) for loss in (found, expected)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_taught_by_a_residual_network(tiny, images):
    """JointRD adds what each width learns from the labels."""
    x, y = images
    plain, teacher = remove_shortcuts(tiny()), tiny()
    joints = [
        JointRD(adjoin(plain, 2, round_to=1, **options), teacher, tail_weight=0.5)
        for options in ({"objective": "slimmable"}, {"kl_weight": 0.0})
    ]
    joints[1].student.set_weights(joints[0].student.get_weights())
    losses = []
    for joint in joints:
        joint.compile("sgd")
        losses.append(float(joint.compute_loss(x, y, joint(x, training=True))))
    joints[0].student.set_weights(joints[1].student.get_weights())
    small = keras.ops.convert_to_numpy(joints[0].student.network(x, training=True)["small"])
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, small)
    assert losses[0] - losses[1] == pytest.approx(float(cross_entropy), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "kl"}, "`objective` to be 'adjoined' or 'slimmable'. Received: objective='kl'"),
        (
            {"kl_weight": 1.0},
            "`kl_weight` for objective 'adjoined' only.* Received: objective='slimmable', kl_weight=1",
        ),
        ({"stop_gradient": True, "epsilon": 1e-6}, "`stop_gradient`, `epsilon` for objective 'adjoined' only"),
        ({"divergence": "bernoulli"}, "divergence='bernoulli'"),
    ],
)
def test_what_it_has_no_use_for(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        adjoin(tiny(), 2, round_to=1, **{"objective": "slimmable", **options})


def test_recipe():
    recipe = catalog.get("slimmable_resnet20_a2_digits", "smoke")
    assert (recipe.method, recipe.objective, recipe.alpha) == ("adjoined", "slimmable", 2)
    assert catalog.get("an_resnet20_a2_digits", "smoke").objective == "adjoined"
    assert catalog.get("slimmable_resnet20_a2_digits", "paper").kl_epsilon is None
    assert json.loads(json.dumps(recipe.as_dict()))["objective"] == "slimmable"
    assert make_trainer(recipe, data.info("digits")).slimmable
    with pytest.raises(ValueError, match="`kl_epsilon` for objective 'adjoined' only"):
        Recipe(method="adjoined", objective="slimmable", kl_epsilon=1e-6)
    with pytest.raises(ValueError, match="`objective` to be one of"):
        Recipe(method="adjoined", objective="kl")
    with pytest.raises(ValueError, match="`objective` for method 'adjoined' only"):
        Recipe(method="narrow", objective="slimmable")
