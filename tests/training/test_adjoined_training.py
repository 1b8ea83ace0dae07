"""`Adjoined`: its loss, its metrics, and that it is an ordinary Keras model. Runs on JAX too."""

import functools

import keras
import numpy as np
import pytest

from tfjointrd import Adjoined, adjoin, data
from tfjointrd.training import Constant
from tfjointrd.training.losses import divergence

REPORTED = ("loss", "full_loss", "small_loss", "small_kl")


@pytest.fixture
def tiny(tiny):
    """Of two stages, which have all kinds of layers already."""
    return functools.partial(tiny, stages=2)


def compiled(model, **kwargs):
    model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"], **kwargs)
    return model


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("ending", [False, True], ids=["logits", "softmax"])
def test_loss_is_eqn_3(tiny, images, ending):
    x, y = images
    pair = adjoin(tiny(softmax=ending), 2, round_to=1, kl_weight=Constant(0.7))
    pair.compile("sgd", metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")])
    outputs = pair.predict(x, verbose=0)
    p, q = (outputs[key] if ending else softmax(outputs[key]) for key in ("full", "small"))
    cross_entropy = -np.log(p[np.arange(len(y)), y]).mean()
    kl = np.sum(p * np.log((p + 1e-6) / (q + 1e-6)), -1).mean()
    small_loss = -np.log(q[np.arange(len(y)), y]).mean()
    result = pair.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(cross_entropy + 0.7 * kl, rel=1e-4)
    expected = {"full_loss": cross_entropy, "small_loss": small_loss, "small_kl": kl}
    assert {key: result[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert result["full_accuracy"] == pytest.approx((p.argmax(-1) == y).mean(), abs=1e-6)
    assert result["small_accuracy"] == pytest.approx((q.argmax(-1) == y).mean(), abs=1e-6)
    for name, probabilities in {"full": p, "small": q}.items():
        two = np.argsort(-probabilities, -1)[:, :2]
        assert result[f"{name}_top2"] == pytest.approx((two == y[:, None]).any(-1).mean(), abs=1e-6)


@pytest.mark.parametrize(("kl_weight", "moving"), [(1.0, {"full", "small"}), (0.0, set())])
def test_the_divergence_reaches_both_networks(tiny, images, kl_weight, moving):
    """With the KL term alone, what either network owns learns; without a weight, nothing does."""
    x, y = images
    pair = adjoin(tiny(), 2, round_to=1, kl_weight=kl_weight)
    pair.compile("sgd", loss=lambda labels, logits: 0.0 * keras.ops.mean(logits, axis=-1))
    layer = pair.network.get_layer("stage2_bn2")
    networks = {"full": layer.full, "small": layer.own["small"]}
    before = {path: own.get_weights()[0].copy() for path, own in networks.items()}
    pair.fit(x, y, epochs=1, verbose=0)
    assert {path for path, own in networks.items() if np.abs(own.get_weights()[0] - before[path]).max() > 0} == moving


def test_weight_follows_the_training(tiny, images):
    x, y = images
    pair = compiled(adjoin(tiny(), 2, round_to=1))
    pair.fit(x, y, batch_size=16, epochs=3, verbose=0)
    assert int(pair.step) == 12 and float(pair.total_steps) == 12
    pair.fit(x, y, batch_size=16, epochs=5, initial_epoch=3, verbose=0)
    assert int(pair.step) == 20 and float(pair.total_steps) == 20
    assert int(pair.optimizer.iterations) == 20


def test_both_networks_learn(tiny, images):
    x, y = images
    pair = compiled(adjoin(tiny(filters=8), 2, round_to=1))
    history = pair.fit(x, y, batch_size=16, epochs=25, verbose=0, validation_data=(x, y)).history
    assert set(history) == {
        f"{prefix}{key}" for prefix in ("", "val_") for key in (*REPORTED, "full_accuracy", "small_accuracy")
    }
    assert history["full_accuracy"][-1] > 0.9 and history["small_accuracy"][-1] > 0.9
    outputs = pair.predict(x, verbose=0)
    for path, network in (("full", pair.full()), ("small", pair.small())):
        np.testing.assert_allclose(network.predict(x, verbose=0), outputs[path], atol=1e-4)


def test_metrics_given_as_objects_and_one_hot_labels(tiny, images):
    x, y = images
    pair = adjoin(tiny(), 2, round_to=1)
    pair.compile("sgd", loss="categorical_crossentropy", metrics=[keras.metrics.CategoricalAccuracy(name="top1")])
    history = pair.fit(x, keras.utils.to_categorical(y, 3), epochs=1, verbose=0).history
    assert {"full_top1", "small_top1", *REPORTED} == set(history)


def test_sample_weights(tiny, images):
    x, y = images
    pair = compiled(adjoin(tiny(), 2, round_to=1, kl_weight=1.0))
    weights = np.zeros(len(x), "float32")
    assert pair.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"] == 0
    pair.fit(x, y, sample_weight=weights + 1, epochs=1, verbose=0)


def test_regularisers_count(tiny, images):
    x, y = images
    model = tiny()
    model.get_layer("stage2_conv2").kernel_regularizer = keras.regularizers.L2(1.0)
    pair = compiled(adjoin(model, 2, round_to=1, kl_weight=0.0))
    norm = np.sum(model.get_layer("stage2_conv2").get_weights()[0] ** 2)
    plain = compiled(adjoin(tiny(), 2, round_to=1, kl_weight=0.0))
    plain.set_weights(pair.get_weights())
    difference = pair.evaluate(x, y, verbose=0)[0] - plain.evaluate(x, y, verbose=0)[0]
    assert difference == pytest.approx(norm, rel=1e-3)


def test_saved_and_trained_on(tiny, images, tmp_path):
    x, y = images
    pair = compiled(adjoin(tiny(), 2, round_to=1, kl_weight=Constant(0.5)))
    pair.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False)
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert isinstance(again, Adjoined) and int(again.step) == 8 and int(again.optimizer.iterations) == 8
    assert again.kl_weight.get_config() == {"weight": 0.5}
    for model in (pair, again):
        model.fit(x, y, batch_size=16, epochs=4, initial_epoch=2, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), pair.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    x = x[:4]
    np.testing.assert_allclose(again.small().predict(x, verbose=0), pair.small().predict(x, verbose=0), atol=1e-5)


def test_losses_that_no_file_can_hold(tiny, images):
    """Train all the same, without a word until the model is saved."""
    x, y = images
    pair = adjoin(tiny(), 2, round_to=1)
    cross_entropy = keras.losses.sparse_categorical_crossentropy
    pair.compile("sgd", loss=functools.partial(cross_entropy, from_logits=True), metrics=["accuracy"])
    assert np.isfinite(pair.fit(x, y, verbose=0).history["loss"]).all()


def test_saved_with_what_was_frozen_since(tiny, images, tmp_path):
    """And without how the network was compiled before, by a function that the file could not name."""
    x, y = images
    network = tiny()
    network.compile("adam", lambda labels, logits: keras.ops.mean(logits))
    with pytest.warns(UserWarning, match="which has no name"):
        pair = adjoin(network, 2, round_to=1)
    assert network.compiled
    for name in ("stem_conv", "stage2_conv1"):
        pair.network.get_layer(name).trainable = False
    pair.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    pair.fit(x, y, batch_size=16, verbose=0)
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert [v.path for v in again.trainable_variables] == [v.path for v in pair.trainable_variables]
    for one, other in zip(again.optimizer.variables, pair.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one.value, other.value)))
    pair.network.get_layer("stem_conv").trainable = True
    pair.save(tmp_path / "thawed.keras")
    thawed = keras.saving.load_model(tmp_path / "thawed.keras").network
    assert [thawed.get_layer(name).trainable for name in ("stem_conv", "stage2_conv1")] == [True, False]


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision(tiny, images, policy):
    x, y = images
    keras.config.set_dtype_policy(policy)
    pair = compiled(adjoin(tiny(), 2, round_to=1))
    history = pair.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert pair.small().dtype_policy.name == policy
    outputs = pair.predict(x, verbose=0)["small"]
    np.testing.assert_allclose(pair.small().predict(x, verbose=0).astype("float32"), outputs, atol=0.05)


def test_callbacks_see_an_ordinary_model(tiny, images, tmp_path):
    x, y = images
    pair = compiled(adjoin(tiny(), 2, round_to=1))
    path = tmp_path / "best.weights.h5"
    saving = keras.callbacks.ModelCheckpoint(path, monitor="val_small_accuracy", mode="max", save_weights_only=True)
    stopping = keras.callbacks.EarlyStopping("val_small_kl", mode="max", patience=1, restore_best_weights=True)
    pair.fit(x, y, epochs=4, validation_data=(x, y), callbacks=[saving, stopping], verbose=0)
    assert int(pair.step) == 2 * (stopping.best_epoch + 1)
    found = pair.evaluate(x, y, batch_size=32, verbose=0, return_dict=True)
    assert found["small_kl"] == pytest.approx(float(stopping.best), rel=1e-4)
    fresh = adjoin(tiny(), 2, round_to=1)
    fresh.load_weights(path)
    assert int(fresh.step) >= 4


@pytest.mark.parametrize("labels", [np.full(64, 3), np.full((64, 1), -1), np.zeros((64, 4))])
def test_labels_outside_the_classes(tiny, images, labels):
    pair = compiled(adjoin(tiny(), 2, round_to=1))
    with pytest.raises(ValueError, match=r"labels (between|of 3 classes|between 0 and 2).*Received: labels"):
        pair.fit(images[0], labels, verbose=0)
    assert int(pair.step) == 0


def test_labels_in_a_data_set_are_looked_at_too(tiny, images):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return images[0][:8], np.full(8, 9)

    with pytest.raises(ValueError, match="between 0 and 2 .* Received: labels between 9 and 9"):
        compiled(adjoin(tiny(), 2, round_to=1)).fit(Batches(), verbose=0)


def test_data_without_a_length(tiny, images):
    def batches():
        while True:
            yield images

    pair = compiled(adjoin(tiny(), 2, round_to=1))
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        pair.fit(batches(), verbose=0)
    with pytest.raises(ValueError, match=r"call `model.total_steps.assign\(number_of_steps\)` first. Received: total"):
        pair.train_on_batch(*images)
    pair.fit(batches(), steps_per_epoch=2, epochs=2, verbose=0)
    assert float(pair.total_steps) == 4
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):  # not the length of the training before
        pair.fit(batches(), verbose=0)
    with pytest.raises(ValueError, match="Expected `callbacks` to be a list of callbacks. Received: callbacks=<"):
        pair.fit(*images, callbacks=keras.callbacks.CallbackList([]), verbose=0)


def test_pipelines_count_their_epochs():
    """Looking at the labels before the first epoch does not change which epoch the pipeline serves."""
    train, _ = data.load("digits", batch_size=240)
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    pair = compiled(adjoin(keras.Sequential([*layers, keras.layers.Dense(10)]), 2, keep=(), round_to=1))
    pair.fit(train, epochs=2, verbose=0)
    assert train.epoch == 2
    pair.fit(train, epochs=4, initial_epoch=2, verbose=0)
    assert train.epoch == 4


def own_loss(y, p):
    return 2.0 - p[:, 0]


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy, own_loss]
)
def test_loss_functions_are_reduced_and_weighted(tiny, images, loss):
    """As `keras.Model` does it: the mean over the batch, with sample weights."""
    x, y = images
    pair = adjoin(tiny(softmax=True), 2, round_to=1, kl_weight=0.0)
    alone = tiny(softmax=True)
    alone.set_weights(pair.full().get_weights())
    weights = np.linspace(0, 2, len(x)).astype("float32")
    for model in (pair, alone):
        model.compile("sgd", loss=loss)
    for options in ({}, {"sample_weight": weights}):
        ours, theirs = (m.evaluate(x, y, batch_size=64, verbose=0, return_dict=True, **options) for m in (pair, alone))
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    pair.fit(x, y, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, verbose=0)


def test_a_second_training_begins_at_the_start(tiny, images):
    pair = compiled(adjoin(tiny(), 2, round_to=1))
    pair.fit(*images, batch_size=16, epochs=2, verbose=0)
    pair.fit(*images, batch_size=16, epochs=3, verbose=0)
    assert int(pair.step) == 12 == float(pair.total_steps)


def test_weighted_metrics_are_routed_too(tiny, images):
    pair = adjoin(tiny(), 2, round_to=1)
    pair.compile("sgd", weighted_metrics=["accuracy"])
    assert {"full_accuracy", "small_accuracy"} <= set(pair.fit(*images, verbose=0).history)
    with pytest.raises(ValueError, match="`metrics` to be a list. Received: metrics='accuracy'"):
        pair.compile("sgd", metrics="accuracy")


def test_divergence_from_logits_and_as_printed(tiny, images):
    """The same to 1e-6 where probabilities are well above epsilon, and finite where they are not."""
    x, y = images
    results = {}
    for epsilon in (None, 1e-6):
        keras.utils.set_random_seed(0)
        pair = compiled(adjoin(tiny(), 2, round_to=1, kl_weight=1.0, epsilon=epsilon))
        results[epsilon] = pair.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)["small_kl"]
    assert results[None] == pytest.approx(results[1e-6], abs=1e-6) and results[None] > 1e-4
    far = np.array([[0.0, 200.0, 0.0]], "float32")
    assert float(divergence(far, -far, probabilities=False)) == pytest.approx(200 + np.log(2), rel=1e-5)
    assert float(divergence(far, -far, False, epsilon=1e-6)) == pytest.approx(-np.log(1e-6), rel=1e-3)
    for epsilon in (0, -1.0):
        with pytest.raises(ValueError, match=f"Expected `epsilon` above 0 or None. Received: epsilon={epsilon}"):
            adjoin(tiny(), 2, round_to=1, epsilon=epsilon)


def test_the_target_can_be_left_alone(tiny, images):
    """With `stop_gradient`, KL trains nothing that only the full network has."""
    x, y = images
    moved = {}
    for stop in (False, True):
        keras.utils.set_random_seed(0)
        pair = adjoin(tiny(), 2, round_to=1, kl_weight=1.0, stop_gradient=stop)
        pair.compile(keras.optimizers.SGD(0.1), loss=no_loss)
        layer = pair.network.get_layer("stage2_bn2")
        before = [[w.copy() for w in part.get_weights()[:2]] for part in (layer.full, layer.own["small"])]
        pair.fit(x, y, epochs=1, verbose=0)
        after = [part.get_weights()[:2] for part in (layer.full, layer.own["small"])]
        moved[stop] = [
            max(np.abs(a - b).max() for a, b in zip(*pair, strict=True)) for pair in zip(after, before, strict=True)
        ]
    assert min(moved[False]) > 0
    assert moved[True][0] == 0 < moved[True][1]


def no_loss(y, p):
    return 0.0 * p[:, 0]


def test_label_smoothing_and_mixed_labels(tiny, images):
    x, y = images
    mixed = 0.7 * keras.utils.to_categorical(y, 3) + 0.3 * keras.utils.to_categorical(y[::-1], 3)
    pair = adjoin(tiny(), 2, round_to=1, kl_weight=0.5)
    pair.compile(
        "sgd", keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), metrics=["accuracy"]
    )
    outputs = pair.predict(x, verbose=0)
    p = softmax(outputs["full"])
    expected = -np.sum((0.9 * mixed + 0.1 / 3) * np.log(p), -1).mean()
    result = pair.evaluate(x, mixed, batch_size=64, verbose=0, return_dict=True)
    assert result["full_loss"] == pytest.approx(expected, rel=1e-4)
    assert result["loss"] == pytest.approx(expected + 0.5 * result["small_kl"], rel=1e-4)
    assert result["small_accuracy"] == pytest.approx((outputs["small"].argmax(-1) == mixed.argmax(-1)).mean())
    assert np.isfinite(pair.fit(x, mixed, verbose=0).history["loss"]).all()


def test_several_small_networks_learn_at_once(tiny, images, tmp_path):
    x, y = images
    pair = compiled(adjoin(tiny(filters=8), alphas=(2, 4), round_to=1, kl_weight=1.0))
    history = pair.fit(x, y, batch_size=16, epochs=25, verbose=0).history
    assert all(history[f"{path}_accuracy"][-1] > 0.9 for path in ("full", "small_a2", "small_a4"))
    result = pair.evaluate(x, y, verbose=0, return_dict=True)
    divergences = result["small_a2_kl"] + result["small_a4_kl"]
    assert result["loss"] == pytest.approx(result["full_loss"] + divergences, rel=1e-4)
    pair.save(tmp_path / "pair.keras")
    again = keras.saving.load_model(tmp_path / "pair.keras")
    assert again.kept_full == pair.kept_full
    for alpha in (2, 4):
        expected = pair.predict(x, verbose=0)[f"small_a{alpha}"]
        np.testing.assert_allclose(again.small(alpha).predict(x, verbose=0), expected, atol=1e-4)


def two_headed(tiny):
    body = tiny(filters=8)
    pooled = body.get_layer("head_pool").output
    kind = keras.layers.Dense(3, name="kind")(pooled)
    return keras.Model(body.input, [kind, keras.layers.Dense(2, activation="softmax", name="big")(pooled)])


def test_several_outputs_that_share_a_trunk(tiny, images):
    x, y = images
    labels = {"kind": y, "big": (y > 1).astype("int32")}
    pair = adjoin(two_headed(tiny), 2, round_to=1, kl_weight=1.0)
    pair.compile("sgd", metrics={"kind": ["accuracy"], "big": "accuracy"}, loss_weights={"kind": 1.0, "big": 0.5})
    outputs = pair.predict(x, verbose=0)
    kind, big = softmax(outputs["full_kind"]), outputs["full_big"]
    expected = -np.log(kind[np.arange(64), y]).mean() - 0.5 * np.log(big[np.arange(64), labels["big"]]).mean()
    for given in (labels, [labels["kind"], labels["big"]]):
        result = pair.evaluate(x, given, batch_size=64, verbose=0, return_dict=True)
        assert result["full_loss"] == pytest.approx(expected, rel=1e-4)
        assert result["loss"] == pytest.approx(expected + result["small_kl"], rel=1e-4)
    pair.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss={name: keras.losses.SparseCategoricalCrossentropy(from_logits=name == "kind") for name in labels},
        metrics=["accuracy"],
    )
    history = pair.fit(x, labels, batch_size=16, epochs=25, verbose=0).history
    for key in ("full_kind", "full_big", "small_kind", "small_big"):
        assert history[f"{key}_accuracy"][-1] > 0.9
    for wrong in (y, {"kind": y}):
        with pytest.raises(ValueError, match=r"Expected `y`.*'kind', 'big'"):
            pair.fit(x, wrong, verbose=0)
    with pytest.raises(ValueError, match="labels between 0 and 1 .* Received: labels between 0 and 2"):
        pair.fit(x, [y, y], verbose=0)


def test_weights_of_losses_are_by_output(tiny):
    with pytest.raises(ValueError, match=r"Expected `loss_weights` by output: \['logits'\]. Received: \['a'\]"):
        adjoin(tiny(), 2, round_to=1).compile("sgd", loss_weights={"a": 1})
