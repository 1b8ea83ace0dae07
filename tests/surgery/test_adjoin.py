"""Adjoined networks and what comes out of them again."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, models, remove_shortcuts, report
from tfjointrd.surgery import IN, LayerSpec, pointwise, read_graph, register_rule
from tfjointrd.surgery.adjoined_graph import compact
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.rules import rule_for
from tfjointrd.surgery.widths import stem_and_first_stage

OWN = [
    *("resnet20", "wide_resnet18", "xresnet18"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet56", "resnet18", "resnet50", "xresnet50")),
]
CIFAR = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]
# Side of the images: the smallest that each takes. The first one has kinds of layers that the others have not.
APPLICATIONS = {"MobileNetV3Small": 32}
MORE = {
    "VGG16": 32,  # `test_nested_and_sequential_networks` has its kind of head
    "Xception": 71,  # `test_separable_convolutions` has its kind of block
    "MobileNet": 32,
    "MobileNetV2": 32,
    "EfficientNetV2B0": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
}
APPLICATIONS_AND_ALPHAS = [
    *((name, 2) for name in APPLICATIONS),
    *(pytest.param(name, 2, marks=pytest.mark.slow) for name in MORE),
    *(pytest.param(name, 4, marks=pytest.mark.slow) for name in (*APPLICATIONS, *MORE)),
]


def build(name):
    if name in APPLICATIONS or name in MORE:
        shape = (*[{**APPLICATIONS, **MORE}[name]] * 2, 3)
        return getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    size = 32 if name in CIFAR or name.startswith("wide") else 64
    return getattr(models, name)(num_classes=10, input_shape=(size, size, 3))


def resnet8(**options):
    """The smallest ResNet with the three stages of ResNet-20."""
    return models.cifar_resnet(8, num_classes=10, **options)


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


@pytest.mark.parametrize("name", OWN)
def test_our_networks_come_out_exact(name, randomised):
    check_exact(build(name), 2, randomised)


@pytest.mark.parametrize(("name", "alpha"), APPLICATIONS_AND_ALPHAS)
def test_keras_networks_come_out_exact_and_train(name, alpha, randomised):
    pair, small = check_exact(build(name), alpha, randomised)
    assert all(layer.filters % 8 == 0 for layer in small.layers[:-8] if hasattr(layer, "filters"))
    pair.compile("sgd", run_eagerly=True)
    pair.total_steps.assign(2)
    x = np.random.default_rng(2).uniform(0, 255, size=(2, *small.input_shape[1:])).astype("float32")
    logs = pair.train_on_batch(x, np.array([1, 3]), return_dict=True)
    assert np.isfinite(logs["loss"]) and np.isfinite(logs["small_kl"]) and int(pair.step) == 1


def test_separable_convolutions(randomised):
    """Blocks as Xception's: two separable convolutions beside a projection."""
    L = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, use_bias=False)(inputs)))
    for width in (32, 48):
        z = x
        for _ in range(2):
            z = L.SeparableConv2D(width, 3, padding="same", use_bias=False)(L.ReLU()(z))
            z = L.BatchNormalization()(z)
        shortcut = L.BatchNormalization()(L.Conv2D(width, 1, 2, padding="same", use_bias=False)(x))
        x = L.Add()([L.MaxPooling2D(3, 2, padding="same")(z), shortcut])
    _, small = check_exact(keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x))), 2, randomised)
    assert [layer.filters for layer in small.layers if isinstance(layer, L.SeparableConv2D)][-2:] == [24, 24]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("alpha", [4, 16])
def test_both_shortcut_types(shortcut, alpha, randomised):
    _, small = check_exact(resnet8(shortcut=shortcut), alpha, randomised, round_to=1)
    assert small.get_layer("stage3_block1_conv1").filters == 64 // alpha


@pytest.mark.parametrize("name", ["resnet20", pytest.param("xresnet18", marks=pytest.mark.slow)])
def test_plain_networks_stay_full_in_the_same_layers(name, randomised):
    """`adjoin(remove_shortcuts(net))`: narrow and free of shortcuts."""
    model = build(name)
    residual, plain = (adjoin(m, 2).small() for m in (model, remove_shortcuts(model)))
    for layer in plain.layers:
        if hasattr(layer, "filters"):
            assert layer.filters == residual.get_layer(layer.name).filters
    check_exact(remove_shortcuts(model), 2, randomised)


def test_a_users_own_network(residual, randomised):
    check_exact(residual, 4, randomised, round_to=1)
    check_exact(residual, 2, randomised, round_to=1, keep=())


def test_nested_and_sequential_networks(randomised):
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(randomised(base)(inputs))
    check_exact(keras.Model(inputs, keras.layers.Dense(4)(x)), 2, randomised)
    layers = [keras.Input((16, 16, 3))]
    for filters in (8, 8, 16, 16):
        layers += [keras.layers.Conv2D(filters, 3, strides=filters // 8, padding="same"), keras.layers.PReLU()]
    head = [keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(12), keras.layers.Dense(3)]
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
        graph = read_graph(build(name))
        expected = {layer for layer in matching(graph.layers, patterns) if layer in graph.kernel_layers()}
        assert set(stem_and_first_stage(graph)) & graph.kernel_layers() == expected
    mobile = keras.applications.MobileNetV3Small(weights=None, classes=3, input_shape=(96, 96, 3))
    stays = stem_and_first_stage(read_graph(mobile))  # `x + 3` in its activations is no merge
    assert "expanded_conv_2_add" in stays and "expanded_conv_3_expand" not in stays
    vgg = read_graph(keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=3))
    assert stem_and_first_stage(vgg)[1:] == ["block1_conv1", "block1_conv2"]
    small = adjoin(models.resnet20(), 4, keep=["stem_conv", "stage3_*"], round_to=1).small()
    assert small.get_layer("stage1_block1_conv1").filters == 4
    assert small.get_layer("stage2_block1_conv2").filters == 8
    assert small.get_layer("stage3_block1_conv2").filters == 64


def test_kept_positions_as_numbers_or_lists():
    assert compact(range(4)) == 4
    assert compact(np.array([0, 2])) == [0, 2]


def test_the_source_network_is_not_changed():
    model = resnet8()
    before = [w.copy() for w in model.get_weights()]
    pair = adjoin(model, 2)
    for variable in pair.trainable_variables:
        variable.assign(keras.ops.zeros_like(variable))
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("alpha", [0, 0.5, -2, True, "2", float("nan"), float("inf")])
def test_alpha_has_to_be_a_number_from_one_on(alpha):
    with pytest.raises(ValueError, match=f"Expected `alpha` to be a number from 1 on. Received: alpha={alpha!r}."):
        adjoin(resnet8(), alpha)


@pytest.mark.parametrize("round_to", [0, -8, 1.5, True, None])
def test_widths_are_rounded_to_whole_numbers(round_to):
    with pytest.raises(ValueError, match=f"Expected `round_to` .* Received: round_to={round_to!r}"):
        adjoin(resnet8(), 2, round_to=round_to)


def widths(model, names="*conv*"):
    layers = matching([layer.name for layer in model.layers], [names])
    return {name: model.get_layer(name).filters for name in layers if hasattr(model.get_layer(name), "filters")}


def test_alpha_layer_by_layer(randomised):
    model = models.resnet20()
    _, small = check_exact(model, {"stage2_*_conv1": 2, "stage3_*": 4, "stage3_block3_*": 8}, randomised)
    found, full = widths(small), widths(model)
    assert found.pop("stage2_block2_conv1") == 16 and found["stage2_block2_conv2"] == 32 == full["stage2_block2_conv2"]
    assert found["stage3_block1_conv1"] == 16 and found["stage3_block3_conv1"] == 8
    assert found["stage3_block1_conv2"] == 16  # tied to the others by additions: the widest one counts
    assert {name for name, width in found.items() if width < full[name]} == {
        name for name in found if name.startswith("stage3") or name.startswith("stage2") and name.endswith("conv1")
    }
    assert adjoin(model, {"stage3_*": 4}).kept_full["stage2_block1_conv1"] == "not in `alpha`"
    calls = []

    def alpha(name, width):
        calls.append((name, width))
        return 4 if width == 64 else 1

    by_function = adjoin(model, alpha)
    assert ("stage3_block1_conv1", 64) in calls
    assert set(widths(by_function.small(), "stage3*").values()) == {16}
    with pytest.raises(ValueError, match=r"Received: alpha=0.5 for layer 'stage3_block1_conv1'"):
        adjoin(model, {"stage3_*": 0.5})
    with pytest.raises(ValueError, match=r"`alpha` to hold names or patterns of layers. Received: 'stage9', no match"):
        adjoin(model, {"stage9": 2})


def test_widths_are_rounded(randomised):
    mobile = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3, alpha=0.35)
    for round_to, expected in ((8, 32), (1, 28), (16, 32)):
        small = adjoin(mobile, 2, round_to=round_to).small()
        assert small.get_layer("block_4_expand").filters == mobile.get_layer("block_4_expand").filters // 2 == 48
        assert small.get_layer("block_13_project").filters == expected
    _, small = check_exact(resnet8(), 1.6, randomised, round_to=1)
    assert small.get_layer("stage3_block1_conv1").filters == 40


def test_what_stays_full_is_listed():
    pair = adjoin(models.resnet20(), 8)
    reasons = pair.kept_full
    assert reasons["logits"] == "the network's output" and reasons["stem_conv"] == "stem or first stage"
    assert "stage2_block1_conv1" not in reasons  # 32 / 8 is rounded to 8
    reasons = adjoin(models.resnet20(), 1.2, keep=()).kept_full
    assert reasons["stage1_block1_conv1"] == "16 channels, alpha=1.2, round_to=8"
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, name="normalised")(keras.layers.Conv2D(32, 3, name="narrowed")(inputs))
    x = keras.layers.GroupNormalization(4, name="groups")(x)
    x = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    assert adjoin(keras.Model(inputs, x), 2, keep=()).kept_full == {
        "normalised": "'groups' needs them all",
        "head": "the network's output",
    }


@pytest.mark.parametrize("make", [lambda c, x: x * c, lambda c, x: keras.ops.multiply(x1=x, x2=c)])
@pytest.mark.parametrize("convert", [np.asarray, keras.ops.convert_to_tensor], ids=["array", "tensor"])
def test_channels_with_constants_of_their_own_stay(make, convert):
    L = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, name="before")(inputs)
    x = L.Conv2D(16, 3, name="after")(make(convert(np.linspace(0.5, 1.5, 16).astype("float32")), x))
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    pair = adjoin(model, 2, (), round_to=1)
    assert "needs them all" in pair.kept_full["before"] and pair.small().get_layer("after").filters == 8


def test_several_small_networks_from_one(randomised):
    model = randomised(resnet8())
    pair = adjoin(model, alphas=(2, 4, 8), round_to=1)
    assert pair.paths == ["full", "small_a2", "small_a4", "small_a8"]
    randomised(pair.network, seed=7)
    x = np.random.default_rng(1).uniform(0, 255, size=(2, 32, 32, 3)).astype("float32")
    outputs = run(pair, x)
    check_close(run(pair.full(), x), outputs["full"], 1e-5)
    for alpha in (2, 4, 8):
        small = pair.small(alpha)
        check_close(run(small, x), outputs[f"small_a{alpha}"], 1e-5)
        assert small.get_layer("stage3_block1_conv1").filters == 64 // alpha
        alone = adjoin(model, alpha, round_to=1).small()
        assert [w.shape for w in alone.get_weights()] == [w.shape for w in small.get_weights()]
    with pytest.raises(ValueError, match="Expected `alpha` to be one of 2, 4, 8. Received: alpha=None"):
        pair.small()
    with pytest.raises(ValueError, match="Expected `alpha` to be left out.*Received: alpha=2"):
        adjoin(model, 2).small(2)
    with pytest.raises(
        ValueError, match=r"one of `alpha`, `alphas` and `widths`. Received: alpha=2, alphas=\(2, 4\), widths=None"
    ):
        adjoin(model, 2, alphas=(2, 4))
    for alphas in ((), (2, 2), ({"stage2_*": 2}, {"stage3_*": 2})):
        with pytest.raises(ValueError, match=r"Expected `alphas` to be different numbers.*Received: alphas=\["):
            adjoin(model, alphas=alphas)


def test_a_kernel_called_twice(randomised):
    """Narrow with all its calls, or on the trunk with all."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    conv, norm = layers.Conv2D(16, 3, padding="same", name="twice"), layers.BatchNormalization(name="norm")
    x = layers.Conv2D(16, 1, name="first")(inputs)
    x = norm(conv(norm(conv(x))))
    x = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(layers.Conv2D(32, 3, name="last")(x)))
    model = keras.Model(inputs, x)
    for keep in ((), ["first"], ["first", "twice"]):
        _, small = check_exact(model, 2, randomised, keep=keep)
        assert small.get_layer("last").filters == 16
        assert small.get_layer("twice").filters == (16 if "first" in keep else 8)


def test_networks_with_several_outputs(randomised):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    trunk = layers.Conv2D(16, 3, activation="relu")(layers.Conv2D(16, 3, activation="relu")(inputs))
    pooled = layers.GlobalAveragePooling2D()(trunk)
    age, kind = layers.Dense(3, name="age")(pooled), layers.Dense(5, activation="softmax", name="kind")(pooled)
    for outputs, names in (([age, kind], ("age", "kind")), ({"z": age, "k": kind}, ("z", "k"))):
        model = randomised(keras.Model(inputs, outputs))
        pair = adjoin(model, 2, keep=())
        randomised(pair.network, seed=7)
        x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
        found = run(pair, x)
        assert set(found) == {f"{path}_{name}" for path in ("full", "small") for name in names}
        for path, network in (("full", pair.full()), ("small", pair.small())):
            expected = run(network, x)
            for name, value in expected.items() if isinstance(expected, dict) else zip(names, expected, strict=True):
                check_close(found[f"{path}_{name}"], value, 1e-5)


def test_a_nested_network_with_an_output_that_nobody_takes(randomised):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, name="first")(inputs)
    auxiliary = layers.Dense(4, name="auxiliary")(layers.GlobalAveragePooling2D()(x))
    base = keras.Model(inputs, [layers.Conv2D(16, 3, name="second")(x), auxiliary], name="base")
    outer = keras.Input((8, 8, 3))
    x, _ = base(outer)
    model = keras.Model(outer, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    _, small = check_exact(model, 2, randomised, keep=())
    assert "auxiliary" not in [layer.name for layer in small.layers]


def test_names_of_the_small_networks_own_layers_are_free(randomised):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, name="features")(inputs)
    x = layers.Conv2D(16, 3, name="features_small")(x)
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.Conv2D(32, 3)(x))))
    check_exact(model, 2, randomised, keep=["features_small", "features"])
    check_exact(model, 2, randomised, keep=["features"])


def test_layers_that_others_keep_full_are_listed():
    reasons = adjoin(models.resnet20(), 2, keep=["stage2_block1_conv2"]).kept_full
    assert reasons["stage2_block2_conv2"] == "tied to 'stage2_block1_conv2'"
    assert "stage2_block2_conv1" not in reasons and "stage3_block1_conv2" not in reasons


def test_renormalising_layers_and_augmentation_of_colours(randomised):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, name="conv")(layers.RandomContrast(0.1)(inputs))
    x = layers.ReLU()(layers.BatchNormalization(renorm=True, name="bn")(x))
    model = keras.Model(inputs, keras.ops.softmax(layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    pair, small = check_exact(model, 2, lambda network, **_: network, keep=())
    assert small.get_layer("bn").renorm_mean.shape == (8,) and pair.objective.tasks[0].ending == "softmax"


def test_probabilities_behind_other_layers(randomised):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3)(inputs))
    cast = layers.Activation("linear", dtype="float32")
    assert (
        adjoin(keras.Model(inputs, cast(layers.Dense(4, "softmax")(x))), 2, ()).objective.tasks[0].ending == "softmax"
    )
    assert adjoin(keras.Model(inputs, cast(layers.Dense(4)(x))), 2, ()).objective.tasks[0].ending is None
    for outputs in (cast(layers.Dense(4, "sigmoid")(x)), keras.ops.sigmoid(layers.Dense(4)(x))):
        (task,) = adjoin(keras.Model(inputs, outputs), 2, ()).objective.tasks
        assert (task.ending, task.kind) == ("sigmoid", "binary")


def test_requests_that_cannot_be_met(residual):
    with pytest.raises(ValueError, match="Received: alpha=64, and layer 'stage2_block1_conv1' has 32"):
        adjoin(resnet8(), 64, round_to=1)
    with pytest.raises(ValueError, match="Received: 'stage9_\\*', no match"):
        adjoin(resnet8(), 2, keep=["stage9_*"])
    for options in ({"keep": ["*"]}, {"alpha": 1}, {"round_to": 64}):
        with pytest.raises(ValueError, match="Received: nothing to drop for 'small'"):
            adjoin(resnet8(), **options)
    with pytest.raises(ValueError, match="Expected `batch_normalization` .* Received: batch_normalization='none'"):
        adjoin(residual, 2, round_to=1, batch_normalization="none")

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional keras.Model"):
        adjoin(Own(), 2)


def classifier(*layers, shape=(8, 8, 3)):
    head = [keras.layers.Flatten(), keras.layers.Dense(3, name="head")]
    return keras.Sequential([keras.Input(shape), *layers, *head])


def test_networks_that_have_no_adjoined_form():
    layers = keras.layers
    pair = adjoin(resnet8(), 2)
    for adjoined in (pair, pair.network):
        with pytest.raises(ValueError, match=r"not to be adjoined yet; take .*`full\(\)`.* Received: '"):
            adjoin(adjoined)
    function = layers.Lambda(lambda x: x + 1.0, name="mine")
    with pytest.raises(ValueError, match="Layer 'mine' is a Lambda.*Replace it by layers"):
        adjoin(classifier(layers.Conv2D(16, 3), function, layers.Conv2D(16, 3)))
    with pytest.raises(ValueError, match="Expected a network of images.*Received: .*whose input is .*None, 8"):
        adjoin(classifier(layers.Dense(16), shape=(8,)))
    attention = keras.Input((8, 8, 3))
    x = layers.MultiHeadAttention(2, 8, name="attention")(attention, attention)
    with pytest.raises(ValueError, match="Layer 'attention' is a MultiHeadAttention, and surgery does not know how"):
        adjoin(keras.Model(attention, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


def test_small_networks_report(residual):
    pair = adjoin(residual, 2, round_to=1)
    assert report.profile(pair.small()).macs < report.profile(pair.full()).macs == report.profile(residual).macs


def test_a_classic_network(randomised):
    """No two convolutions at one resolution, so that there is no first stage; two `Dense` layers are none."""
    L = keras.layers
    layers = [keras.Input((32, 32, 3)), L.Conv2D(32, 3, name="first", activation="relu"), L.MaxPooling2D()]
    layers += [L.Conv2D(64, 3, activation="relu"), L.MaxPooling2D(), L.Conv2D(64, 3, activation="relu"), L.Flatten()]
    model = keras.Sequential([*layers, L.Dense(64, activation="relu"), L.Dense(10)])
    _, small = check_exact(model, 2, randomised)
    assert [layer.filters for layer in small.layers if isinstance(layer, L.Conv2D)] == [16, 32, 32]
    multilayer = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(64, activation="relu"), L.Dense(10)])
    _, small = check_exact(multilayer, 2, randomised)
    assert small.layers[-2].units == 32


def test_a_base_for_images_of_any_size(randomised):
    base = keras.applications.MobileNetV2(include_top=False, weights=None, alpha=0.35)
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(base(inputs))))
    _, small = check_exact(model, 2, randomised)
    assert report.profile(small).parameters < 0.6 * report.profile(model).parameters
    image = keras.Input((None, None, 3))
    unknown = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(base(image))))
    with pytest.raises(ValueError, match="known image size, or `keep`.* Received: .*None, None, 3.*keras.Sequential"):
        adjoin(unknown, 2)


def test_outputs_of_one_shared_head(randomised):
    inputs = keras.Input((8, 8, 3))
    head = keras.layers.Dense(4, name="head")
    maps = [keras.layers.Conv2D(8, 3, name=name)(inputs) for name in ("a", "b")]
    model = keras.Model(inputs, [head(keras.layers.GlobalAveragePooling2D()(x)) for x in maps])
    pair = adjoin(randomised(model), 2, round_to=1, keep=())
    outputs = run(pair, np.ones((2, 8, 8, 3), "float32"))
    assert list(outputs) == ["full_head", "full_head_call2", "small_head", "small_head_call2"]
    first, second = run(model, np.ones((2, 8, 8, 3), "float32"))
    np.testing.assert_allclose(outputs["full_head"], first, atol=1e-5)
    np.testing.assert_allclose(outputs["full_head_call2"], second, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(shape[-1],))

    def call(self, x, inverse=False):
        return x / (self.factor + 2) if inverse else x * self.factor


def test_arguments_that_would_be_lost():
    register_rule(Scaled, pointwise({"factor": (IN,)}))
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(Scaled(name="scaled")(x, inverse=True))
    with pytest.raises(ValueError, match="layer 'scaled' of .* one tensor. Received: 1 tensors and inverse=True"):
        adjoin(keras.Model(inputs, keras.layers.Dense(3)(x)), 2, keep=(), round_to=1)


@keras.saving.register_keras_serializable("tests")
class OwnBatchNormalization(keras.layers.BatchNormalization):
    pass


def test_batch_normalisations_of_a_class_of_their_own(randomised):
    register_rule(OwnBatchNormalization, rule_for("x", LayerSpec(keras.layers.BatchNormalization, {"axis": -1})))
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(OwnBatchNormalization(name="own")(x))
    pair = adjoin(randomised(keras.Model(inputs, keras.layers.Dense(3)(x))), 2, keep=(), round_to=1)
    statistics = pair.network.get_layer("own").own["small"].get_weights()[2]
    pair.compile("sgd", run_eagerly=True)
    pair.total_steps.assign(2)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    pair.train_on_batch(images, np.array([0, 1, 2, 0]))
    assert np.abs(pair.network.get_layer("own").own["small"].get_weights()[2] - statistics).max() > 0
    check_close(run(pair.small(), images), run(pair, images)["small"], 1e-5)


def test_one_slope_for_all_channels(randomised):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for index in range(3):
        x = keras.layers.Conv2D(16, 3, name=f"conv{index}")(x)
        x = keras.layers.PReLU(shared_axes=[1, 2, 3], name=f"prelu{index}")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    _, small = check_exact(model, 2, randomised)
    assert small.get_layer("prelu2").alpha.shape == (1, 1, 1)
