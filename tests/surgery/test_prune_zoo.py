"""Every network that `adjoin` is tested on, pruned by every criterion."""

import keras
import numpy as np
import pytest
from test_adjoin import APPLICATIONS, MORE, build
from test_prune import check_close, masked, values

from tfjointrd import export, report, slim, sort_channels
from tfjointrd.surgery import channel_importance, prune_architecture
from tfjointrd.surgery.importance import HRank, importance_names

ZOO = ["resnet20", "resnet56", "resnet18", "resnet50", "wide_resnet18", "xresnet18", "xresnet50"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ZOO, *APPLICATIONS, *MORE])
def test_networks_of_the_zoo(name, randomised, tmp_path):
    """At 30 and 60 % of channels dropped: exact, counted as `profile` does, and converted to int8."""
    model = randomised(build(name))
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (4, *model.input_shape[1:])).astype("float32")
    data = x, rng.integers(0, 10, 4)
    outputs = values(model, x)
    check_close(values(sort_channels(model), x), outputs)
    scaled = any(getattr(layer, "gamma", None) is not None for layer in model.layers)
    for importance in set(importance_names()) - (set() if scaled else {"gamma"}):
        scores = channel_importance(model, HRank(images=1) if importance == "hrank" else importance, data)
        for ratio in (0.3, 0.6):
            found = prune_architecture(model, scores, ratio=ratio, scope="layer" if ratio == 0.3 else "global")
            small = slim(model, found["kept"])
            costs = report.profile(small)
            assert (costs.macs, costs.parameters) == (found["macs"], found["parameters"])
            assert costs.macs < 0.9 * found["full_macs"]
        check_close(values(small, x), values(masked(model, found["kept"]), x))
    export.tflite(small, tmp_path / "small.tflite", "int8", representative_data=x, min_agreement=0.0)
    keras.models.load_model(saved(small, tmp_path / "small.keras"))


def saved(model, path):
    model.save(path)
    return path
