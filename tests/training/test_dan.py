"""`DAN`: its loss, its budget, who moves, and that a search can be saved and gone on with. Runs on JAX too."""

import functools
import json

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, adjoin, data, search
from tfjointrd.data import ArrayPipeline
from tfjointrd.report import profile
from tfjointrd.training import Constant, ExponentialDecay
from tfjointrd.training.methods.gate_images import side_by_side


@pytest.fixture
def tiny(tiny):
    """Of two stages, which have all kinds of layers already."""
    return functools.partial(tiny, stages=2)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def compiled(dan, **kwargs):
    dan.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"], **kwargs)
    return dan


def searching(tiny, **options):
    return compiled(search(tiny(filters=8), (1, 2, 4), round_to=1, **{"seed": 0, **options}))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_loss_is_eqn_6(tiny, images):
    """In evaluation the gates have chosen, and n_f is the narrow network's count."""
    x, y = images
    dan = searching(tiny, gamma=1e-5, kl_weight=Constant(0.7))
    dan.gates.eta.assign(np.random.default_rng(0).normal(size=dan.gates.eta.shape))
    outputs = dan.predict(x, verbose=0)
    p, q = softmax(outputs["full"]), softmax(outputs["small"])
    expected = -np.log(p[np.arange(len(y)), y]).mean()
    expected += 0.7 * (np.sum(p * np.log(p / q), -1).mean() + 1e-5 * dan.architecture()["macs"])
    result = dan.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(expected, rel=1e-4)
    assert set(result) == {
        *("loss", "full_loss", "small_loss", "small_kl", "full_accuracy", "small_accuracy", "small_macs"),
        "small_penalty",
    }
    assert result["small_penalty"] == pytest.approx(0.7 * 1e-5 * dan.architecture()["macs"], rel=1e-4)


def test_training_mixes_with_the_noise_of_the_step(tiny, images):
    x, _ = images
    dan = searching(tiny, gamma=0.0, temperature=0.5, warm_up=0)
    outputs = [numpy(dan(x, training=True)["small"]) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    eta, sample = (numpy(v) for v in (dan.gates.eta, dan.gates.gumbel.sample))
    np.testing.assert_allclose(
        numpy(dan.gates.weights_of_candidates(training=True)), softmax((eta + sample) / 0.5), atol=1e-6
    )
    evaluated = [numpy(dan(x, training=False)["small"]) for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)


def test_widths_begin_to_move_after_the_warm_up(tiny, images):
    x, y = images
    dan = searching(tiny, warm_up=0.5)
    moved = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: moved.append(np.abs(numpy(dan.gates.eta)).max())
    )
    dan.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[watch])
    assert moved[1] == 0 and moved[2] > 0
    tau = 15 * np.exp(-4.5 * 15 / 16)
    assert float(numpy(dan.gates.temperature)) == pytest.approx(tau, rel=1e-4)


@pytest.mark.usefixtures("eager")
def test_who_moves_and_by_which_optimizer(tiny, images):
    x, y = images
    dan = search(tiny(filters=8), (1, 2, 4), round_to=1, gamma=1e-6, warm_up=0, kl_weight=1.0, seed=0)
    dan.compile(keras.optimizers.SGD(0.0), gate_optimizer=keras.optimizers.SGD(0.1))
    before = {v.path: numpy(v).copy() for v in dan.trainable_variables}
    dan.fit(x, y, epochs=1, verbose=0)
    moved = {v.path for v in dan.trainable_variables if np.abs(numpy(v) - before[v.path]).max() > 0}
    assert moved == {dan.gates.eta.path}
    again = type(dan).from_config(dan.get_config())
    again.compile_from_config(dan.get_compile_config())
    assert [type(o).__name__ for o in again.optimizer.pair] == ["SGD", "SGD"]
    assert float(numpy(again.optimizer.pair[1].learning_rate)) == pytest.approx(0.1)


@pytest.mark.parametrize("target", [0.6, pytest.param(0.85, marks=pytest.mark.slow)])
def test_the_budget_is_reached(tiny, images, target):
    """Expected multiply-accumulates come to the target, and the chosen network does not exceed it."""
    x, y = images
    dan = searching(tiny, target_macs=target, warm_up=0.1)
    history = dan.fit(x, y, batch_size=16, epochs=60, verbose=0).history
    assert history["small_macs"][-1] == pytest.approx(target, abs=0.03)
    architecture = dan.architecture()
    assert architecture["macs"] <= target * architecture["full_macs"]
    assert architecture["macs"] > (target - 0.15) * architecture["full_macs"]
    np.testing.assert_allclose(
        architecture["expected_macs"] / architecture["full_macs"], history["small_macs"][-1], atol=0.02
    )


def test_budgets_of_parameters_and_absolute_ones(tiny):
    dan = searching(tiny, target_parameters=0.5)
    dan.gates.eta.assign(np.tile([5.0, 0, 0], (len(dan.groups), 1)))
    architecture = dan.architecture()
    assert 0.3 < architecture["parameters"] / architecture["full_parameters"] <= 0.5
    whole = searching(tiny, target_macs=architecture["macs"])
    assert whole.target == pytest.approx(architecture["macs"] / architecture["full_macs"])
    assert "small_parameters" in [metric.name for metric in dan.metrics]


def test_saved_and_trained_on(tiny, images, tmp_path):
    """Noise, temperature, budget and both optimizers go on as if nothing had happened."""
    x, y = images
    dan = searching(tiny, warm_up=0)
    dan.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False)
    dan.save(tmp_path / "dan.keras")
    again = keras.models.load_model(tmp_path / "dan.keras")
    for one in (dan, again):
        one.fit(x, y, batch_size=16, epochs=4, initial_epoch=2, verbose=0, shuffle=False)
    np.testing.assert_array_equal(numpy(dan.gates.gumbel.sample), numpy(again.gates.gumbel.sample))
    for ours, theirs in zip(dan.weights, again.weights, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), rtol=1e-2, atol=1e-3, err_msg=ours.path)
    assert np.abs(numpy(dan.gates.eta)).max() > 0 and again.architecture() == dan.architecture()


def test_what_comes_out(tiny, images):
    x, y = images
    dan = searching(tiny)
    dan.fit(x, y, batch_size=16, epochs=10, verbose=0)
    architecture = dan.architecture()
    assert json.loads(json.dumps(architecture)) == architecture
    assert set(architecture["alphas"]) == {group.name for group in dan.groups}
    derived = dan.derive()
    assert derived.name == "adjoined_tiny" and dan.derive(name="mine").name == "mine"
    assert derived.small().count_params() == dan.small().count_params() == architecture["parameters"]
    fresh, kept = derived.full().get_weights()[0], dan.full().get_weights()[0]
    assert np.abs(fresh - kept).max() > 1e-3
    inherited = dan.derive(inherit_weights=True)
    np.testing.assert_allclose(numpy(inherited.small()(x)), numpy(dan.small()(x)), atol=1e-5)
    np.testing.assert_allclose(numpy(inherited.full()(x)), numpy(dan.full()(x)), atol=1e-5)
    compiled(inherited).fit(x, y, epochs=1, verbose=0)
    other = adjoin(tiny(filters=8), widths=architecture["widths"])
    assert other.small().count_params() == architecture["parameters"]


def test_bad_arguments(tiny):
    for options in ({"target_macs": 0.01}, {"target_macs": 10}, {"target_macs": 1e12}, {"target_parameters": 0.01}):
        ((argument, value),) = options.items()
        with pytest.raises(
            ValueError, match=rf"Expected `{argument}` within .*from 0\.\d+ \(.*\) to 1\.0000 .*={value}"
        ):
            searching(tiny, **options)
    for budget in ("target_macs", "target_parameters"):
        with pytest.raises(
            ValueError, match=r"`alphas` reach lower. So does `search\(..., keep=\(\)\)`, which lets stem"
        ):
            searching(tiny, **{budget: 0.01})
        with pytest.raises(ValueError, match="`alphas` reach lower.$"):
            searching(tiny, keep=(), **{budget: 0.01})
    with pytest.raises(ValueError, match="No candidates are wider.$"):
        searching(tiny, target_macs=1e12)
    with pytest.raises(ValueError, match="Expected one of gamma, target_macs, target_parameters, target_latency_ms"):
        searching(tiny, gamma=1e-9, target_macs=0.7)
    with pytest.raises(ValueError, match="Expected `gamma` from 0 on. Received: gamma=-1"):
        searching(tiny, gamma=-1)
    for temperature in (
        0.0,
        -1,
    ):
        with pytest.raises(ValueError, match="Expected a `temperature` above 0"):
            searching(tiny, temperature=temperature)
    with pytest.raises(ValueError, match="Expected `initial` above 0. Received: initial=0"):
        ExponentialDecay(0)
    with pytest.raises(
        ValueError, match=r"Expected `warm_up`, a part of the training, in \[0, 1\). Received: warm_up=1"
    ):
        searching(tiny, warm_up=1)
    with pytest.raises(ValueError, match="Expected `noise` to be one of"):
        searching(tiny, noise="cauchy")
    optimizer = keras.optimizers.SGD()
    with pytest.raises(ValueError, match="Expected `gate_optimizer` to be another than `optimizer`"):
        searching(tiny).compile(optimizer, gate_optimizer=optimizer)


# === Gates that learn from images of their own ===


def moved(dan, before):
    return {v.path for v in dan.trainable_variables if np.abs(numpy(v) - before[v.path]).max() > 0}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["arrays", "data sets"])
def test_gates_learn_from_held_out_images(tiny, images, kind):
    """Weights that may not move: the gates go where the held-out images pull them, whatever the others are."""
    x, y = images
    etas = []
    for others in (x, np.zeros_like(x)):
        keras.utils.set_random_seed(3)
        dan = search(tiny(filters=8), (1, 2, 4), round_to=1, gamma=0.0, warm_up=0, kl_weight=1.0, noise="none")
        dan.compile(keras.optimizers.SGD(0.0), gate_optimizer=keras.optimizers.SGD(1.0))
        before = {v.path: numpy(v).copy() for v in dan.trainable_variables}
        if kind == "arrays":
            dan.fit(others, y, batch_size=64, epochs=1, held_out=(x, y), shuffle=False, verbose=0)
        else:
            sets = [ArrayPipeline(part, y, data.info("digits"), 64, training=False) for part in (others, x)]
            dan.fit(sets[0], epochs=1, held_out=sets[1], verbose=0)
        assert moved(dan, before) == {dan.gates.eta.path}
        etas.append(numpy(dan.gates.eta))
    np.testing.assert_allclose(*etas, atol=1e-5)
    assert np.abs(etas[0]).max() > 1e-5


@pytest.mark.usefixtures("eager")
def test_weights_do_not_learn_from_held_out_images(tiny, images):
    x, y = images
    weights = []
    for held in (x, x[::-1] * 2):
        keras.utils.set_random_seed(1)
        dan = search(tiny(filters=8), (1, 2), round_to=1, gamma=0.0, warm_up=0, kl_weight=1.0, seed=0)
        dan.compile(keras.optimizers.SGD(0.1), gate_optimizer=keras.optimizers.SGD(0.0), metrics=["accuracy"])
        history = dan.fit(x, y, batch_size=32, epochs=2, held_out=(held, y), shuffle=False, verbose=0).history
        assert len(history["full_accuracy"]) == 2
        weights.append([numpy(v) for v in dan.network.weights])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def ordered(images, batch_size, seed=0, training=True):
    return ArrayPipeline(*images, data.info("digits"), batch_size, training=training, seed=seed)


@pytest.mark.parametrize("kind", ["arrays", "data sets"])
def test_held_out_images_come_in_an_order_of_their_own(images, kind):
    """That of the epoch, whatever Keras draws; a shorter set is gone through again."""
    (x, y), few = images, tuple(part[:20] for part in images)
    epochs = []
    for epoch in (0, 1):
        if kind == "arrays":
            both = side_by_side(x, y, few, 16, epoch=epoch)
        else:
            both = side_by_side(ordered(images, 16), None, ordered(few, 16), None)
            both.data.set_epoch(epoch), both.held_out.set_epoch(epoch)
        both.on_epoch_begin()
        epochs.append([both[index] for index in np.random.permutation(len(both))])
        both.on_epoch_end()
        both.on_epoch_begin()
        epochs.append([both[index] for index in np.random.permutation(len(both))])
    for ours, theirs in zip(epochs[1], epochs[2], strict=True):  # epoch 1, gone on to and begun with
        for one, other in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
            np.testing.assert_array_equal(one, other)
    labels = [np.concatenate([batch[1][0] for batch in epoch]) for epoch in epochs]
    assert sorted(labels[0]) == sorted(labels[1]) == sorted(y) and (labels[0] != labels[1]).any()
    np.testing.assert_array_equal(epochs[0][0][1][1], epochs[0][2][1][1])  # two batches, again and again
    if kind == "arrays":
        assert sorted(np.concatenate([batch[1][1] for batch in epochs[0][:2]])) == sorted(few[1])


def test_held_out_images_beside_a_data_set_of_ones_own(images):
    class Own(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return images[0][:16], images[1][:16]

    both, epochs = side_by_side(Own(), None, ordered(images, 16), None), []
    both.on_epoch_end()  # as Keras does
    for _ in range(2):
        both.on_epoch_begin()
        epochs.append(np.concatenate([both[index][0][1] for index in range(2)]))
        both.on_epoch_end()
    assert (epochs[0] != epochs[1]).any()


def test_a_search_with_held_out_images_goes_on(tiny, images):
    """Two epochs in one go or in two end with the same weights."""
    x, y = images
    weights = []
    for stops in ([2], [1, 2]):
        keras.utils.set_random_seed(7)
        options = {"gamma": 0.0, "warm_up": 0, "kl_weight": 1.0, "noise": "none", "temperature": 1.0}
        dan, begun = search(tiny(filters=8), (1, 2), round_to=1, **options), 0
        dan.compile(keras.optimizers.SGD(0.1), gate_optimizer=keras.optimizers.SGD(0.1))
        for stop in stops:
            dan.fit(x, y, batch_size=32, initial_epoch=begun, epochs=stop, held_out=(x[:40], y[:40]), verbose=0)
            begun = stop
            keras.utils.set_random_seed(stop)  # what Keras shuffles by
        weights.append([numpy(v) for v in dan.trainable_variables])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_held_out_images_of_another_kind(tiny, images):
    x, y = images
    dan = searching(tiny)
    with pytest.raises(ValueError, match="Expected `held_out` to be .*Received: ndarray beside ndarray"):
        dan.fit(x, y, held_out=x, verbose=0)
    with pytest.raises(ValueError, match="and `steps_per_epoch`. Received: 1 output.*'steps_per_epoch': 2"):
        dan.fit(x, y, held_out=(x, y), steps_per_epoch=2, verbose=0)
    with pytest.raises(ValueError, match="Received: labels between 0 and 12"):
        dan.fit(x, y, held_out=(x, y * 6), verbose=0)


# === What it finds ===


def test_a_search_finds_the_widths_that_are_needed():
    """Of 16 channels each, the next layer uses the first 4, all, and the first 8; only the gates learn."""
    keras.utils.set_random_seed(0)
    layers, needed = keras.layers, {"first": 4, "second": 16, "third": 8}
    inputs = z = keras.Input((12, 12, 3))
    for name in needed:
        z = layers.ReLU()(layers.Conv2D(16, 3, padding="same", name=name)(z))
    planted = keras.Model(inputs, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(z)))
    for name, reader in zip(needed, ("second", "third", "logits"), strict=True):
        kernel, bias = planted.get_layer(reader).get_weights()
        kernel[..., needed[name] :, :] = 0
        planted.get_layer(reader).set_weights([kernel * (10 if reader == "logits" else 1.6), bias])
    x = np.random.default_rng(0).normal(size=(512, 12, 12, 3)).astype("float32")
    y = planted.predict(x, verbose=0).argmax(axis=1)
    options = {"gamma": 0.3 / profile(planted).macs, "kl_weight": 1.0, "warm_up": 0, "seed": 0}
    dan = search(planted, (1, 2, 4), (), round_to=1, **options)
    dan.compile(keras.optimizers.SGD(0.0), gate_optimizer=keras.optimizers.Adam(0.05))
    dan.fit(x, y, batch_size=64, epochs=30, verbose=0)
    assert dan.architecture()["widths"] == needed
    np.testing.assert_allclose(dan.predict(x, verbose=0)["small"], planted.predict(x, verbose=0), atol=1e-5)


# === What users do with it ===


def test_evaluation_is_of_the_network_that_comes_out(tiny, images):
    """Under a budget too, which the gates' own choice may exceed."""
    x, y = images
    dan = searching(tiny, target_macs=0.6)
    dan.gates.eta.assign(np.tile([0.1, 0.05, 0.0], (len(dan.groups), 1)))
    small = dan.small()
    assert any(dan.choices()) and not numpy(dan.gates.likeliest()).argmax(-1).any()
    np.testing.assert_allclose(dan.predict(x, verbose=0)["small"], numpy(small(x)), atol=1e-5)
    history = dan.fit(x, y, batch_size=16, epochs=3, validation_data=(x, y), verbose=0).history
    accuracy = (numpy(dan.small()(x)).argmax(-1) == y).mean()
    assert history["val_small_accuracy"][-1] == pytest.approx(accuracy, abs=1e-6)
    assert dan.evaluate(x, y, verbose=0, return_dict=True)["small_accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision(tiny, images, policy):
    x, y = images
    keras.config.set_dtype_policy(policy)
    dan = searching(tiny, warm_up=0)
    dan.total_steps.assign(1e6)
    assert float(numpy(dan.total_steps)) == 1e6
    history = dan.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.abs(numpy(dan.gates.eta)).max() > 0


def test_single_batches(tiny, images):
    """The length is asked for even where no schedule changes: the budget's penalty is steered over all of it."""
    x, y = images
    dan = searching(tiny, kl_weight=1.0, temperature=1.0, warm_up=0)
    with pytest.raises(ValueError, match="over which `target` changes"):
        dan.train_on_batch(x, y)
    before = dan.predict_on_batch(x)["small"]
    dan.gates.eta.assign(np.tile([0.0, 0.0, 9.0], (len(dan.groups), 1)))
    after = dan.predict_on_batch(x)["small"]
    np.testing.assert_allclose(after, dan.small().predict(x, verbose=0), atol=1e-5)
    assert np.abs(after - before).max() > 1e-4
    dan.gates.eta.assign(np.full(dan.gates.eta.shape, np.nan))
    dan.predict_on_batch(x)  # as it was
    with pytest.raises(ValueError, match="gates have probabilities. Received: NaN, as after a training that diverged"):
        dan.architecture()


@pytest.mark.usefixtures("eager")
def test_callbacks_leave_the_gates_learning_rate(tiny, images):
    x, y = images
    dan = searching(tiny)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.02)
    dan.fit(x, y, epochs=1, verbose=0, callbacks=[schedule])
    rates = [float(numpy(optimizer.learning_rate)) for optimizer in dan.optimizer.pair]
    assert rates == pytest.approx([0.02, 0.01])


def test_several_outputs():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(keras.layers.Conv2D(8, 3, name="a")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, name="b")(x))
    network = keras.Model(inputs, [keras.layers.Dense(3, name="one")(x), keras.layers.Dense(4, name="two")(x)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 3)), [rng.integers(0, 3, 32), rng.integers(0, 4, 32)]
    dan = compiled(search(network, (1, 2), (), round_to=1))
    dan.fit(x, y, epochs=2, verbose=0)
    outputs = dan.predict(x, verbose=0)
    for key, value in zip(("small_one", "small_two"), dan.small().predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(outputs[key], value, atol=1e-5)
    with pytest.raises(ValueError, match="Expected `held_out` for a network with one output.*Received: 2 output"):
        dan.fit(x, y, held_out=(x, y), verbose=0)


def test_derived_networks_keep_what_was_adapted(images):
    x, y = images
    inputs = keras.Input((8, 8, 1))
    normalization = keras.layers.Normalization(axis=None)
    normalization.adapt(10 + 5 * x)
    z = keras.layers.Conv2D(8, 3, name="a")(normalization(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(z)))
    dan = search(network, (1, 2), (), gamma=0.0, round_to=1)
    with pytest.raises(ValueError, match="Expected a search that makes a layer narrower. Received: alpha 1 for all"):
        dan.derive()
    dan.gates.eta.assign([[0.0, 1.0]])
    kept = [layer for layer in dan.derive().full().layers if isinstance(layer, keras.layers.Normalization)]
    assert float(numpy(kept[0].mean).ravel()[0]) == pytest.approx(10, abs=2)


def test_other_methods_take_no_search(tiny):
    dan = search(tiny(filters=8), (1, 2))
    for method in (Distillation, JointRD):
        with pytest.raises(ValueError, match="Expected `student` to be .*take its `derive"):
            method(dan, tiny(filters=8))


def test_weights_of_images_beside_held_out_ones(tiny, images):
    x, y = images
    dan, weights = searching(tiny), np.ones(len(x))
    with pytest.raises(ValueError, match="without `sample_weight`"):
        dan.fit(x, y, sample_weight=weights, held_out=(x, y), verbose=0)


def test_a_call_computes_what_is_chosen_after_steps_by_hand(tiny, images):
    dan = searching(tiny, target_macs=0.6, warm_up=0)
    dan.total_steps.assign(4)
    rows = np.random.default_rng(3).normal(0, 3, dan.gates.eta.shape)
    for sign in (1, -1):
        dan.gates.eta.assign(sign * rows)
        dan.train_on_batch(*images)
        np.testing.assert_allclose(dan(images[0])["small"], dan.small().predict(images[0], verbose=0), atol=1e-4)


def test_a_second_training_steers_anew(tiny, images):
    """Its penalty is what the loss holds besides cross-entropy and KL, and may be negative."""
    dan = searching(tiny, target_macs=0.9, warm_up=0, kl_weight=1.0)
    seen = []
    look = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(float(dan.multiplier)))
    for _ in range(2):
        history = dan.fit(*images, batch_size=64, epochs=2, callbacks=[look], verbose=0).history
        for loss, full, kl, penalty in zip(
            *(history[key] for key in ("loss", "full_loss", "small_kl", "small_penalty")), strict=True
        ):
            assert loss == pytest.approx(full + kl + penalty, rel=1e-3) and penalty < 0
    assert seen[0] == seen[2] == 0 and seen[1] < 0
