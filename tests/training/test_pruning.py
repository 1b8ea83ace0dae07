"""Networks that are pruned while they train."""

import functools

import keras
import numpy as np
import pytest

from tfjointrd import Pruning, prune, report
from tfjointrd.surgery import importance

L = keras.layers


@pytest.fixture
def tiny(tiny):
    """Of two stages, which have all kinds of layers already."""
    return functools.partial(tiny, stages=2)


@pytest.fixture
def pruning(tiny):
    def make(network=None, *args, **options):
        options = {"target_macs": 0.5, "round_to": 1, **options}
        model = Pruning(network or tiny(filters=8), *args, **options)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
        return model

    return make


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def share(small, full):
    return report.profile(small).macs / report.profile(full).macs


def test_the_cost_falls_to_the_budget_and_the_result_computes_the_same(pruning, tiny, images):
    x, y = images
    network = tiny(filters=8)
    before = network.get_weights()
    model = pruning(network)
    history = model.fit(x, y, batch_size=32, epochs=4, validation_data=(x, y), verbose=0).history
    left = history["left_macs"]
    # C - (C - B) (1 - (1 - u)^3) at u = 0 and 1/2, then the budget; widths are whole numbers.
    assert left[0] == 1.0 and 0.5 < left[1] <= 1 - 0.5 * 0.875 + 0.01
    assert 0.45 < left[2] <= 0.5 and left[2] == left[3]
    small = model.derive()
    assert share(small, network) == pytest.approx(left[-1])
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    architecture = model.architecture()
    assert architecture["macs"] == report.profile(small).macs
    assert {name: small.get_layer(name).filters for name in architecture["widths"]} == architecture["widths"]
    for ours, theirs in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_training_in_between_it_is_what_prune_keeps(pruning, tiny):
    network = tiny(filters=8)
    for options in ({"target_macs": 0.5}, {"target_macs": None, "target_parameters": 0.4}):
        model = pruning(network, "l1", **options)
        model.drop()
        expected = prune(network, "l1", round_to=1, **options)
        for ours, theirs in zip(model.derive().get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    model = pruning(network, "l1", target_macs=None, ratio=0.4, scope="layer")
    model.drop()
    expected = prune(network, "l1", round_to=1, ratio=0.4, scope="layer")
    assert [w.shape for w in model.derive().get_weights()] == [w.shape for w in expected.get_weights()]


def test_what_was_dropped_stays_so(pruning, images):
    x, y = images
    model = pruning(importance="random")
    kept = []
    for amount in (0.3, 0.6, 1.0):
        model.drop(amount)
        kept.append(model.architecture()["kept"])
        model.fit(x, y, batch_size=32, epochs=2, initial_epoch=1, verbose=0)  # whose drop is the whole one
        model.pruned_in.assign(5)
    small = model.derive()
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    for earlier, later in zip(kept, kept[1:], strict=False):
        for layer, positions in earlier.items():
            assert set(later[layer]) <= set(positions)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["group", "gamma"])
def test_regularizers(pruning, tiny, images, kind):
    x, y = images
    network = tiny(filters=4)
    strong, none = pruning(network, regularizer=kind, strength=0.02), pruning(network)
    scales = [numpy(v.value) for v in strong.network.trainable_variables if v.name == "gamma"]
    if kind == "gamma":
        expected = sum(np.abs(scale).sum() for scale in scales)
    else:
        expected = 0.0
        for tied in strong._plan.sets:
            own = strong._plan.sets.slices().get(tied.name, [])
            moving = [one for one in own if "moving" not in one.weight]
            if moving:
                expected += np.sqrt(sum((one.values**2).sum(axis=1) for one in moving)).sum()
    assert float(strong.penalty()) == pytest.approx(expected, rel=1e-4)
    for model in (strong, none):
        model.total_steps.assign(8.0)
    outputs = strong(x, training=True)
    losses = [float(model.compute_loss(x, y, outputs)) for model in (strong, none)]
    assert losses[0] - losses[1] == pytest.approx(0.02 * expected, rel=1e-3)
    strong.step.assign(4)  # the budget is reached
    assert float(strong.compute_loss(x, y, outputs)) == pytest.approx(losses[1], rel=1e-4)


def test_saved_and_trained_on(pruning, images, tmp_path):
    """From the middle of the training on, a file goes on as if nothing had happened."""
    x, y = images
    keras.utils.set_random_seed(1)
    whole = pruning(importance=importance.L2(reduction="max"), regularizer="group")
    again = pruning(importance=importance.L2(reduction="max"), regularizer="group")
    again.set_weights(whole.get_weights())
    options = {"batch_size": 32, "shuffle": False, "verbose": 0}
    whole.fit(x, y, epochs=4, **options)
    again.fit(x, y, epochs=4, callbacks=[Stop()], **options)
    assert 0.5 < again.left()[1] < 1
    again.save(tmp_path / "pruning.keras")
    written = {id(variable) for variable in again.weights}
    assert len(written) == len(again.weights) == len(again.network.weights) + 5  # steps twice, units, epochs twice
    assert not again._trainable_variables  # each weight is in the file once
    loaded = keras.saving.load_model(tmp_path / "pruning.keras")
    assert loaded.left() == again.left() and isinstance(loaded.importance, importance.L2)
    assert loaded.importance.reduction == "max"
    loaded.fit(x, y, epochs=4, initial_epoch=2, **options)
    for ours, theirs in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for variable in whole._masked.variables.values():  # a constraint that is not the same twice
        variable.constraint.before = lambda w: 0.5 * w
    before = whole.get_weights()
    whole.drop()
    whole.keep_zeros()
    for ours, theirs in zip(whole.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_a_training_that_ended_early_and_another_one(pruning, images):
    """What the first one left undone is dropped by the next, however many epochs that has."""
    x, y = images[0][:32], images[1][:32]
    options = {"batch_size": 32, "verbose": 0}
    for later in ({"epochs": 4}, {"epochs": 3, "initial_epoch": 2}):
        model = pruning()
        with pytest.warns(UserWarning, match=r"before the budget was reached: \d\d % of the macs are left"):
            model.fit(x, y, epochs=8, callbacks=[Stop()], **options)
        assert model.left()[1] > 0.55
        history = model.fit(x, y, **later, **options).history
        assert 0.45 < history["left_macs"][-1] <= 0.5


def test_averages_of_weights_bring_no_channel_back(pruning, images):
    x, y = images
    model = pruning()
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.999)
    model.compile(optimizer, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=4, verbose=0)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(model.derive().predict(x, verbose=0), expected, atol=1e-5)


def test_callbacks_that_go_back(pruning, images, tmp_path):
    model = pruning()
    stop = keras.callbacks.EarlyStopping(restore_best_weights=True)
    save = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    with pytest.warns(UserWarning, match="restore_best_weights=True.* takes the weights of the best epoch"):
        model.fit(*images, epochs=4, validation_split=0.5, callbacks=[stop], verbose=0)
    with pytest.warns(UserWarning, match="save_best_only=True.* saves the weights of the best epoch"):
        model.check_callbacks([save])


def test_outputs_by_name(images):
    """Their order is the network's, and not that of the alphabet."""
    x, y = images[0][:8], images[1][:8]
    image = keras.Input((8, 8, 1))
    features = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu")(image))
    network = keras.Model(image, {"size": L.Dense(1, name="s")(features), "kind": L.Dense(3, name="k")(features)})
    labels = {"size": (y > 0).astype("float32")[:, None], "kind": y}
    losses = {"size": "mse", "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model = Pruning(network, target_macs=0.5, round_to=1)
    network.compile("sgd", losses, loss_weights={"size": 2.0, "kind": 1.0})
    model.compile("sgd", losses, loss_weights={"size": 2.0, "kind": 1.0})
    expected = network.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
    assert model.evaluate(x, labels, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
    scores = [
        importance.channel_importance(network, "taylor", data=[(x, one)])
        for one in (labels, [labels["size"], labels["kind"]])
    ]
    for name, score in scores[0].items():
        np.testing.assert_allclose(score, scores[1][name])


def test_criteria_on_data(pruning, images, tmp_path):
    """A file holds the criterion, an object too, and gets the data anew."""
    x, y = images
    pruning(importance=importance.Taylor(), data=(x, y)).save(tmp_path / "pruning.keras")
    model = keras.saving.load_model(tmp_path / "pruning.keras")
    model.compile("sgd")
    with pytest.raises(ValueError, match="`data` for importance"):
        model.fit(x, y, epochs=2, verbose=0)
    model.data = x, y
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    assert model.left()[1] <= 0.5


def test_constraints_and_frozen_layers_stay(pruning, images):
    x, y = images
    inputs = keras.Input((8, 8, 1))
    z = L.Conv2D(8, 3, padding="same", kernel_constraint=keras.constraints.NonNeg(), name="first")(inputs)
    z = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, name="second")(L.ReLU()(z)))
    own = keras.Model(inputs, L.Dense(3, name="head")(z))
    own.get_layer("second").trainable = False
    model = pruning(own)
    frozen = numpy(model.network.get_layer("second").kernel)
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    kernel = numpy(model.network.get_layer("first").kernel)
    assert (kernel >= 0).all() and (kernel.sum(axis=(0, 1, 2)) == 0).sum() == 8 - model.architecture()["widths"][
        "first"
    ]
    kept, now = model.architecture()["kept"], numpy(model.network.get_layer("second").kernel)
    kept = {name: kept.get(name, range(8)) for name in ("first", "second")}
    left = np.ix_(range(3), range(3), kept["first"], kept["second"])
    np.testing.assert_array_equal(frozen[left], now[left])
    assert np.count_nonzero(now) == np.count_nonzero(frozen[left])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularizer": "l1"}, "`regularizer` to be one of"),
        ({"strength": -1.0}, "`strength`, a number from 0. Received: strength=-1.0"),
        ({"strength": "high"}, "strength='high'"),
        ({"begin": 0.5, "end": 0.5}, "`begin` and `end`"),
        ({"begin": "late"}, "begin='late', end=0.5"),
        ({"keep": 3}, r"`keep` to hold names or patterns of layers. Received: keep=\[3\]"),
        ({"target_macs": 0.001}, r"`target_macs` within what pruning reaches, from .*=0.001. A lower `round_to`"),
        ({"target_macs": None}, "one of `target_macs`"),
        ({"importance": "taylor2"}, "`importance` to be one of"),
        ({"ratio": 0.5}, "one of `target_macs`"),
    ],
)
def test_bad_arguments(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        Pruning(tiny(), **{"target_macs": 0.5, "round_to": 1, **options})


def test_too_few_epochs_and_no_data(pruning, images):
    x, y = images
    with pytest.raises(ValueError, match="more `epochs`.*Received: epochs=1"):
        pruning().fit(x, y, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="`data` for importance 'taylor'"):
        pruning(importance="taylor").fit(x, y, epochs=4, verbose=0)


@pytest.mark.parametrize(
    ("importance", "data", "message"),
    [
        ("taylor", lambda x, y: x, "`data` with labels.*for 'taylor'. Received: images alone"),
        ("taylor", lambda x, y: (x, y + 5), "labels between 0 and 2"),
        ("taylor", lambda x, y: iter([(x, y)]), "`data` that can be gone through again.*Received: a list_iterator"),
        ("hrank", lambda x, y: x[:, :4], r"`data` of shape \(count, 8, 8, 1\)"),
        ("hrank", lambda x, y: x * np.nan, "`data` for which 'tiny' computes finite numbers"),
        ("hrank", lambda x, y: x[:0], "`data` to hold images"),
        ({"other": [1.0]}, lambda x, y: None, "`importance` to hold sets of"),
        (lambda slices: np.ones(2), lambda x, y: None, "a score for each of the 8 channels"),
        (lambda slices: np.full(len(slices[0].values), np.nan), lambda x, y: None, "numbers from 0 on.*from <lambda>"),
    ],
)
def test_importance_is_looked_at_before_the_training(pruning, images, importance, data, message):
    """Not at the first drop, which may be hours later."""
    model = pruning(importance=importance, data=data(*images), begin=0.5, end=0.75)
    with pytest.raises(ValueError, match=message):
        model.fit(*images, epochs=8, verbose=0)
    assert int(model.step) == 0


def test_scores_that_are_given_are_those_of_the_full_network(pruning, tiny):
    network = tiny(filters=8)
    scores = importance.channel_importance(network, "random")
    model = pruning(network, scores)
    for amount in (0.3, 0.6, 1.0):
        model.drop(amount)
    expected = prune(network, scores, target_macs=0.5, round_to=1)
    for ours, theirs in zip(model.derive().get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "metrics",
    [[["mae"], ["mae"]], ["mae", "mae"], ["mae", None], [["mae"], None], {"weight": "mae", "age": ["mae"]}, ["mae"]],
    ids=str,
)
def test_metrics_belong_to_their_outputs(metrics, eager):
    """The outputs' order is not that of the alphabet, by which Keras flattens labels."""
    inputs = keras.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu")(L.Conv2D(8, 3)(inputs)))
    network = keras.Model(inputs, [L.Dense(1, name=name)(x) for name in ("weight", "age")])
    x, y = np.zeros((8, 8, 8, 1)), {"weight": np.full(8, 100.0), "age": np.ones(8)}
    model = Pruning(network, target_macs=0.5, round_to=1)
    model.compile("sgd", "mse", metrics=metrics)
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["weight_mae"] == pytest.approx(100, abs=1e-3)
    assert found.get("age_mae", 1) == pytest.approx(1, abs=1e-3)
    assert ("age_mae" in found) == (None not in metrics)
    y = {name: np.ones(8) for name in y}
    weighted = model.evaluate(x, y, sample_weight=np.eye(8)[0], verbose=0, return_dict=True)
    assert weighted["loss"] == pytest.approx(2 / 8, rel=1e-4)
