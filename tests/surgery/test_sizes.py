"""Networks for images of any size: one message wherever a size has to be known, with a remedy that works."""

import keras
import numpy as np
import pytest

from tfjointrd import JointRD, adjoin, export, remove_shortcuts, report, search
from tfjointrd.surgery import read_graph

L = keras.layers


def any_size():
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for stage in (1, 2):
        z = L.Conv2D(8 * stage, 3, padding="same", name=f"stage{stage}_conv")(x)
        x = x if stage == 1 else L.Conv2D(16, 1, name="stage2_shortcut")(x)
        x = L.ReLU(name=f"stage{stage}_relu")(L.Add(name=f"stage{stage}_add")([x, z]))
        x = L.MaxPooling2D(name=f"stage{stage}_pool")(x)
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)), name="any_size")


WAYS = {
    "adjoin": lambda network, path: adjoin(network, 2, round_to=1),
    "search": lambda network, path: search(network, (1, 2), (), round_to=1),
    "JointRD": lambda network, path: JointRD(remove_shortcuts(network), network),
    "profile": lambda network, path: report.profile(network),
    "tflite": lambda network, path: export.tflite(network, path / "any.tflite"),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_message_and_its_remedy(way, tmp_path):
    if way == "tflite" and keras.backend.backend() != "tensorflow":
        pytest.skip("files are written on TensorFlow")
    network = any_size()
    expected = r"Expected a network of known image size, .* Received: '.*any_size', where .* has the shape \(None, None"
    with pytest.raises(ValueError, match=expected) as error:
        WAYS[way](network, tmp_path)
    _, found, rest = str(error.value).partition("keras.Sequential(")
    remedy = eval(found + rest.rstrip("`."), {"keras": keras, "network": network})
    assert WAYS[way](remedy, tmp_path) is not None


def test_a_part_of_a_graph():
    graph = read_graph(any_size())
    add = next(call for call in graph.calls if call.layer == "stage1_add")
    part = graph.until(add.output)
    assert [call.layer for call in part.calls][1:] == ["stem", "stage1_conv", "stage1_add"]
    assert part.layers.keys() == {call.layer for call in part.calls}
    model = part.assemble(lambda call, *args, **kwargs: part.sources[call.layer](*args, **kwargs), part.sources)
    assert model(np.zeros((1, 6, 6, 3))).shape == (1, 6, 6, 8)
