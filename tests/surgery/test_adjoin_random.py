"""Random small networks of all parts that surgery knows: what comes out computes what trained."""

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tfjointrd import adjoin, report, search
from tfjointrd.surgery.read_graph import read_graph

L = keras.layers
WIDTHS = st.sampled_from([8, 12, 16, 24])


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
def residual(draw, x):
    width = x.shape[-1]
    branch = L.BatchNormalization()(L.Conv2D(draw(WIDTHS), 3, padding="same")(x))
    branch = L.Conv2D(width, 3, padding="same")(L.ReLU()(branch))
    shortcut = L.Conv2D(width, 1)(x) if draw(st.booleans()) else x
    return shortcut + branch if draw(st.booleans()) else L.Add()([shortcut, branch])


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
    residual,
    concatenation,
    squeeze_and_excitation,
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


def randomise(network, seed):
    """Random weights and statistics in place of the zeros and ones that networks start with."""
    rng = np.random.default_rng(seed)
    for variable in network.weights:
        low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "moving_variance")) else (-0.3, 0.3)
        if variable.dtype == "float32":
            variable.assign(rng.uniform(low, high, variable.shape))


def values(network, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(network(x, training=False))]


def some(networks):
    """The same networks every time, and no search for a smaller one that fails too, which takes minutes."""
    return settings(
        max_examples=networks,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@some(20)
@given(
    model=networks(),
    alphas=st.sampled_from([(2,), (4,), (2, 4), (1.5,)]),
    round_to=st.sampled_from([1, 4]),
    full=st.integers(0, 3),
    statistics=st.sampled_from(["separate", "shared"]),
)
def test_small_networks_compute_what_trained(model, alphas, round_to, full, statistics):
    """`full` layers from the input on stay as they are."""
    graph = read_graph(model)
    keep = [name for name in graph.layers if name in graph.kernel_layers()][:full]
    try:
        pair = adjoin(model, alphas=alphas, keep=keep, round_to=round_to, batch_normalization=statistics)
    except ValueError as error:
        assume("nothing to drop" not in str(error) and "does not depend on any layer" not in str(error))
        raise
    randomise(pair.network, seed=1)
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype("float32")
    outputs = pair(x, training=False)
    for path, network in (("full", pair.full()), *((f"small_a{alpha:g}", pair.small(alpha)) for alpha in alphas)):
        expected = [outputs[key] for key in outputs if key.startswith(path)]
        found = dict(zip(pair.output_keys(path), values(network, x), strict=True))
        assert len(expected) == len(found)
        for key, value in found.items():
            wanted = keras.ops.convert_to_numpy(outputs[key])
            np.testing.assert_allclose(value, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))
        if path != "full":
            assert network.count_params() < model.count_params()


@some(10)
@given(model=networks(), alphas=st.sampled_from([(1, 2, 4), (2, 4)]), ties=st.sampled_from(["shared", "free"]))
def test_searching_networks_compute_what_is_chosen(model, alphas, ties):
    dan = search(model, alphas, (), round_to=1, ties=ties, gamma=0.0)
    randomise(dan.network, seed=1)
    logits = np.random.default_rng(2).normal(size=dan.gates.eta.shape)
    dan.gates.eta.assign(logits)
    x = np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("float32")
    outputs, small = dan(x, training=False), dan.small()
    for key, value in zip(dan.output_keys("small"), values(small, x), strict=True):
        wanted = keras.ops.convert_to_numpy(outputs[key])
        np.testing.assert_allclose(value, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))
    costs = report.profile(small)
    assert (costs.macs, costs.parameters) == tuple(dan.architecture()[key] for key in ("macs", "parameters"))
