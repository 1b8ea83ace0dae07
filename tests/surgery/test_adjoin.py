"""Adjoined networks and what comes out of them again."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, models, remove_shortcuts, report
from tfjointrd.surgery import Graph
from tfjointrd.surgery.adjoin import compact, stem_and_first_stage
from tfjointrd.surgery.patterns import matching

OWN = [name for name in models.__all__ if name not in ("cifar_resnet", "imagenet_resnet", "wide_resnet", "xresnet")]
CIFAR = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]
APPLICATIONS = ["DenseNet121", "MobileNetV2", "ResNet50V2"]


def build(name):
    if name in APPLICATIONS:
        return getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    size = 32 if name in CIFAR or name.startswith("wide") else 64
    return getattr(models, name)(num_classes=10, input_shape=(size, size, 3))


def run(model, x):
    """The outputs in inference mode, eagerly: for one batch that is much faster than tracing a large network."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))


def check_close(ours, theirs, tolerance):
    scale = max(1.0, np.abs(theirs).max())
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)


def check_exact(model, alpha, randomise, tolerance=1e-5, **kwargs):
    """`full()` and `small()` compute the adjoined network's own p and q, and p is what the network computed before."""
    randomise(model)
    pair = adjoin(model, alpha, **kwargs)
    x = np.random.default_rng(1).uniform(0, 255, size=(2, *model.input_shape[1:])).astype("float32")
    check_close(run(pair, x)["full"], run(model, x), tolerance)
    randomise(pair.network, seed=7)  # the two paths' batch normalisations part in training
    outputs, small = run(pair, x), pair.small()
    for path, network in (("full", pair.full()), ("small", small)):
        check_close(run(network, x), outputs[path], tolerance)
        assert np.std(outputs[path]) > 0
        assert all(type(layer).__module__.startswith("keras.") for layer in network.layers if layer.weights)
    assert small.count_params() < model.count_params()
    return pair, small


@pytest.mark.parametrize("name", [*OWN, *APPLICATIONS])
def test_every_network_comes_out_exact(name, randomised):
    check_exact(build(name), 2, randomised)


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("alpha", [4, 16])
def test_both_shortcut_types(shortcut, alpha, randomised):
    _, small = check_exact(models.resnet20(shortcut=shortcut), alpha, randomised)
    assert small.get_layer("stage3_block2_conv1").filters == 64 // alpha


def test_plain_networks_stay_full_in_the_same_layers(randomised):
    """`adjoin(remove_shortcuts(net))`: narrow and free of shortcuts."""
    for model in (models.resnet20(), models.xresnet18(num_classes=10, input_shape=(64, 64, 3))):
        residual, plain = (adjoin(m, 2).small() for m in (model, remove_shortcuts(model)))
        for layer in plain.layers:
            if hasattr(layer, "filters"):
                assert layer.filters == residual.get_layer(layer.name).filters
        check_exact(remove_shortcuts(model), 2, randomised)


def test_a_users_own_network(residual, randomised):
    check_exact(residual, 4, randomised)
    check_exact(residual, 2, randomised, keep=())


def test_nested_and_sequential_networks(randomised):
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(randomised(base)(inputs))
    check_exact(keras.Model(inputs, keras.layers.Dense(4)(x)), 2, randomised)
    layers = [keras.Input((16, 16, 3))]
    for filters in (8, 8, 16, 16):
        layers += [keras.layers.Conv2D(filters, 3, strides=filters // 8, padding="same"), keras.layers.PReLU()]
    head = [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(12), keras.layers.Dense(3)]
    with pytest.raises(ValueError, match="is a PReLU, which has weights but no adjoined form"):
        adjoin(keras.Sequential([*layers, *head]), 2)
    layers = [layer for layer in layers if not isinstance(layer, keras.layers.PReLU)]
    check_exact(keras.Sequential([*layers, *head]), 2, randomised)


def test_the_trunk_is_computed_once():
    model = models.resnet20()
    network = adjoin(model, 2).network
    trunk = [layer for layer in network.layers if layer.name.startswith(("stem", "stage1"))]
    assert len(trunk) == sum(layer.name.startswith(("stem", "stage1")) for layer in model.layers)
    for layer in trunk:
        assert layer.output.shape == model.get_layer(layer.name).output.shape  # one tensor, not a pair
    assert {layer.name for layer in network.layers if layer.name.endswith("_small")} == {
        "stage2_block1_conv1_small",
        "stage2_block1_shortcut_conv_small",
    }


def test_what_stays_full():
    patterns = ["stem*", "stage1*"]
    for name in ("resnet20", "xresnet50", "wide_resnet18"):
        graph = Graph.of(build(name))
        expected = {layer for layer in matching(graph.layers, patterns) if layer in graph.kernel_layers()}
        assert set(stem_and_first_stage(graph)) & graph.kernel_layers() == expected
    mobile = keras.applications.MobileNetV3Small(weights=None, classes=3, input_shape=(96, 96, 3))
    stays = stem_and_first_stage(Graph.of(mobile))  # `x + 3` in its activations is no merge
    assert "expanded_conv_2_add" in stays and "expanded_conv_3_expand" not in stays
    vgg = Graph.of(keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3))
    assert stem_and_first_stage(vgg)[1:] == ["block1_conv1", "block1_conv2"]
    small = adjoin(models.resnet20(), 4, keep=["stem_conv", "stage3_*"]).small()
    assert small.get_layer("stage1_block1_conv1").filters == 4
    assert small.get_layer("stage2_block1_conv2").filters == 8
    assert small.get_layer("stage3_block1_conv2").filters == 64


def test_kept_positions_as_numbers_or_lists():
    assert compact(range(4)) == 4
    assert compact(np.array([0, 2])) == [0, 2]


def test_the_source_network_is_not_changed():
    model = models.resnet20()
    before = [w.copy() for w in model.get_weights()]
    pair = adjoin(model, 2)
    for variable in pair.trainable_variables:
        variable.assign(keras.ops.zeros_like(variable))
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("alpha", [0, 1, -2, 2.0, True, None, "2"])
def test_alpha_has_to_be_a_whole_number_from_two_on(alpha):
    with pytest.raises(ValueError, match=f"Expected `alpha` .*Received: alpha={alpha}"):
        adjoin(models.resnet20(), alpha)


def test_requests_that_cannot_be_met(residual):
    with pytest.raises(ValueError, match="Received: alpha=64, and layer 'stage2_block1_conv1' has 32"):
        adjoin(models.resnet20(), 64)
    with pytest.raises(ValueError, match="Received: 'stage9_\\*', no match"):
        adjoin(models.resnet20(), 2, keep=["stage9_*"])
    with pytest.raises(ValueError, match="covers every layer"):
        adjoin(models.resnet20(), 2, keep=["*"])
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Conv2D(4, 1)(inputs)
    with pytest.raises(ValueError, match="Received: .* with 2 outputs"):
        adjoin(keras.Model(inputs, [outputs, outputs]), 2)

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional keras.Model"):
        adjoin(Own(), 2)


def test_a_kernel_called_twice_has_no_adjoined_form():
    inputs = keras.Input((8, 8, 4))
    conv = keras.layers.Conv2D(4, 1, name="twice")
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(conv(conv(keras.layers.Conv2D(4, 1)(inputs)))))
    with pytest.raises(ValueError, match="'twice' has weights and is called more than once"):
        adjoin(model, 2, keep=())


def test_small_networks_report(residual):
    pair = adjoin(residual, 2)
    assert report.profile(pair.small()).macs < report.profile(pair.full()).macs == report.profile(residual).macs
