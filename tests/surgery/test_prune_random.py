"""Pruning and sorting of random networks, of every kind of part that surgery knows."""

import keras
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from random_networks import check_close, networks, randomise, some, values
from test_prune import masked

from tfjointrd import report, slim, sort_channels
from tfjointrd.surgery import prune_architecture


@some(12)
@given(
    model=networks(),
    importance=st.sampled_from(["l1", "l2", "fpgm", "lamp", "nisp", "random"]),
    ratio=st.sampled_from([0.3, 0.6]),
    scope=st.sampled_from(["global", "layer"]),
    round_to=st.sampled_from([1, 4]),
)
def test_pruning_equals_masking_and_sorting_nothing(model, importance, ratio, scope, round_to):
    randomise(model, seed=1)
    x = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype("float32")
    check_close(values(sort_channels(model, importance), x), values(model, x))
    try:
        found = prune_architecture(model, importance, ratio=ratio, scope=scope, round_to=round_to)
    except ValueError as error:
        assume("that can be pruned" not in str(error))
        raise
    small = slim(model, found["kept"])
    costs = report.profile(small)
    assert (costs.macs, costs.parameters) == (found["macs"], found["parameters"])
    if not any(isinstance(layer, keras.layers.LayerNormalization) for layer in model._flatten_layers()):
        check_close(values(small, x), values(masked(model, found["kept"]), x))
