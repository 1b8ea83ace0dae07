"""Margins and the margin distance against their definitions; connectors; which map is compared. Runs on JAX too."""

import keras
import numpy as np
import pytest

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.training.distillers.adapters import connector
from tfjointrd.training.distillers.overhaul import margin_distance, margin_layer, margins
from tfjointrd.training.distillers.taps import last_map, relu_of

L = keras.layers


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def normalization(gamma, beta, cls=L.BatchNormalization, **options):
    layer = cls(**options)
    layer.build((None, 4, 4, len(gamma)))
    if options.get("scale", True):
        layer.gamma.assign(gamma)
    if options.get("center", True):
        layer.beta.assign(beta)
    return layer


@pytest.mark.parametrize("cls", [L.BatchNormalization, FusedBatchNormalization])
def test_margins_are_means_of_truncated_normals(cls):
    stats = pytest.importorskip("scipy.stats")
    gamma, beta = (a.ravel() for a in np.meshgrid([-2.0, -0.3, 0.01, 0.5, 1.0, 4.0], [-3.0, -0.4, 0.0, 0.2, 1.5]))
    scale = np.abs(gamma)
    expected = stats.truncnorm.mean(-np.inf, -beta / scale, loc=beta, scale=scale)
    expected = np.where(stats.norm.cdf(-beta / scale) > 1e-3, expected, -3 * scale)
    found = numpy(margins(normalization(gamma, beta, cls)))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
    assert (found <= 0).all() and (expected == -3 * scale).any() and (expected != -3 * scale).any()


def test_margins_at_the_edges():
    # Hardly anything negative: the authors' -3 |gamma|. At gamma = 0 the channel is the constant beta.
    found = numpy(margins(normalization([0.5, -0.5, 0.0, 0.0, 0.0], [5.0, 5.0, -0.7, 0.0, 0.3])))
    np.testing.assert_allclose(found, [-1.5, -1.5, -0.7, 0, 0], atol=1e-6)
    half_normal = -np.sqrt(2 / np.pi)
    bare = numpy(margins(normalization([1.0, 1.0], [0.0, 0.0], center=False, scale=False)))
    np.testing.assert_allclose(bare, [half_normal] * 2, rtol=1e-5)
    shifted = numpy(margins(normalization([1.0], [5.0], scale=False)))
    np.testing.assert_allclose(shifted, [-3.0])


def distance_by_cases(feature, target, margin):
    """The three cases of the partial distance, one number at a time."""
    total = 0.0
    for image in np.ndindex(*target.shape):
        s, t, m = float(feature[image]), float(target[image]), float(margin[image[-1]])
        if t > 0:
            total += (s - t) ** 2
        elif s > m and s > t:
            total += (s - max(t, m)) ** 2
    return total / len(target)


def test_margin_distance_by_cases():
    rng = np.random.default_rng(0)
    feature, target = rng.normal(size=(2, 3, 4, 3, 5)).astype("float32")
    margin = np.array([-2.0, -1.0, -0.5, -0.1, 0.0], "float32")
    # All cases occur: teacher positive; negative and above or below the margin; the student above or below that.
    assert {(t > 0, t > m, s > max(t, m)) for s, t, m in np.broadcast(feature, target, margin)} >= {
        (True, True, True),
        (True, True, False),
        (False, True, True),
        (False, True, False),
        (False, False, True),
        (False, False, False),
    }
    expected = distance_by_cases(feature, target, margin)
    assert numpy(margin_distance(feature, target, margin)).mean() == pytest.approx(expected, rel=1e-5)
    one = np.full((1, 1, 1, 1), 1.0, "float32")
    for s, t, m, value in (
        (0.5, 2.0, -1, 2.25),
        (3.0, 2.0, -1, 1.0),
        (0.5, -2.0, -1, 2.25),
        (-0.7, -0.5, -1, 0),
        (-0.2, -0.5, -1, 0.09),
        (-1.5, -2, -1, 0),
    ):
        found = margin_distance(s * one, t * one, np.array([m], "float32"))
        assert numpy(found) == pytest.approx([value], abs=1e-6)


def test_the_map_ahead_of_the_last_relu(tiny):
    graph = read_graph(tiny())
    assert last_map(graph).layer == "stage3_add" and margin_layer(graph, last_map(graph)) == "stage3_bn2"
    plain = read_graph(tiny(shortcuts=False))
    assert last_map(plain).layer == "stage3_bn2"
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="feature maps to distil from. Received: 'flat'"):
        last_map(read_graph(keras.Model(inputs, L.Dense(2)(inputs), name="flat")))
    inputs = keras.Input((8, 8, 1))
    bare = read_graph(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(3, 3)(inputs)))))
    with pytest.raises(ValueError, match="Expected a batch normalisation ahead of the last feature map"):
        margin_layer(bare, last_map(bare))


def test_connectors():
    made = connector((8, 8, 4), (4, 4, 6), "joint")
    assert made.output_shape == (None, 4, 4, 6) and len(made.trainable_variables) == 3
    kernel = numpy(connector((4, 4, 512), (4, 4, 128), "wide").layers[0].kernel.value)
    assert kernel.std() == pytest.approx(np.sqrt(2 / 128), rel=0.02)  # as the authors draw it
    for inputs in ((4, 4, 4), (9, 8, 4)):
        with pytest.raises(ValueError, match="multiple of .* for 'joint'. Received: shape"):
            connector(inputs, (8, 8, 4), "joint")


@pytest.mark.parametrize("kind", ["layer", "activation", "operator", "none"])
def test_relus_are_made_again(kind):
    inputs = keras.Input((4, 4, 2))
    makers = {
        "layer": L.LeakyReLU(0.2, name="end"),
        "activation": L.Activation("relu6", name="end"),
        "operator": keras.ops.hard_silu,
        "none": L.MaxPooling2D(name="end"),
    }
    x = makers[kind](inputs)
    graph = read_graph(keras.Model(inputs, x))
    again = relu_of(graph, graph.calls[-1].layer)
    if kind == "none":
        assert again is None
        return
    values = np.linspace(-8, 8, 32, dtype="float32").reshape(1, 4, 4, 2)
    np.testing.assert_array_equal(numpy(again(values)), numpy(makers[kind](values)))
    assert connector((4, 4, 2), (2, 2, 3), "joined", again).output_shape == (None, 2, 2, 3)
