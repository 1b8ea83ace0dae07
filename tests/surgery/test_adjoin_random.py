"""Random small networks of all parts that surgery knows: what comes out computes what trained."""

import keras
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from random_networks import networks, randomise, some, values

from tfjointrd import adjoin, report, search
from tfjointrd.surgery.read_graph import read_graph


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
