"""The table of what each layer is, held against what the layers compute."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from layer_cases import BUILT, CHANNELS, STEPS, TABLE, UNBUILT, Case, marked, name_of

from tfjointrd.surgery import read_graph
from tfjointrd.surgery.macs import layer_macs
from tfjointrd.surgery.rules import counters, describe
from tfjointrd.surgery.rules.activations import ELEMENTWISE, LIKE_RELU, MIXING


def test_all_of_the_table_is_tried():
    """Whoever adds a layer tells this test how to make one."""
    assert len(BUILT) > 130 and len(TABLE) - len(BUILT) <= len(UNBUILT) + 1  # `Dot` is a layer and an operator
    names = {key if isinstance(key, str) else key.__name__ for key in TABLE}
    assert names >= UNBUILT


def elements_depend_on_their_own_place(case):
    if case.key == "Sparsemax":  # where one channel is far above the others, they are 0 whatever it is
        return
    x, element = case.images(0.1, 0.6), (0, *(1, 2, 3)[: len(case.shape) - 1], 2)
    x[0][element] = 0.62
    y = case(*x)
    if y.shape != x[0].shape or case.rule.augments:
        assert not case.rule.elementwise or case.rule.augments
        return
    changed = [x[0].copy(), *x[1:]]
    changed[0][element] = 0.92
    found = case(*changed) != y
    own, found[element] = found[element], False
    assert bool(case.rule.elementwise) == (not found.any()), "other elements change with it"
    if case.rule.elementwise:
        assert own or case.key in STEPS
        again = case(*(image[:, ::-1] for image in x))
        np.testing.assert_allclose(again, y[:, ::-1], rtol=1e-6)  # other places, other elements, the same function
        assert case.rule.in_place or case.count == 2  # nothing else is needed to write over the input


def zeros(case):
    zeros = [np.zeros((2, *case.shape), "float32") for _ in range(case.count)]
    with np.errstate(all="ignore"):
        kept = [not np.any(case(*zeros)), not np.any(case(*zeros, training=True))]
    if case.rule.keeps_zeros is not None:
        assert case.rule.keeps_zeros == all(kept)


def in_place(case):
    x = case.images(0.1, 2)
    y = case(*x)
    if case.rule.in_place:
        assert y.nbytes == x[0].nbytes and y.dtype == x[0].dtype


def ranges(case):
    if case.rule.keeps_range:
        x = case.images(0, 255)
        y = case(*x)
        assert y.min() >= 0 and y.max() <= 255 + 1e-3 and y.max() > 0.4 * x[0].max()


def probabilities(case):
    if case.rule.keeps_probabilities:
        (x,) = case.images(0.1, 1)
        x /= x.sum(-1, keepdims=True)
        y = case(x)
        same = y.size == x.size and np.allclose(np.sort(y, None), np.sort(x, None))
        assert same or (y.min() >= 0 and np.allclose(y.sum(-1), 1, atol=1e-5))


def pooling(case):
    """Neighbours in a window of two, or in a larger one, may change places."""
    x = case.images()
    y, swapped = case(*x), [image.copy() for image in x]
    for image in swapped:
        for axis in range(1, image.ndim - 1):
            image[:] = np.take(image, [1, 0, 3, 2, 5, 4][: image.shape[axis]], axis)
    found = y.size < x[0].size and np.allclose(case(*swapped), y, atol=1e-5)
    assert bool(case.rule.pools) == found


def activations(case):
    """An activation computes what Keras' function of its name does; whoever does that is called one."""
    x = case.images(-3, 3)
    y = case(*x)
    if case.count == 2 or y.shape != x[0].shape or case.rule.augments:  # which may cut values off at 0
        assert case.rule.activation is None
        return
    if case.rule.activation in ("leaky_relu", "prelu") or case.key == "ReLU":  # with a slope of their own
        np.testing.assert_allclose(y[x[0] > 0], x[0][x[0] > 0])
        slopes = np.where(x[0] < 0, y / x[0], np.nan)
        assert np.nanmax(np.nanstd(slopes, axis=(0, 1, 2))) < 1e-4  # one a channel
        return
    if case.rule.activation:
        expected = getattr(keras.activations, case.rule.activation)(ops.convert_to_tensor(x[0]))
        np.testing.assert_allclose(y, ops.convert_to_numpy(expected), atol=1e-5)
        return
    for name in {*ELEMENTWISE, "softmax", "log_softmax"} - {"prelu", "linear"}:
        function = getattr(keras.activations, name)
        assert not np.allclose(y, ops.convert_to_numpy(function(ops.convert_to_tensor(x[0]))), atol=1e-4), name


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MIXING])
def test_activations_by_name(name):
    if name != "prelu":
        values = np.array([[-5.0, 0.0, 5.0, 1.0]], "float32")
        function = getattr(keras.activations, name)
        low, zero, high, *_ = ops.convert_to_numpy(function(ops.convert_to_tensor(values)))[0].tolist() + [0]
        if name in ELEMENTWISE:
            assert ELEMENTWISE[name] == (zero == 0)
            assert (name in LIKE_RELU) == (zero == 0 and low > -2.5 and abs(high - 5) < 0.5)
    config = {"name": "a", "activation": name}
    assert (describe(read_graph(with_activation("relu")).layers["a"].with_config(**config)).activation) == name


def with_activation(name):
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Activation(name, name="a")(inputs))


def augmentation(case):
    if isinstance(case.key, str) or case.count == 2:
        assert not case.rule.augments
        return
    x = case.images(0, 255)
    regular = case(*x)
    drawn = [case(*x, training=True) for _ in range(6)]
    moved = any(not np.array_equal(first, drawn[0]) for first in drawn) or not np.array_equal(drawn[0], regular)
    noise = any(word in case.key.__name__ for word in ("Noise", "Dropout", "BatchNormalization"))
    assert bool(case.rule.augments) == (moved and not noise)


def joining(case):
    if case.count == 2:
        x = case.images(0.5, 2)
        y = case(*x)
        added = np.array_equal(y, x[0] + x[1]) and "add"
        strung = y.shape[-1] == 2 * CHANNELS and np.array_equal(y, np.concatenate(x, -1)) and "concatenate"
        assert case.rule.joins == (added or strung or None)
    else:
        assert case.rule.joins is None


def normalising(case):
    """A batch normalisation's means are zero in training; see below for those that count channels."""
    if case.count == 2 or isinstance(case.key, str):
        assert case.rule.normalizes is None
    else:
        for variable in case.model.weights:
            variable.assign(np.full(variable.shape, float(variable.name in ("gamma", "moving_variance", "kernel"))))
        y = case(*case.images(1, 5), training=True)
        centred = np.abs(y.mean(axis=tuple(range(y.ndim - 1)))).max() < 1e-3 and y.std() > 0.5
        per_image = centred and np.abs(y.mean(axis=tuple(range(1, y.ndim)))).max() < 1e-4
        assert (case.rule.normalizes == "batch") == (centred and not per_image)


def multiply_accumulates(case):
    """With ones for kernels and inputs, each multiply-accumulate adds one to the sum of the outputs."""
    layer = case.model.operations[-1]
    shapes = [(2, *case.shape)] * case.count
    y = case(*case.images())
    count = layer_macs(layer, shapes, [y.shape])
    kernels = [w for w in case.model.weights if "kernel" in w.name]
    if not kernels:
        assert count == 0 and (case.rule.macs is counters.free or not case.model.weights)
        return
    for variable in case.model.weights:
        variable.assign(np.full(variable.shape, float("kernel" in variable.name)))
    if type(layer).__name__ == "DiracConv2D":
        layer.beta.assign(np.ones(layer.beta.shape))
    y = case(np.ones(shapes[0], "float32"))
    if "Separable" in type(layer).__name__:  # the sums of a depthwise convolution, then a pointwise one of ones
        window = kernels[0].shape[0] ** (len(case.shape) - 1)
        assert count == y[..., 0].size * CHANNELS * window + y.size * CHANNELS
    else:
        assert count == int(y.sum())


CHECKS = [
    elements_depend_on_their_own_place,
    zeros,
    in_place,
    ranges,
    probabilities,
    pooling,
    activations,
    augmentation,
    joining,
    normalising,
    multiply_accumulates,
]


@pytest.mark.parametrize("key", marked(BUILT), ids=name_of)
def test_the_table_is_right(key):
    case = Case(key)
    for check in CHECKS:
        check(case)
