"""Which branch of an addition is the main one, what is a shortcut beside it, and what is neither."""

import keras
import numpy as np
import pytest

from tfjointrd import models, remove_shortcuts
from tfjointrd.surgery import read_graph, shortcut_report
from tfjointrd.surgery.shortcuts import RemovedShortcut, shortcuts

L, ops = keras.layers, keras.ops


def conv(x, name, size=3, strides=1):
    return L.Conv2D(4, size, strides, padding="same", name=name)(x)


def gated(x, name):
    squeezed = L.Dense(2, "relu", name=f"{name}_squeeze")(L.GlobalAveragePooling2D()(x))
    gate = L.Reshape((1, 1, 4))(L.Dense(4, "sigmoid", name=f"{name}_excite")(squeezed))
    return L.Multiply(name=name)([x, gate])


def network(function, size=32):
    """What `function` makes of 4 channels, with a classifier behind it."""
    inputs = keras.Input((size, size, 3))
    outputs = function(conv(inputs, "stem"))
    pooled = [L.GlobalAveragePooling2D()(y) for y in (outputs if isinstance(outputs, list) else [outputs])]
    return keras.Model(inputs, L.Dense(3, name="head")(L.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]))


def mains(model, **options):
    """Addition -> the layers that its branches end in that are left, or the reason why it stays."""
    report = shortcut_report(model, **options)
    return {name: one.main if isinstance(one, RemovedShortcut) else one for name, one in report.items()}


def pyramid(x):
    """A feature pyramid, with residual blocks in what leads to it."""
    c3 = L.Add(name="block3")([x, conv(conv(x, "c3a"), "c3b")])
    c4 = L.Add(name="block4")([conv(c3, "c4_shortcut", 1, 2), conv(conv(c3, "c4a", 3, 2), "c4b")])
    c5 = conv(conv(c4, "c5a", 3, 2), "c5b")
    p5 = conv(c5, "lateral5", 1)
    p4 = L.Add(name="p4")([conv(c4, "lateral4", 1), L.UpSampling2D()(p5)])
    p3 = L.Add(name="p3")([conv(c3, "lateral3", 1), L.UpSampling2D()(p4)])
    n4 = L.Add(name="n4")([p4, conv(p3, "down", 3, 2)])  # PANet's path back
    return [conv(p, f"out{number}") for number, p in enumerate((p3, n4, p5))]


def u_net(x):
    y = conv(conv(x, "down", 3, 2), "low")
    y = L.Conv2DTranspose(4, 2, 2, name="up")(L.Add(name="block")([y, conv(y, "inner")]))
    return L.Add(name="skip")([x, y])


def convnext(x):
    y = L.LayerNormalization(name="norm")(L.DepthwiseConv2D(7, padding="same", name="depthwise")(x))
    y = L.Dense(4, name="narrow")(L.Dense(16, "gelu", name="wide")(y))
    return L.Add(name="add")([x, LayerScale(name="scale")(y)])


def normalizer_free(x):
    """Two blocks of an NFNet: scaled activations, a projection behind pooling, a gate, a factor, no normalisation."""
    for number in range(2):
        y = keras.activations.gelu(x) * 0.9
        shortcut = x if number else conv(L.AveragePooling2D(2)(y), "projection", 1)
        y = conv(conv(y, f"a{number}", 1), f"b{number}", 3, 1 if number else 2)
        x = L.Add(name=f"add{number}")([shortcut, 0.2 * (2.0 * gated(y, f"gate{number}"))])
    return x


def high_resolution(x):
    """Two resolutions that exchange what they have, as in an HRNet."""
    low = conv(conv(conv(x, "low0", 3, 2), "low1"), "low2")
    high = conv(conv(x, "high1"), "high2")
    up = L.UpSampling2D()(conv(low, "up", 1))
    return [L.Add(name="to_high")([high, up]), L.Add(name="to_low")([low, conv(high, "down", 3, 2)])]


@keras.saving.register_keras_serializable("tests")
class LayerScale(L.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],), initializer=keras.initializers.Constant(1e-6))

    def call(self, x):
        return x * self.gamma


BOTH = "its branches have {} convolutions or dense layers"
LOST = "its other branches bring in what the deepest has not, or has lost"


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: L.Add(name="add")([conv(x, "main"), gated(x, "gate")]), {"add": ("main",)}),
        (lambda x: L.Add(name="add")([x, gated(conv(x, "inner"), "main")]), {"add": ("main",)}),
        (lambda x: L.Add(name="add")([x, gated(x, "gate")]), {"add": BOTH.format("0 and 0")}),
        (pyramid, {"block3": ("c3b",), "block4": ("c4b",), "p4": LOST, "p3": LOST, "n4": LOST}),
        (u_net, {"block": ("inner",), "skip": LOST}),
        (lambda x: L.Add(name="add")([x, conv(x, "a"), conv(x, "b", 5)]), {"add": ("a", "b")}),
        (lambda x: L.Add(name="add")([x, conv(x, "a", 1), conv(conv(x, "b"), "c")]), {"add": ("c",)}),
        (
            lambda x: L.Add(name="add")([conv(conv(x, "a"), "b"), conv(conv(conv(x, "c"), "d"), "e")]),
            {"add": BOTH.format("2 and 3")},
        ),
        (convnext, {"add": ("scale",)}),
        (normalizer_free, {"add0": None, "add1": None}),  # the main branch ends in an operator
        (high_resolution, {"to_high": BOTH.format("2 and 4"), "to_low": BOTH.format("3 and 3")}),
        (
            lambda x: L.Add(name="add")([conv(x, "a"), L.Dense(4)(L.GlobalAveragePooling2D(keepdims=True)(x))]),
            {"add": LOST},
        ),
        (
            lambda x: L.Add(name="add")(
                [conv(L.UpSampling2D(name="x2")(x), "s", 1), conv(L.UpSampling2D()(conv(x, "a")), "b")]
            ),
            {"add": ("b",)},
        ),
        (
            lambda x: L.Add(name="add")([L.MaxPooling2D()(x), L.Conv2D(4, 3, 2, name="main")(L.ZeroPadding2D(1)(x))]),
            {"add": ("main",)},
        ),
    ],
    ids=[
        *("gate beside", "gate behind", "gate alone", "pyramid", "u-net", "three with two mains", "three with one"),
        *("deep branches", "convnext", "nfnet", "hrnet", "broadcast", "upsampling block", "padded"),
    ],
)
def test_branches(function, expected):
    model = network(function)
    found = mains(model)
    for name, value in expected.items():
        assert found[name] == value or (value is None and len(found[name]) == 1)
    removed = [name for name, one in found.items() if isinstance(one, tuple)]
    assert shortcuts(read_graph(model)) == removed
    if removed:
        plain = remove_shortcuts(model)
        assert [one.addition for one in plain.removed] == removed
        assert shortcuts(read_graph(plain)) == []
        assert plain(np.zeros((1, 32, 32, 3))).shape == (1, 3)
    else:
        with pytest.raises(ValueError, match="to have a shortcut .*with none. 'add' stays: its|'to_high' stays"):
            remove_shortcuts(model)


def test_pyramids_for_images_of_any_size():
    """Resolutions are those of some image."""
    inputs = keras.Input((None, None, 4))
    outputs = [L.GlobalAveragePooling2D()(y) for y in pyramid(inputs)]
    found = mains(keras.Model(inputs, outputs))
    assert found == {"block3": ("c3b",), "block4": ("c4b",), "p4": LOST, "p3": LOST, "n4": LOST}


def test_branches_from_other_inputs_are_no_shortcuts():
    images = [keras.Input((8, 8, 4)) for _ in range(2)]
    model = keras.Model(images, L.Add(name="meet")([conv(conv(images[0], "a"), "b"), images[1]]))
    assert mains(model) == {"meet": LOST}


def test_maps_of_one_pixel():
    """Where the addition is there, all layers count."""
    inputs = keras.Input((1, 1, 4))
    model = keras.Model(inputs, L.Add(name="add")([inputs, conv(conv(inputs, "a"), "b")]))
    assert mains(model) == {"add": ("b",)}
    vector = keras.Input((4,))
    model = keras.Model(vector, L.Add(name="add")([vector, L.Dense(4, name="b")(L.Dense(4)(vector))]))
    assert mains(model) == {"add": ("b",)}


def test_what_was_removed_is_listed():
    model = network(
        lambda x: L.Add(name="add")([conv(conv(x, "a", 3, 2), "b"), L.ReLU(name="relu")(conv(x, "s", 1, 2))])
    )
    expected = RemovedShortcut("add", ("b",), ("relu",), ("s", "relu"))
    plain = remove_shortcuts(model)
    assert shortcut_report(model) == {"add": expected} and plain.removed == (expected,)
    assert shortcut_report(model, keep_projections=True) == {"add": "keep_projections"}
    gone = {layer.name for layer in model.layers} - {layer.name for layer in plain.layers}
    assert gone == set(plain.removed[0].layers) | {"add"}


def test_identities_go_where_projections_stay():
    model = network(lambda x: L.Add(name="add")([x, conv(x, "s", 1), conv(conv(x, "a"), "b")]))
    assert mains(model, keep_projections=True) == {"add": ("s", "b")}
    plain = remove_shortcuts(model, keep_projections=True)
    assert len(plain.get_layer("add").input) == 2


def test_users_name_branches():
    model = network(lambda x: L.Add(name="fuse")([conv(x, "a"), conv(x, "b", 5)]))
    assert mains(model) == {"fuse": BOTH.format("1 and 1")}
    plain = remove_shortcuts(model, branches={"fu*": "b"})
    assert [layer.name for layer in plain.layers if isinstance(layer, L.Conv2D)] == ["stem", "b"]
    residual = models.resnet20()
    report = shortcut_report(residual, branches={"stage1_*": None, "stage2_block1_add": "stage2_block1_shortcut_conv"})
    assert report["stage1_block1_add"] == "`branches` keeps it"
    assert report["stage2_block1_add"].main == ("stage2_block1_shortcut_bn",)
    assert "stage2_block1_conv1" in report["stage2_block1_add"].layers
    kept = shortcut_report(residual, True, {"stage2_block1_add": "stage2_block1_conv1"})
    assert kept["stage2_block1_add"].main == ("stage2_block1_bn2",) and kept["stage3_block1_add"] == "keep_projections"


@pytest.mark.parametrize(
    "branches, message",
    [
        (
            {"add": "stem"},
            r"Expected `branches\['add'\]` to be a layer of one of its branches, which end in .*'stem', a",
        ),
        ({"add": "nobody"}, "Received: 'nobody', a layer of 0 of them"),
        ({"nobody": "a"}, "Expected `branches` to hold names .* Received: 'nobody', no match"),
        ({"add": "context"}, r"of the addition's own shape \(None, 32, 32, 4\). Received: 'context', whose branch has"),
        ("add", "Expected `branches` to be a dict"),
        ({"add": None}, "with none. 'add' stays: `branches` keeps it"),
    ],
)
def test_branches_that_are_not_there(branches, message):
    context = L.Dense(4, name="context")
    model = network(
        lambda x: L.Add(name="add")([conv(x, "a"), context(L.GlobalAveragePooling2D(keepdims=True)(x)), L.ReLU()(x)])
    )
    with pytest.raises(ValueError, match=message):
        remove_shortcuts(model, branches=branches)


def test_scales_that_let_nothing_pass_start_at_one():
    model = network(convnext)
    gamma = remove_shortcuts(model).get_layer("scale").gamma
    np.testing.assert_array_equal(ops.convert_to_numpy(gamma), np.ones(4))
    trained = np.array([0.5, -0.1, 1e-5, 0.0], "float32")
    model.get_layer("scale").gamma.assign(trained)
    np.testing.assert_array_equal(ops.convert_to_numpy(remove_shortcuts(model).get_layer("scale").gamma), trained)
