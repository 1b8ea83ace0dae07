"""Both papers at once: an adjoined plain student, taught through a ResNet. Runs on JAX too."""

import keras
import numpy as np
import pytest
from test_distillation import compiled, copy_of, cross_entropy, divergence, log_softmax, losses, numpy, outputs_of, pair
from test_features import distance_by_cases

from tfjointrd import JointRD, adjoin, remove_shortcuts
from tfjointrd.experiments import Recipe, run
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.shortcuts import shortcuts
from tfjointrd.training import Constant
from tfjointrd.training.distillers import KD, Overhaul
from tfjointrd.training.distillers.overhaul import margins

TAPS = ("stage1_relu", "stage2_relu")


def both(tiny, kl_weight=0.5, **options):
    """The model, and the networks that it was made of."""
    plain, teacher = pair(tiny)
    return JointRD(adjoin(plain, 2, round_to=1, kl_weight=kl_weight), teacher, **options), plain, teacher


def adjoined_kl(full, small):
    """Eqn 3 of Adjoined Networks."""
    p, q = np.exp(log_softmax(full)), np.exp(log_softmax(small))
    return (p * np.log((p + 1e-6) / (q + 1e-6))).sum(-1).mean()


@pytest.mark.parametrize("weight, alpha", [(0, 0), (0.01, 0.3)])
def test_loss(tiny, images, weight, alpha):
    """CE(full) + lambda KL(full, small) + m sum CE(tail of the full network's features); features, targets likewise."""
    x, y = images
    options = {"methods": [KD(weight=alpha), Overhaul(weight)], "path_scale": "mean"} if weight else {}
    joint, plain, teacher = both(tiny, tail_weight=0.7, **options)
    # The full network is the plain one; the small one is run as a network of its own, on statistics of the batch.
    *taps, full, feature = outputs_of(plain, [*TAPS, "logits", "stage3_bn2"], x, True)
    small = outputs_of(joint.student.small(), ["logits"], x, True)[0]
    target, targets = outputs_of(teacher, ["stage3_add", "logits"], x, False)
    margin = numpy(margins(teacher.get_layer("stage3_bn2")))

    def distance(path, feature):
        if not weight:
            return 0
        return weight * distance_by_cases(
            numpy(copy_of(joint.connectors[path])(feature, training=True)), target, margin
        )

    expected = (1 - alpha) * cross_entropy(full, y) + alpha * divergence(targets, full, 4.0)
    expected += 0.5 * adjoined_kl(full, small) + distance("student", feature)
    for name, tap in zip(TAPS, taps, strict=True):
        ends = [teacher.output, teacher.get_layer("stage3_add").output]
        tail, feature = map(numpy, keras.Model(teacher.get_layer(name).output, ends)(tap, training=False))
        expected += 0.7 * (cross_entropy(tail, y) + distance(name, feature))
    expected /= 3 if options.get("path_scale") == "mean" else 1
    assert losses(joint, x, y) == pytest.approx([expected], rel=1e-4)
    assert adjoined_kl(full, small) > 1e-3


def test_steps_need_the_length_of_the_training(tiny, images):
    """lambda(t) is the student's; m(t) is constant here."""
    joint = JointRD(adjoin(remove_shortcuts(tiny()), 2, round_to=1), tiny(), tail_weight=1.0)
    joint.compile("sgd")
    with pytest.raises(ValueError, match="over which `kl_weight` changes.* Received: total_steps=0"):
        joint.train_on_batch(*images)


def test_trains_and_gives_a_narrow_plain_network(tiny, images):
    x, y = images
    joint, plain, teacher = both(tiny)
    before = [w.copy() for w in joint.student.network.get_weights()], [w.copy() for w in joint.teacher.get_weights()]
    history = compiled(joint).fit(x, y, batch_size=16, epochs=20, validation_data=(x, y), verbose=0).history
    expected = {"loss", "full_accuracy", "small_accuracy"}
    assert set(history) == expected | {f"val_{name}" for name in expected}
    assert history["val_full_accuracy"][-1] > 0.8 and history["val_small_accuracy"][-1] > 0.8
    moved = [np.abs(a - b).max() > 0 for a, b in zip(joint.student.network.get_weights(), before[0], strict=True)]
    assert all(moved)
    for ours, old in zip(joint.teacher.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(ours, old)
    predicted = joint.predict(x, verbose=0)
    small, full = joint.student.small(), joint.student.full()
    np.testing.assert_allclose(small.predict(x, verbose=0), predicted["small"], atol=1e-5)
    np.testing.assert_allclose(full.predict(x, verbose=0), predicted["full"], atol=1e-5)
    widths = {layer.name: layer.filters for layer in small.layers if isinstance(layer, keras.layers.Conv2D)}
    assert widths == {
        **{"stem_conv": 4, "stage1_conv2": 4},
        **{"stage2_conv1": 4, "stage2_conv2": 4, "stage3_conv1": 6, "stage3_conv2": 6},
    }
    assert shortcuts(read_graph(small)) == [] == shortcuts(read_graph(full)) and shortcuts(read_graph(teacher))
    result = joint.evaluate(x, y, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(cross_entropy(predicted["full"], y), rel=1e-4)
    for path in ("full", "small"):
        assert result[f"{path}_accuracy"] == pytest.approx((predicted[path].argmax(-1) == y).mean())


def test_saved_and_trained_on(tiny, images, tmp_path):
    x, y = images
    joint = compiled(both(tiny, kl_weight=None, teacher_mode="joint", methods=[Overhaul(1e-3), KD(weight=0.5)])[0])
    joint.fit(x, y, batch_size=32, epochs=4, steps_per_epoch=2, verbose=0, shuffle=False)
    joint.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    assert type(again.student) is type(joint.student) and again.joint
    for model in (joint, again):
        model.fit(x, y, batch_size=32, epochs=6, initial_epoch=4, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), joint.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_lambda_follows_the_whole_training(tiny, images):
    """lambda(t) = min(4t², 1) counts the steps of the model that is fitted: 0, then one fourth at t = 1/4."""
    x, y = images
    found = {}
    for kl_weight in (None, Constant(0.0)):
        joint, plain, _ = both(tiny, tail_weight=0.0, kl_weight=kl_weight)
        found[kl_weight is None] = losses(joint, x, y, steps=4)
    full = outputs_of(plain, ["logits"], x, True)[0]
    small = outputs_of(joint.student.small(), ["logits"], x, True)[0]
    added = np.array(found[True]) - found[False]
    np.testing.assert_allclose(added, adjoined_kl(full, small) * np.array([0, 0.25, 1, 1]), rtol=1e-3, atol=1e-6)


@pytest.fixture
def residual_digits(tiny, tmp_path):
    path = tmp_path / "residual.keras"
    tiny(classes=10).save(path)
    return str(path)


SMOKE = {"data": "digits", "images": 64, "epochs": 2, "batch_size": 32, "learning_rate": 0.05}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_recipe(residual_digits, tmp_path):
    networks = {"network": residual_digits, "teacher": residual_digits}
    recipe = Recipe(method="jointrd_adjoined", **networks, **SMOKE, formats=("int8",))
    finished = run(recipe, tmp_path / "run", verbose=0)
    assert set(finished.networks) == {"full", "small"}
    small = finished.networks["small"]
    assert small.get_layer("stage2_conv1").filters == 4 and shortcuts(read_graph(small)) == []
    last = finished.card["seeds"]["0"]["history"][-1]
    assert last["val_small_accuracy"] == pytest.approx(finished.accuracy("small"), abs=1e-6)
    assert (tmp_path / "run" / "small_int8.tflite").is_file()


class Stop(keras.callbacks.Callback):
    """Ctrl-C after the first epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
@pytest.mark.slow
def test_a_joint_dirac_training_is_resumed(residual_digits, tmp_path):
    """Interrupted after an epoch, it ends with the weights of one that was not, bit by bit, of both networks."""
    recipe = Recipe(method="jointrd", network=residual_digits, teacher_mode="joint", dirac=True, **SMOKE)
    whole = run(recipe, tmp_path / "whole", verbose=0)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "parts", verbose=0, callbacks=[Stop()])
    parts = run(recipe, tmp_path / "parts", verbose=0)
    assert parts.card["seeds"]["0"]["history"] == whole.card["seeds"]["0"]["history"]
    assert set(whole.networks) == {"model", "teacher"}
    for name, network in whole.networks.items():
        for ours, theirs in zip(parts.networks[name].weights, network.weights, strict=True):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    kinds = {type(layer).__name__ for layer in whole.networks["model"].layers}
    assert "Conv2D" in kinds and not kinds & {"DiracConv2D", "FusedBatchNormalization"}
