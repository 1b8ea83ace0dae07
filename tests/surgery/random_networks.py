"""Random small networks of all parts that surgery knows, and what the tests on them share."""

import sys

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

L, ops = keras.layers, keras.ops
WIDTHS = st.sampled_from([8, 12, 16, 24])


def some(networks):
    """The same networks every time, ten times as many with --slow.

    No search for a smaller one that fails too, which takes minutes.
    """
    return settings(
        max_examples=networks * (10 if "--slow" in sys.argv else 1),
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


# === Parts: tensor in, tensor out ===


@st.composite
def convolution(draw, x):
    kind = draw(st.sampled_from(["plain", "strided", "dilated", "grouped", "depthwise", "separable", "transposed"]))
    width, options = (
        draw(WIDTHS),
        {"padding": draw(st.sampled_from(["same", "valid"])), "use_bias": draw(st.booleans())},
    )
    if min(x.shape[1:3]) < 5:
        options["padding"] = "same"
    if kind == "strided":
        options["strides"] = 2 if min(x.shape[1:3]) > 4 else 1
    if kind == "dilated":
        options["dilation_rate"] = 2
    if kind == "grouped":
        options["groups"] = 4
    if kind == "depthwise":
        return L.DepthwiseConv2D(3, depth_multiplier=draw(st.sampled_from([1, 2])), **options)(x)
    if kind == "separable":
        return L.SeparableConv2D(width, 3, depth_multiplier=draw(st.sampled_from([1, 2])), **options)(x)
    if kind == "transposed":
        return L.Conv2DTranspose(width, 3, strides=1, **options)(x)
    return L.Conv2D(width, 3, **options)(x)


@st.composite
def elementwise(draw, x):
    return draw(
        st.sampled_from(
            [
                L.BatchNormalization,
                L.LayerNormalization,
                lambda: L.GroupNormalization(4),
                L.ReLU,
                lambda: L.PReLU(shared_axes=[1, 2]),
                L.PReLU,
                lambda: L.Activation("swish"),
                lambda: L.Dropout(0.3, seed=0),
                lambda: L.ZeroPadding2D(1),
                lambda: L.MaxPooling2D(2, 1, padding="same"),
                lambda: L.AveragePooling2D(3, 1, padding="same"),
                lambda: L.UpSampling2D(1),
            ]
        )
    )()(x)


@st.composite
def function(draw, x):
    """Activations and arithmetic as functions."""
    functions = [ops.relu6, ops.silu, ops.tanh, lambda x: -x, lambda x: 0.5 * x + 0.1, lambda x: ops.clip(x, -1.0, 1.0)]
    return draw(st.sampled_from(functions))(x)


@st.composite
def axes(draw, x):
    """Layers whose configuration names axes or channels."""
    size, width = x.shape[1], x.shape[-1]
    return draw(
        st.sampled_from(
            [
                lambda: L.LayerNormalization(axis=[1, 2, 3]),
                lambda: L.BatchNormalization(axis=1),
                lambda: L.Softmax(axis=1),
                lambda: L.UnitNormalization(axis=[1, 2]),
                lambda: L.PReLU(shared_axes=[3]),
                lambda: L.Dropout(0.3, noise_shape=(None, 1, 1, width), seed=0),
                lambda: L.Dropout(0.3, noise_shape=(None, size, 1, 1), seed=0),
                lambda: L.Reshape((-1, x.shape[2], width)),
            ]
        )
    )()(x)


@st.composite
def residual(draw, x):
    width = x.shape[-1]
    branch = L.BatchNormalization()(L.Conv2D(draw(WIDTHS), 3, padding="same")(x))
    branch = L.Conv2D(width, 3, padding="same")(L.ReLU()(branch))
    shortcut = L.Conv2D(width, 1)(x) if draw(st.booleans()) else x
    return shortcut + branch if draw(st.booleans()) else L.Add()([shortcut, branch])


@st.composite
def split(draw, x):
    """Parts of a tensor, one of them bypassed, in another order or left out; along channels or rows."""
    if draw(st.integers(0, 3)) == 0 and x.shape[1] > 1:
        return ops.concatenate(ops.split(x, [1], axis=1)[::-1], axis=1)
    ends = draw(st.sampled_from([2, [x.shape[-1] // 4], [2, x.shape[-1] // 2]]))
    first, *others = ops.split(x, ends, axis=-1)
    y = L.Conv2D(others[0].shape[-1], 3, padding="same")(first) + others[0]
    return L.Concatenate()([*others[1:], y, first] if draw(st.booleans()) else [y, others[-1]])


@st.composite
def concatenation(draw, x):
    branches = [L.Conv2D(draw(WIDTHS), draw(st.sampled_from([1, 3])), padding="same")(x) for _ in range(2)]
    return L.Concatenate()([x, *branches] if draw(st.booleans()) else branches)


@st.composite
def squeeze_and_excitation(draw, x):
    pooled = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(draw(WIDTHS), 1, activation="relu")(pooled)
    return L.Multiply()([x, L.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)])


@st.composite
def gate(draw, x):
    """One gate for each place, or two gates from one reshape."""
    if draw(st.booleans()):
        return x * L.Conv2D(1, 1, activation="sigmoid")(x)
    reshape = L.Reshape((1, 1, x.shape[-1]))
    gates = [reshape(pool()(x)) for pool in (L.GlobalAveragePooling2D, L.GlobalMaxPooling2D)]
    return x * ops.sigmoid(L.Conv2D(x.shape[-1], 1)(L.Add()(gates)))


@st.composite
def nested(draw, x):
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, draw(elementwise(draw(convolution(inputs)))))(x)


@st.composite
def shared(draw, x):
    """One convolution called several times."""
    layer = L.Conv2D(x.shape[-1], 3, padding="same")
    for _ in range(draw(st.integers(2, 3))):
        x = L.ReLU()(layer(x))
    return x


PARTS = [
    convolution,
    convolution,
    elementwise,
    elementwise,
    function,
    axes,
    residual,
    split,
    concatenation,
    squeeze_and_excitation,
    gate,
    nested,
    shared,
]


@st.composite
def networks(draw):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, padding="same")(inputs)
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=5)):
        x = draw(part(x))
    x = L.Conv2D(draw(WIDTHS), 3, padding="same", activation="relu")(x)
    x = L.Flatten()(x) if draw(st.booleans()) else L.GlobalAveragePooling2D()(x)
    if draw(st.booleans()):
        x = L.Dense(16, activation="relu")(x)
    outputs = [L.Dense(classes)(x) for classes in draw(st.sampled_from([(3,), (3, 4)]))]
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])


def randomise(network, seed=0):
    """Random weights and statistics in place of the zeros and ones that networks start with."""
    rng = np.random.default_rng(seed)
    for variable in network.weights:
        low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "moving_variance")) else (-0.3, 0.3)
        if variable.dtype == "float32":
            variable.assign(rng.uniform(low, high, variable.shape))
    return network


def values(network, x):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(network(x, training=False))]


def check_close(ours, theirs):
    """Equal outputs, to 1e-5 of the largest."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))
