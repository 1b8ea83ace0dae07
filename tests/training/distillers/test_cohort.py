"""DML and KDCL against numpy, and the cohorts that they train. Runs on JAX too."""

import keras
import numpy as np
import pytest
from reference import log_softmax, maps, numpy, same_as
from test_every_method import micro

from tfjointrd import Cohort, Distillation, distillers

LABELS = np.array([0, 2, 1, 1])


def kl(teacher, student, temperature):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


def test_value_and_gradient_of_dml():
    """The mean over the others, which get no gradient."""
    method = distillers.DML(temperature=2.0)

    def reference(own, *others):
        return sum(kl(other, own, 2.0) for other in others) / 2

    same_as(lambda *logits: method(list(logits), labels=LABELS)[0], reference, *(2 * maps(3, 4, 3)))


def test_value_and_gradient_of_kdcl():
    """The target is the smallest logit, less that of the right class, and gets no gradient."""
    method = distillers.KDCL(temperature=3.0)
    arrays = 2 * maps(2, 4, 3)
    relative = [z - z[np.arange(4), LABELS][:, None] for z in arrays]
    target = np.minimum(*relative)
    for i in (0, 1):
        own, other = arrays[i], arrays[1 - i]
        same_as(lambda a, b: method([a, b], labels=LABELS)[0], lambda a, b: kl(target, a, 3.0), own, other)


@pytest.mark.parametrize("name", distillers.PEER_METHODS)
def test_equal_networks_teach_each_other_nothing(name):
    logits = maps(4, 3).astype("float32")
    for values in distillers.PEER_METHODS[name]()([logits, logits + 1], labels=LABELS):
        np.testing.assert_allclose(numpy(values), 0, atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_a_cohort_is_trained_and_saved(images, tmp_path):
    x, y = images[0][:32], images[1][:32]
    keras.utils.set_random_seed(3)
    networks = [micro(), micro(4, softmax=True), micro(2)]
    cohort = Cohort(networks, "kdcl")
    cohort.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"])
    before = [[w.copy() for w in network.get_weights()] for network in networks]
    weights = np.linspace(0, 2, 32).astype("float32")
    history = cohort.fit(x, y, sample_weight=weights, validation_data=(x, y), batch_size=32, verbose=0).history
    assert {"network1_accuracy", "val_network3_accuracy"} <= set(history) and np.isfinite(history["loss"]).all()
    for network, old in zip(networks, before, strict=True):
        assert all(np.abs(a - b).max() > 0 for a, b in zip(network.get_weights(), old, strict=True))
    losses = []
    for network in networks:
        p = numpy(network(x, training=False))
        p = p if network is networks[1] else np.exp(log_softmax(p))
        losses.append(-np.log(p[np.arange(32), y]).mean())
    assert history["val_loss"][0] == pytest.approx(sum(losses), rel=1e-3)
    cohort.save(tmp_path / "cohort.keras")
    again = keras.saving.load_model(tmp_path / "cohort.keras")
    assert isinstance(again.method, distillers.KDCL) and int(numpy(again.step.value)) == 1
    for model in (cohort, again):
        model.fit(x, y, batch_size=32, epochs=2, initial_epoch=1, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), cohort.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", distillers.PEER_METHODS)
def test_a_cohort_in_a_graph(images, name):
    cohort = Cohort([micro(), micro(4, softmax=True)], name)
    cohort.compile(keras.optimizers.SGD(0.05))
    history = cohort.fit(images[0][:24], images[1][:24], batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all() and int(numpy(cohort.step.value)) == 2


def test_cohorts_that_cannot_be():
    first = micro()
    for networks, method, message in (
        ([first], "dml", "two or more `networks`, .* Received: 1"),
        (first, "dml", "two or more `networks`, .* Received: 1"),
        (
            [first, first],
            "dml",
            r"`networks\[0\]` and `networks\[1\]` to have .* networks that share stage1_conv/kernel",
        ),
        ([first, micro()], "kd", "`method` to be one of dml, kdcl. Received: 'kd'"),
        ([first, micro()], distillers.KD(), "`method` to be for cohorts: dml, kdcl"),
        ([first, _other(4)], "dml", "the same classes, .* 'micro' with 3 and 'other' with 4"),
    ):
        with pytest.raises(ValueError, match=message):
            Cohort(networks, method)
    mixed = Cohort([micro(), micro(softmax=True)], "dml")
    with pytest.raises(ValueError, match="one `loss` to fit all. .* end in logits, softmax. Leave `loss` out"):
        mixed.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="'dml', which trains a cohort: `tfjointrd.Cohort"):
        Distillation(first, micro(), "dml")


def _other(classes):
    network = micro()
    outputs = keras.layers.Dense(classes)(network.get_layer("pool").output)
    return keras.Model(network.input, outputs, name="other")


@pytest.mark.parametrize("name", ["dml", "kdcl"])
def test_outputs_that_turn_out_to_be_no_classes(name, images):
    """Losses, and labels under a loss of one's own, tell it after the cohort is made."""
    for loss in (keras.losses.BinaryCrossentropy(from_logits=True), "mse"):
        with pytest.raises(ValueError, match="labels of classes, .* Received: 'micro' with an output of 3 for kind"):
            Cohort([micro(), micro()], name).compile("sgd", loss)
    cohort = Cohort([micro(), micro()], name)
    with pytest.raises(ValueError, match="must call `compile"):
        cohort.fit(*images, verbose=0)
    cohort.compile("sgd", lambda y, outputs: keras.ops.mean(keras.ops.square(y - outputs), axis=-1))
    x, y = images
    with pytest.raises(ValueError, match="for kind 'numbers'"):
        cohort.fit(x, np.random.default_rng(0).normal(size=(len(y), 3)).astype("float32"), verbose=0)
