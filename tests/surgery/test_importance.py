"""Criteria against the papers' formulas, written out with loops in numpy."""

import keras
import numpy as np
import pytest
from scipy import special, stats

from tfjointrd.surgery import channel_importance, register_importance
from tfjointrd.surgery.importance import FPGM, L1, L2, LAMP, NISP, BatchNormGamma, Criterion, HRank, Random, Taylor
from tfjointrd.surgery.importance import criterion as table

L = keras.layers


def tied_network():
    """Two sets: `a` and `c` are added up; `b` stands between them."""
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="a")(inputs)
    x = L.ReLU(name="relu_a")(L.BatchNormalization(name="bn_a")(x))
    y = L.Conv2D(6, 3, padding="same", name="b")(x)
    y = L.ReLU(name="relu_b")(L.BatchNormalization(name="bn_b")(y))
    y = L.BatchNormalization(name="bn_c")(L.Conv2D(4, 1, name="c")(y))
    x = L.ReLU(name="relu_c")(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(3, name="logits")(L.GlobalAveragePooling2D(name="pool")(x)), name="tied")


@pytest.fixture
def model():
    network, rng = tied_network(), np.random.default_rng(0)
    for variable in network.weights:
        positive = variable.path.endswith("moving_variance")
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.5, variable.shape))
    return network


def weight(model, layer, name="kernel"):
    return keras.ops.convert_to_numpy(getattr(model.get_layer(layer), name)).astype("float64")


def members(model, function, scales=True):
    """By set, `function` of what belongs to each channel in each layer, by hand."""
    a, b, c, head = (weight(model, layer) for layer in ("a", "b", "c", "logits"))
    gammas = {layer: weight(model, layer, "gamma") for layer in ("bn_a", "bn_b", "bn_c")}
    first = [
        [a[..., j].ravel() for j in range(4)],
        [gammas["bn_a"][[j]] for j in range(4)] if scales else None,
        [b[:, :, j].ravel() for j in range(4)],
        [c[..., j].ravel() for j in range(4)],
        [gammas["bn_c"][[j]] for j in range(4)] if scales else None,
        [head[j] for j in range(4)],
    ]
    second = [
        [b[..., j].ravel() for j in range(6)],
        [gammas["bn_b"][[j]] for j in range(6)] if scales else None,
        [c[:, :, j].ravel() for j in range(6)],
    ]
    return {
        name: [function(rows) for rows in lists if rows is not None]
        for name, lists in {"a": first, "b": second}.items()
    }


def norm(power):
    return lambda rows: [sum(abs(w) ** power for w in row) ** (1 / power) for row in rows]


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


@pytest.mark.parametrize(("name", "cls", "power"), [("l1", L1, 1), ("l2", L2, 2)])
def test_norms(model, name, cls, power):
    expected = members(model, norm(power))
    means = {key: np.mean(rows, axis=0) for key, rows in expected.items()}
    check(channel_importance(model, name), {key: row / row.mean() for key, row in means.items()})
    check(channel_importance(model, cls(normalize=None)), means)
    largest = {key: np.max(rows, axis=0) for key, rows in expected.items()}
    check(channel_importance(model, cls("max", "max")), {key: row / row.max() for key, row in largest.items()})
    check(channel_importance(model, cls("first", None)), {key: rows[0] for key, rows in expected.items()})


def test_scales_of_batch_normalisations(model):
    gammas = {layer: np.abs(weight(model, layer, "gamma")) for layer in ("bn_a", "bn_b", "bn_c")}
    expected = {"a": (gammas["bn_a"] + gammas["bn_c"]) / 2, "b": gammas["bn_b"]}
    check(channel_importance(model, "gamma"), expected)
    check(
        channel_importance(model, BatchNormGamma("max")), {**expected, "a": np.maximum(gammas["bn_a"], gammas["bn_c"])}
    )


def test_distances_from_the_others(model):
    def distances(rows):
        return [sum(np.sqrt(np.sum((row - other) ** 2)) for other in rows) for row in rows]

    expected = {key: np.mean(rows, axis=0) for key, rows in members(model, distances, scales=False).items()}
    check(channel_importance(model, FPGM(normalize=None)), expected)
    assert np.allclose(channel_importance(model, "fpgm")["b"], expected["b"] / expected["b"].mean())


def test_parts_of_those_as_large(model):
    expected = {}
    for key, rows in members(model, lambda rows: [np.sum(row**2) for row in rows]).items():
        squares = np.mean(rows, axis=0)
        expected[key] = [square / sum(other for other in squares if other >= square) for square in squares]
        assert max(expected[key]) == 1
    check(channel_importance(model, "lamp"), expected)
    assert LAMP().normalize is None


def test_random_numbers_depend_on_the_seed(model):
    found = channel_importance(model, "random")
    check(found, channel_importance(model, Random(0)))
    assert not np.allclose(found["a"], channel_importance(model, Random(1))["a"])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="differences need double precision, off there by default")
def test_changes_of_the_loss(float64):
    """Against differences of the loss as the weights of a channel are scaled a little."""
    model, rng = tied_network(), np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 0.5, variable.shape) * rng.choice([1, 1, -1], variable.shape))
        if variable.path.endswith("moving_variance"):
            variable.assign(np.ones(variable.shape))
    images, labels = rng.normal(size=(5, 6, 6, 3)), np.array([0, 2, 1, 1, 0])
    groups = {
        "a": [("a", "kernel", -1), ("bn_a", "*", 0), ("b", "kernel", 2), ("c", "*", -1), ("bn_c", "*", 0)],
        "b": [("b", "*", -1), ("bn_b", "*", 0), ("c", "kernel", 2)],
    }
    groups["a"].append(("logits", "kernel", 0))

    def loss(x, y):
        return -np.mean(special.log_softmax(keras.ops.convert_to_numpy(model(x)), axis=-1)[range(len(y)), y])

    def derivative(layer, names, axis, channel, batch, step=1e-6):
        names = {"*": ("kernel", "bias") if layer in "abc" else ("gamma", "beta")}.get(names, (names,))
        variables = [getattr(model.get_layer(layer), name) for name in names]
        before = [keras.ops.convert_to_numpy(variable) for variable in variables]
        found = []
        for factor in (1 + step, 1 - step):
            for variable, value in zip(variables, before, strict=True):
                scaled = np.moveaxis(value.copy(), axis if value.ndim > 1 else 0, 0)
                scaled[channel] *= factor
                variable.assign(np.moveaxis(scaled, 0, axis if value.ndim > 1 else 0))
            found.append(loss(*batch))
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return (found[0] - found[1]) / (2 * step)

    batches, channels = [(images[:3], labels[:3]), (images[3:], labels[3:])], (0, 3)
    expected = {
        name: np.mean(
            [
                [
                    np.mean([derivative(layer, names, axis, channel, batch) ** 2 for batch in batches])
                    for channel in channels
                ]
                for layer, names, axis in group
            ],
            axis=0,
        )
        for name, group in groups.items()
    }
    found = channel_importance(model, Taylor(batch_size=3), (images, labels))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][list(channels)], values, rtol=1e-4)
    one_hot = channel_importance(model, "taylor", (images, np.eye(3)[labels]))
    check(channel_importance(model, "taylor", (images, labels)), one_hot)
    model.trainable = False  # a frozen network has the same gradients
    check(channel_importance(model, "taylor", (images, labels)), one_hot)


def test_ranks_of_feature_maps(model):
    rng = np.random.default_rng(2)
    model.get_layer("bn_a").beta.assign([-9.0, 0.0, 1.0, -0.8])  # one channel dies, one is zero here and there
    images = rng.normal(size=(5, 6, 6, 3)).astype("float32")
    images[3:] = 0.5  # few different rows
    maps = {
        layer: keras.ops.convert_to_numpy(keras.Model(model.input, model.get_layer(layer).output)(images))
        for layer in ("relu_a", "relu_b", "relu_c")
    }

    def rank(image):
        values = np.linalg.svd(image, compute_uv=False)
        return sum(value > values[0] * len(image) * np.finfo("float32").eps for value in values)

    def mean_rank(x):
        return np.mean([[rank(image[..., j]) for j in range(x.shape[-1])] for image in x], axis=0)

    # What the classifier takes is a pixel of each map; the map ahead of the pooling counts.
    expected = {"a": (mean_rank(maps["relu_a"]) + mean_rank(maps["relu_c"])) / 2, "b": mean_rank(maps["relu_b"])}
    check(channel_importance(model, HRank(normalize=None), images), expected)
    assert mean_rank(maps["relu_a"])[0] == 0 and len(set(expected["a"])) > 2
    of_two = mean_rank(maps["relu_b"][:2])
    check({"b": channel_importance(model, HRank(2, normalize=None), [images[:1], images[1:]])["b"]}, {"b": of_two})


def test_ranks_where_nothing_has_height_and_width():
    inputs = keras.Input((5,))
    x = L.Dense(4, activation="relu", name="wide")(inputs)
    model = keras.Model(inputs, L.Dense(2)(x))
    data = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    alive = keras.ops.convert_to_numpy(keras.Model(inputs, x)(data)) != 0
    check(channel_importance(model, HRank(normalize=None), [data]), {"wide": alive.mean(axis=0)})


@pytest.mark.parametrize("data", [None, "images"])
def test_importance_through_kernels_of_one_channel(data):
    """A spatial gate, and a classifier that says yes or no."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(8, 3, name="first", use_bias=False)(inputs)
    x = L.Conv2D(6, 3, name="second", use_bias=False)(x * L.Conv2D(1, 3, padding="same", name="gate")(x))
    model = keras.Model(inputs, L.Dense(1, name="yes")(L.GlobalAveragePooling2D()(x)))
    images = None if data is None else rng.normal(size=(4, 6, 6, 1)).astype("float32")
    found = channel_importance(model, NISP(normalize=None), images)
    assert {name: values.shape for name, values in found.items()} == {"first": (8,), "second": (6,)}
    if data is None:
        check({"second": found["second"]}, {"second": np.abs(weight(model, "yes"))[:, 0]})


def by_hand_nisp(model, last):
    """Eqn 6 layer by layer, from the importance of the pooled channels."""
    a, b, c = (np.abs(weight(model, layer)).sum(axis=(0, 1)) for layer in ("a", "b", "c"))
    scale = {
        layer: np.abs(weight(model, layer, "gamma")) / np.sqrt(weight(model, layer, "moving_variance") + 1e-3)
        for layer in ("bn_a", "bn_b", "bn_c")
    }
    at_c = scale["bn_c"] * last
    at_b = scale["bn_b"] * (c @ at_c)
    at_a = scale["bn_a"] * (last + b @ at_b)
    assert a.shape == (3, 4)
    return {"a": (at_a + at_c) / 2, "b": at_b}


def test_importance_handed_back(model):
    check(channel_importance(model, NISP(normalize=None)), by_hand_nisp(model, np.abs(weight(model, "logits")).sum(1)))


def test_importance_of_the_last_responses(model):
    """Infinite feature selection, as a sum over the lengths of paths."""
    images = np.random.default_rng(3).normal(size=(40, 6, 6, 3)).astype("float32")
    responses = keras.ops.convert_to_numpy(keras.Model(model.input, model.get_layer("pool").output)(images))
    deviation = responses.std(axis=0) / responses.std(axis=0).max()
    edges = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            correlation = stats.spearmanr(responses[:, i], responses[:, j]).statistic
            edges[i, j] = 0.5 * max(deviation[i], deviation[j]) + 0.5 * (1 - abs(correlation))
    step = 0.9 / np.abs(np.linalg.eigvals(edges)).max() * edges
    paths, total = np.eye(4), np.zeros((4, 4))
    for _ in range(500):
        paths = paths @ step
        total += paths
    found = channel_importance(model, NISP(normalize=None), images)
    check(found, by_hand_nisp(model, total.sum(axis=1)))


def test_every_kind_of_kernel_hands_back():
    """Against what a network of positive weights without activations computes."""
    inputs = keras.Input((5, 5, 2))
    x = L.Conv2D(4, 3, padding="same", name="plain")(inputs)
    x = L.Conv2D(4, 1, groups=2, name="grouped")(x)
    x = L.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")(x)
    x = L.SeparableConv2D(6, 1, depth_multiplier=2, name="separable")(x)
    x = L.Conv2DTranspose(5, 1, name="transposed")(x)
    x = L.Concatenate()([x, L.Conv2D(3, 1, name="beside")(x)])
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Flatten()(L.Dense(4, name="dense")(x))))
    rng = np.random.default_rng(4)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 1, variable.shape))
    found = channel_importance(model, NISP("first", normalize=None))
    image = np.zeros((1, 5, 5, 2), "float32")

    def total():
        return float(keras.ops.convert_to_numpy(model(image)).sum())

    before = total()
    for layer in ("plain", "separable", "transposed", "beside", "dense"):
        bias, changes = model.get_layer(layer).bias, []
        values = keras.ops.convert_to_numpy(bias).copy()
        for channel in range(len(values)):  # the network is linear: what one more at every pixel changes
            bias.assign(values + np.eye(len(values))[channel])
            changes.append(total() - before)
        bias.assign(values)
        units = np.asarray(changes).reshape(len(found[layer]), -1).sum(axis=1)
        np.testing.assert_allclose(found[layer], units, rtol=1e-3)


def test_own_functions_and_names(model):
    seen = []

    def largest(slices):
        seen.append([(one.layer, one.weight, one.role, one.values.shape) for one in slices])
        return next(np.abs(one.values).max(axis=1) for one in slices if one.role == "out")

    expected = {
        "a": np.abs(weight(model, "a")).max(axis=(0, 1, 2)),
        "b": np.abs(weight(model, "b")).max(axis=(0, 1, 2)),
    }
    check(channel_importance(model, largest), expected)
    assert ("b", "kernel", "in", (4, 54)) in seen[0] and ("bn_c", "beta", "channel", (4, 1)) in seen[0]

    class Largest(Criterion):
        def members(self, tied, slices, measured):
            return [largest(slices)]

    register_importance("largest", lambda: Largest(normalize=None))
    try:
        check(channel_importance(model, "largest"), expected)
    finally:
        del table._CRITERIA["largest"]
    check(channel_importance(model, channel_importance(model, "l1")), channel_importance(model, "l1"))


IMAGES = np.zeros((2, 6, 6, 3), "float32")


@pytest.mark.parametrize(
    ("importance", "data", "message"),
    [
        ("l3", None, r"one of \['fpgm', .*Received: 'l3'"),
        (L2, None, "a `Criterion`"),
        ("taylor", None, "Expected `data` for importance 'taylor'"),
        (HRank(), None, "Expected `data` for importance 'HRank'"),
        ("taylor", IMAGES, "with labels"),
        ("hrank", np.zeros((2, 5, 5, 3)), r"of shape \(count, 6, 6, 3\)"),
        ("hrank", "images", "to be an array of images"),
        ("nisp", IMAGES[:1], "at least 2 images"),
        (lambda slices: np.ones(7), None, r"each of the 4 channels of 'a'. Received: shape \(7,\)"),
        (lambda slices: np.full(len(slices[0].values), np.nan), None, "finite numbers from 0 on"),
        (lambda slices: np.zeros(len(slices[0].values)), None, "zero for all"),
        ({"a": np.ones(5)}, None, r"4 scores for 'a'. Received: 'a' of shape \(5,\)"),
        ({"c": np.ones(4)}, None, r"sets of \['a', 'b'\]"),
    ],
)
def test_importance_that_cannot_be_had(model, importance, data, message):
    with pytest.raises(ValueError, match=message):
        channel_importance(model, importance, data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1("sum"), "reduction='sum'"),
        (lambda: L1(normalize="sum"), "normalize='sum'"),
        (lambda: Taylor(0), "`batch_size`"),
        (lambda: HRank(images=0), "images=0"),
        (lambda: register_importance("mine", L), "to make a `Criterion`"),
    ],
)
def test_options_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_that_say_nothing(model):
    with pytest.raises(ValueError, match="finds nothing to score"):
        inputs = keras.Input((4,))
        channel_importance(keras.Model(inputs, L.Dense(2)(L.Dense(8)(inputs))), "gamma")
    model.get_layer("bn_b").gamma.assign([1, 1, np.nan, 1, 1, 1])
    with pytest.raises(ValueError, match="'gamma' of layer 'bn_b' has NaN"):
        channel_importance(model)
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape))
    with pytest.raises(ValueError, match="kernels are all zero"):
        channel_importance(model)
