import keras
import numpy as np
import pytest

from tfjointrd import models, remove_shortcuts


def additions(model):
    return sum(type(operation).__name__ == "Add" for operation in model.operations)


def test_no_addition_is_left_and_weights_survive(residual):
    plain = remove_shortcuts(residual)
    assert additions(residual) == 3 and additions(plain) == 0
    names = {layer.name for layer in plain.layers}
    assert "projection" not in names and "end" in names
    for layer in plain.layers:
        for ours, theirs in zip(layer.get_weights(), residual.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert plain.name == "plain_own"
    assert plain.output_shape == residual.output_shape


def test_the_plain_network_is_a_chain_of_the_main_branch(residual):
    plain = remove_shortcuts(residual)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    value = x
    for operation in plain.operations[1:]:  # each takes the one before
        value = operation(value)
    np.testing.assert_allclose(plain.predict_on_batch(x), keras.ops.convert_to_numpy(value), atol=1e-6)


def test_projections_can_stay(residual):
    kept = remove_shortcuts(residual, keep_projections=True)
    assert additions(kept) == 1
    assert kept.get_layer("projection").kernel.shape == (1, 1, 8, 16)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_own_networks(shortcut):
    model = models.resnet20(shortcut=shortcut)
    plain = remove_shortcuts(model)
    assert additions(plain) == 0
    assert not any("shortcut" in layer.name for layer in plain.layers)
    assert additions(remove_shortcuts(model, keep_projections=True)) == 2


@pytest.mark.parametrize("name, projections", [("ResNet50", 4), ("ResNet50V2", 7), ("MobileNetV2", 0)])
def test_applications(name, projections):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    assert additions(remove_shortcuts(model)) == 0
    assert additions(remove_shortcuts(model, keep_projections=True)) == projections


@pytest.mark.parametrize(
    "name, kept",
    [
        ("ResNet50", ["conv3_block1_add", "conv4_block1_add", "conv5_block1_add"]),
        ("ResNet50V2", ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out"]),  # by max pooling
        ("MobileNetV2", []),
    ],
)
def test_downsampling_shortcuts_can_stay(name, kept):
    """Those at the stages' beginnings, but not the first stage's, which only adds channels."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    plain = remove_shortcuts(model, keep_projections="downsampling")
    assert [layer.name for layer in plain.layers if isinstance(layer, keras.layers.Add)] == kept
    projections = [layer.name for layer in plain.layers if layer.name.endswith("_0_conv")]
    assert projections == [f"conv{stage}_block1_0_conv" for stage in (3, 4, 5) if name == "ResNet50"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_downsampling_shortcuts_of_own_networks(shortcut):
    """Every projection of a basic-block network downsamples."""
    plain = remove_shortcuts(models.resnet20(shortcut=shortcut), keep_projections="downsampling")
    assert additions(plain) == 2


def test_downsampling_of_an_unknown_size():
    inputs = keras.Input((None, None, 4))
    x = keras.layers.Conv2D(8, 3, 2, padding="same")(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, keras.layers.Add()([x, keras.layers.Conv2D(8, 1, 2)(inputs)]), name="any_size")
    with pytest.raises(ValueError, match="known image size.*'any_size', where layer"):
        remove_shortcuts(model, keep_projections="downsampling")


@pytest.mark.parametrize("value", ["all", None, 1])
def test_other_values_of_keep_projections(residual, value):
    with pytest.raises(ValueError, match=f"True, False or 'downsampling'. Received: keep_projections={value!r}"):
        remove_shortcuts(residual, keep_projections=value)


def test_nothing_but_what_stays():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(8, 3, 2, padding="same")(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, keras.layers.Add()([x, keras.layers.Conv2D(8, 1, 2)(inputs)]))
    for value, kind in ((True, "an identity shortcut"), ("downsampling", "a shortcut within a resolution")):
        with pytest.raises(ValueError, match=f"to have {kind} "):
            remove_shortcuts(model, keep_projections=value)
    assert additions(remove_shortcuts(model)) == 0


def test_nothing_to_remove():
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match="`model` to have a shortcut .*Received: 'vgg16'"):
        remove_shortcuts(model)
    inputs = keras.Input((4, 4, 3))
    branches = [keras.layers.Conv2D(2, 1)(inputs) for _ in range(2)]
    with pytest.raises(ValueError, match="shortcut"):  # two equally deep branches are not a shortcut
        remove_shortcuts(keras.Model(inputs, keras.layers.Add()(branches)))


def test_gammas_of_zero_would_let_nothing_pass():
    model = models.xresnet18(num_classes=3, input_shape=(32, 32, 3))
    assert not np.any(model.get_layer("stage2_block1_bn2").gamma.numpy())
    plain = remove_shortcuts(model)
    assert np.all(keras.ops.convert_to_numpy(plain.get_layer("stage2_block1_bn2").gamma) == 1)
    x = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    assert np.std(plain.predict_on_batch(x), axis=0).min() > 0


def test_stochastic_depth_goes_with_the_shortcut():
    model = keras.applications.EfficientNetV2B0(weights=None, classes=3, input_shape=(32, 32, 3))
    drops = [layer.name for layer in model.layers if getattr(layer, "noise_shape", None)]
    plain = remove_shortcuts(model)
    assert drops and not any(getattr(layer, "noise_shape", None) for layer in plain.layers)
    assert any(isinstance(layer, keras.layers.Dropout) for layer in plain.layers)  # the head's stays


def test_a_users_own_stochastic_depth_goes_too():
    class DropPath(keras.layers.Layer):
        def call(self, x, training=None):
            return keras.random.dropout(x, 0.5, noise_shape=(None, 1, 1, 1)) if training else x

    inputs = keras.Input((8, 8, 4))
    branch = DropPath(name="drop")(keras.layers.Conv2D(4, 3, padding="same", name="conv")(inputs))
    plain = remove_shortcuts(keras.Model(inputs, keras.layers.Add()([inputs, branch])))
    assert [layer.name for layer in plain.layers[1:]] == ["conv"]


def test_a_broadcast_addition_is_not_a_shortcut():
    inputs = keras.Input((8, 8, 4))
    context = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    context = keras.layers.Conv2D(4, 1)(keras.layers.Conv2D(4, 1)(context))
    model = keras.Model(inputs, keras.layers.Add()([inputs, context]))
    with pytest.raises(ValueError, match="shortcut"):
        remove_shortcuts(model)


def test_half_a_tensor_as_shortcut():
    """What `split` returns second is taken beside a branch of what it returns first."""
    layers, inputs = keras.layers, keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    first, second = keras.ops.split(x, 2, axis=-1)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(first)
    y = layers.Conv2D(4, 3, padding="same", name="behind")(y + second)
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)), name="halves")
    plain = remove_shortcuts(model)
    assert additions(plain) == 0 and plain.get_layer("branch") is not None
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    halves = keras.Model(inputs, y)
    stem = halves.get_layer("stem")(images)[..., :4]
    expected = halves.get_layer("behind")(halves.get_layer("branch")(stem))
    found = keras.Model(plain.inputs, plain.get_layer("behind").output)(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(
        ValueError, match="an identity shortcut|to have"
    ):  # an identity, so that nothing is left to keep
        remove_shortcuts(plain, keep_projections=True)
    assert additions(remove_shortcuts(model, keep_projections=True)) == 0
