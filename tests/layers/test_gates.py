"""Gumbel-softmax and gated convolutions, against the formulas they stand for."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from tfjointrd.layers import DANConv2D, GumbelSoftmax
from tfjointrd.layers.gates import ChannelGates, check_alphas

ALPHAS = (1, 2, 4)


def numpy(x):
    return ops.convert_to_numpy(x)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradients(function, variables):
    """Gradients of a scalar function of Keras variables, on any backend."""
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function()

        return [np.asarray(g) for g in jax.grad(stateless)([v.value for v in variables])]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        result = function()
    return [g.numpy() for g in tape.gradient(result, [v.value for v in variables])]


# === Gumbel-softmax ===


@pytest.mark.parametrize("temperature", [0.5, 15.0])
def test_mixture_is_eqn_4(temperature):
    layer = GumbelSoftmax(seed=3)
    logits = ops.convert_to_tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]])
    g = numpy(layer(logits, temperature=temperature, training=True))
    np.testing.assert_allclose(g, softmax((numpy(logits) + numpy(layer.sample)) / temperature), rtol=1e-5)
    again = numpy(layer(logits, temperature=temperature, training=True))
    assert np.abs(again - g).max() > 1e-3  # new noise at each step


def test_choices_follow_the_softmax_of_the_logits():
    """The Gumbel-max theorem: argmax(logits + noise) is a draw from softmax(logits)."""
    logits = np.log(np.array([0.6, 0.3, 0.1], "float32"))
    layer = GumbelSoftmax(hard=True, seed=0)
    drawn = numpy(layer(ops.convert_to_tensor(np.tile(logits, (20000, 1))), temperature=1.0, training=True))
    assert set(np.unique(np.round(drawn, 6))) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), [0.6, 0.3, 0.1], atol=0.015)


def test_gumbel_noise_has_its_mean_and_variance():
    layer = GumbelSoftmax(seed=0)
    layer(ops.zeros((50000, 2)), temperature=1.0, training=True)
    noise = numpy(layer.sample)
    assert noise.mean() == pytest.approx(0.5772, abs=0.02) and noise.var() == pytest.approx(np.pi**2 / 6, abs=0.05)


@pytest.mark.parametrize(("noise", "mean", "deviation"), [("normal", 0, 1), ("uniform", 0.5, 12**-0.5), ("none", 0, 0)])
def test_other_readings_of_the_noise(noise, mean, deviation):
    layer = GumbelSoftmax(noise, seed=0)
    layer(ops.zeros((20000, 2)), temperature=1.0, training=True)
    found = numpy(layer.sample)
    assert (found.mean(), found.std()) == pytest.approx((mean, deviation), abs=0.02)


def test_evaluation_chooses_the_largest_logit():
    layer = GumbelSoftmax(seed=0)
    logits = ops.convert_to_tensor([[0.1, 0.2, 0.0]])
    for _ in range(3):
        np.testing.assert_array_equal(numpy(layer(logits, temperature=1.0)), [[0, 1, 0]])


def test_frozen_noise_is_drawn_once_and_counts_in_the_choice():
    layer = GumbelSoftmax(frozen=True, seed=1)
    logits = ops.zeros((8, 3))
    first = numpy(layer(logits, temperature=1.0, training=True))
    noise = numpy(layer.sample)
    assert np.abs(noise).max() > 0
    np.testing.assert_array_equal(numpy(layer(logits, temperature=1.0, training=True)), first)
    np.testing.assert_array_equal(numpy(layer(logits, temperature=1.0)).argmax(-1), noise.argmax(-1))


def test_hard_choices_have_the_gradient_of_the_weights():
    eta = keras.Variable(np.array([0.3, 0.1, -0.2], "float32"))
    values = np.array([1.0, -2.0, 0.5], "float32")
    found = []
    for hard in (False, True):
        layer = GumbelSoftmax(hard=hard, seed=5)
        layer.build((3,))
        layer.resample()
        found += gradients(lambda layer=layer: ops.sum(layer.mixture(eta.value, 0.7) * values), [eta])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert np.abs(found[0]).max() > 1e-3


def test_seeds_repeat():
    draws = [numpy(GumbelSoftmax(seed=9)(ops.zeros((4, 3)), training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*draws)


def test_bad_arguments():
    with pytest.raises(ValueError, match="Expected `noise` to be one of .*Received: noise='cauchy'"):
        GumbelSoftmax("cauchy")
    with pytest.raises(ValueError, match="Expected `temperature` above 0. Received: temperature=0"):
        GumbelSoftmax()(ops.zeros((1, 2)), temperature=0)
    for alphas in ((), (2, 1), (1, 1), (0.5, 1), ("a",)):
        with pytest.raises(ValueError, match="Expected `alphas` to be different numbers from 1 on in rising order"):
            DANConv2D(8, 3, alphas)
    assert check_alphas(np.array([1, 2])) == [1, 2]
    with pytest.raises(ValueError, match="Expected `alphas` that leave one of 8 filters"):
        DANConv2D(8, 3, (1, 16))
    with pytest.raises(ValueError, match="no `activation`"):
        DANConv2D(8, 3, activation="relu")


# === A gated convolution ===


@pytest.mark.parametrize("alphas", [ALPHAS, (2, 4), (1, 3)])
@pytest.mark.parametrize("options", [{"padding": "same"}, {"strides": 2, "use_bias": False}])
def test_convolution_is_the_sum_of_masked_ones(alphas, options):
    """Eqn 5: values and gradients in kernel, input and eta."""
    layer = DANConv2D(12, 3, alphas, frozen=True, seed=0, **options)
    x = keras.Variable(np.random.default_rng(0).normal(size=(2, 6, 6, 5)).astype("float32"))
    layer.build(x.shape)
    layer.eta.assign(np.linspace(-1, 1, len(alphas)))
    layer.temperature.assign(0.8)
    target = np.random.default_rng(1).normal(size=layer(x.value).shape).astype("float32")

    def masked():
        g = layer.gumbel.mixture(layer.eta.value, layer.temperature)
        total = 0.0
        for j, alpha in enumerate(alphas):
            mask = (np.arange(12) < 12 // alpha).astype("float32")
            z = ops.conv(x.value, layer.kernel.value * mask, strides=layer.strides, padding=layer.padding)
            total = total + g[j] * (z + layer.bias.value * mask if layer.use_bias else z)
        return total

    def gated():
        return layer(x.value, training=True)

    np.testing.assert_allclose(numpy(gated()), numpy(masked()), atol=1e-5)
    variables = [x, layer.eta, layer.kernel]
    ours, theirs = (gradients(lambda f=f: ops.sum(f() * target), variables) for f in (gated, masked))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.abs(b).max() > 1e-3


def test_convolution_in_evaluation_keeps_the_likeliest_width():
    layer = DANConv2D(8, 1, ALPHAS)
    x = ops.ones((1, 2, 2, 3))
    layer.build(x.shape)
    layer.eta.assign([0.0, 0.0, 0.1])
    out = numpy(layer(x))
    assert np.abs(out[..., :2]).min() > 0 and not out[..., 2:].any()


def test_a_batch_normalisation_behind_the_gate_undoes_it():
    """Why a network is scaled behind its batch normalisations: in front, widths have no gradient to learn by."""
    rng = np.random.default_rng(0)
    x, target = (rng.normal(size=(64, 4, 4, n)).astype("float32") for n in (6, 8))
    norms = {}
    for behind in (False, True):
        gates = ChannelGates([[0]], ALPHAS, {"here": [[0, 2, 2], [0, 1, 2], [0, 0, 4]]}, noise="none")
        convolution = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)
        normalization = keras.layers.BatchNormalization(epsilon=1e-5)
        convolution.build(x.shape), normalization.build(target.shape)

        def loss(behind=behind, gates=gates, convolution=convolution, normalization=normalization):
            z = convolution(x)
            if behind:
                z = gates(normalization(z, training=True), site="here", training=True)
            else:
                z = normalization(gates(z, site="here", training=True), training=True)
            return ops.mean(ops.square(z - target))

        (gradient,) = gradients(loss, [gates.eta])
        norms[behind] = np.abs(gradient).max()
    assert norms[False] < 0.01 * norms[True]


# === The gates of a network ===


def test_channels_are_scaled_by_the_candidates_that_have_them():
    gates = ChannelGates([[0], [1]], ALPHAS, {"a": [[1, 2, 2], [1, 1, 1], [0, 0, 1]]}, seed=0)
    gates.eta.assign([[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    x = ops.ones((1, 4))
    np.testing.assert_array_equal(numpy(gates(x, site="a")), [[1, 1, 1, 0]])
    gates.gumbel.resample()
    g = softmax(numpy(gates.eta) + numpy(gates.gumbel.sample))
    expected = [1, 1, g[1, 0] + g[1, 1], g[0, 0]]
    np.testing.assert_allclose(numpy(gates(x, site="a", training=True))[0], expected, rtol=1e-5)


def test_the_widest_of_several_choices_counts():
    gates = ChannelGates([[0, 1], [2]], ALPHAS, {"a": [[0, 2, 1], [0, 1, 1], [0, 0, 1]]}, noise="none")
    gates.eta.assign(np.log([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [1, 1, 1]]))
    probabilities = numpy(gates.probabilities())
    widest = 1 - 0.8 * 0.9
    both_narrowest = 0.3 * 0.3
    np.testing.assert_allclose(probabilities[0], [widest, 1 - widest - both_narrowest, both_narrowest], atol=1e-6)
    np.testing.assert_allclose(probabilities[1], np.full(3, 1 / 3), atol=1e-6)
    gates.eta.assign([[0, 0, 9], [0, 9, 0], [0, 0, 0]])
    np.testing.assert_array_equal(numpy(gates.weights_of_candidates())[0], [0, 1, 0])


def test_gates_that_do_not_learn_have_no_gradient():
    gates = ChannelGates([[0]], ALPHAS, {"a": [[0, 2, 1], [0, 0, 3]]}, noise="none")
    for learning in (0.0, 1.0):
        gates.learning.assign(learning)
        (gradient,) = gradients(lambda: ops.sum(gates(ops.ones((1, 4)), site="a", training=True)), [gates.eta])
        assert (np.abs(gradient).max() > 0) == bool(learning)


@pytest.mark.parametrize(
    "layer",
    [
        GumbelSoftmax("normal", frozen=True, hard=True, seed=4),
        DANConv2D(8, 3, (1, 2), noise="uniform", seed=2, padding="same"),
        ChannelGates([[0, 1], [2]], (1, 1.5), {"a": [[0, 1, 3], [1, 0, 2]]}, hard=True, seed=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


def test_a_convolution_is_saved_whole(tmp_path):
    keras.utils.set_random_seed(0)
    layer = DANConv2D(8, 3, alphas=ALPHAS, seed=1, name="gated")
    network = keras.Sequential([keras.Input((6, 6, 2)), layer])
    layer.eta.assign([0.1, 0.7, -0.2])
    layer.temperature.assign(0.5)
    x = keras.random.normal((2, 6, 6, 2))
    network(x, training=True)  # draws
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    for training in (False, True):
        np.testing.assert_allclose(numpy(again(x, training=training)), numpy(network(x, training=training)), atol=1e-6)
