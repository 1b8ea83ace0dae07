"""A trained network with a new classifier: what stays, what is new, and what cannot be."""

import keras
import numpy as np
import pytest

from tfjointrd import adjoin, export, models, new_head, remove_shortcuts
from tfjointrd.surgery.output_activation import final_activation

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype("float32")


@pytest.fixture
def trained(randomised):
    return randomised(models.resnet20(num_classes=10, input_shape=(16, 16, 3)))


def features(network):
    return keras.Model(network.input, network.layers[-1].input)


def test_all_weights_but_the_heads_stay(trained):
    network = new_head(trained, num_classes=7)
    assert network.output_shape == (None, 7) and network.name == trained.name
    assert [layer.name for layer in network.layers] == [layer.name for layer in trained.layers]
    np.testing.assert_array_equal(features(network)(IMAGES), features(trained)(IMAGES))
    assert len({id(v) for v in network.weights} & {id(v) for v in trained.weights}) == 0


def test_the_head_is_new_even_for_as_many_classes(trained):
    before = trained.get_layer("logits").get_weights()
    first, second = (new_head(trained, num_classes=10, name="other").get_layer("logits") for _ in range(2))
    kernels = [before[0], *(layer.get_weights()[0] for layer in (first, second))]
    assert not any(np.array_equal(kernels[i], kernels[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not first.get_weights()[1].any()
    np.testing.assert_array_equal(trained.get_layer("logits").get_weights()[0], before[0])


@pytest.mark.parametrize("plain", [False, True])
def test_another_size(trained, plain):
    network = remove_shortcuts(trained) if plain else trained
    larger = new_head(network, 7, input_shape=(24, 20, 3))
    images = np.random.default_rng(1).uniform(0, 255, (2, 24, 20, 3)).astype("float32")
    free = keras.models.clone_model(features(network), input_tensors=keras.Input((None, None, 3)))
    free.set_weights(features(network).get_weights())
    np.testing.assert_allclose(features(larger)(images), free(images), rtol=1e-4, atol=1e-5)


def test_grey_images_are_repeated(trained, tmp_path):
    network = new_head(trained, 7, input_shape=(16, 16, 1))
    grey = IMAGES[..., :1]
    repeated = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(features(network)(grey), features(trained)(repeated), rtol=1e-5, atol=1e-5)
    assert network.input_shape == (None, 16, 16, 1)
    export.tflite(network, tmp_path / "grey.tflite")
    assert adjoin(network, alpha=2, round_to=1).small().output_shape == (None, 7)
    twice = new_head(new_head(trained, 7, (16, 16, 1)), 3)
    assert twice.input_shape == (None, 16, 16, 1) and twice.output_shape == (None, 3)


def test_a_network_of_ones_own_with_a_softmax(residual):
    probabilities = keras.Model(residual.input, keras.layers.Softmax()(residual.output))
    network = new_head(probabilities, 4, input_shape=(20, 20, 3))
    found = network(np.ones((2, 20, 20, 3), "float32"))
    np.testing.assert_allclose(np.sum(found, axis=-1), 1, rtol=1e-5)
    assert found.shape == (2, 4)


@pytest.mark.parametrize("behind", [True, False], ids=["layer", "argument"])
def test_a_sigmoid_for_two_classes_becomes_a_softmax(behind):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="sigmoid", name="conv")(inputs))
    x = layers.Dense(1, activation=None if behind else "sigmoid")(x)
    two = keras.Model(inputs, layers.Activation("sigmoid")(x) if behind else x)
    several = new_head(two, 5)
    np.testing.assert_allclose(np.sum(several(IMAGES[:, :8, :8]), axis=-1), 1, rtol=1e-5)
    assert several.get_layer("conv").activation is keras.activations.sigmoid
    assert new_head(two, 1).layers[-1].activation is keras.activations.sigmoid


@pytest.mark.parametrize("behind", [True, False], ids=["layer", "argument"])
def test_a_softmax_for_one_unit_becomes_a_sigmoid(behind):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    x = layers.Dense(3, activation=None if behind else "softmax")(x)
    one = new_head(keras.Model(inputs, layers.Softmax()(x) if behind else x), 1)
    found = np.asarray(one(IMAGES[:, :8, :8] / 255))
    assert found.shape[1:] == (1,) and ((found > 0) & (found < 1)).all() and np.ptp(found) > 1e-4


def ending_in(units, *behind, **options):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(units, **options)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)))
    for function in behind:
        x = function(x)
    return keras.Model(inputs, x)


def test_sigmoids_of_several_units_stay():
    """Several classes may be right."""
    for model in (ending_in(5, activation="sigmoid"), ending_in(5, keras.layers.Activation("sigmoid"))):
        assert final_activation(new_head(model, 7)) == "sigmoid"


def test_endings_that_are_not_recognised():
    for model, units, ending in (
        (ending_in(3, keras.ops.softmax), 1, "softmax"),
        (ending_in(3, activation=keras.layers.Softmax()), 1, "softmax"),
        (ending_in(1, keras.ops.sigmoid), 3, "sigmoid"),
    ):
        with pytest.raises(ValueError, match=f"without a {ending} behind its last Dense layer, .*num_classes={units}"):
            new_head(model, units)
    assert new_head(ending_in(3, activation="log_softmax"), 1).layers[-1].activation is keras.activations.log_sigmoid


def test_initial_biases_of_the_old_classes_are_dropped():
    bias = keras.initializers.Constant([0.1, 0.2, 0.3])
    network = new_head(ending_in(3, bias_initializer=bias), 4)
    np.testing.assert_array_equal(network.layers[-1].bias, np.zeros(4))
    np.testing.assert_allclose(new_head(ending_in(3, bias_initializer=bias), 3).layers[-1].bias, [0.1, 0.2, 0.3])


def test_the_head_of_a_frozen_network_learns(trained):
    frozen = keras.models.clone_model(trained)
    frozen.trainable = False
    network = new_head(frozen, 3)
    assert [len(variable.shape) for variable in network.trainable_variables] == [2, 1]


def test_networks_of_keras():
    network = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=10)
    larger = new_head(network, 3, input_shape=(64, 64, 3))
    assert larger.output_shape == (None, 3) and larger.layers[-1].activation is keras.activations.softmax
    np.testing.assert_array_equal(larger.get_weights()[0], network.get_weights()[0])


def sequential(*layers, size=16):
    return keras.Sequential([keras.Input((size, size, 3)), *layers], name="own")


def test_a_flattened_map_before_the_head_may_have_any_size():
    network = sequential(keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(5))
    assert new_head(network, 2, input_shape=(8, 8, 3)).count_params() == 4 * 28 + 2 * (6 * 6 * 4 + 1)


def test_a_dense_layer_on_a_flattened_map_may_not():
    network = sequential(keras.layers.Flatten(), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(5))
    assert new_head(network, 2).output_shape == (None, 2)
    with pytest.raises(
        ValueError, match=r"(?s)up to a global pooling.*Received: 'own'.*input_shape=\(8, 8, 3\).*hidden"
    ):
        new_head(network, 2, input_shape=(8, 8, 3))


def test_a_network_that_images_are_too_small_for():
    network = sequential(keras.layers.Conv2D(4, 9), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5))
    with pytest.raises(ValueError, match=r"(?s)images of another size. Received: 'own' .*input_shape=\(4, 4, 3\)"):
        new_head(network, 2, input_shape=(4, 4, 3))


def test_a_convolution_as_head_is_named():
    network = sequential(
        keras.layers.Conv2D(4, 3), keras.layers.Conv2D(5, 1, name="logits_conv"), keras.layers.GlobalAveragePooling2D()
    )
    with pytest.raises(ValueError, match=r"Expected `model` to end in a Dense layer. Received: 'own', .*'logits_conv'"):
        new_head(network, 2)


def test_outputs_that_are_no_classes():
    gate = sequential(
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(6, name="gate"), keras.layers.Reshape((2, 3))
    )
    with pytest.raises(ValueError, match=r"shape \(None, 2, 3\) behind 'gate', 6 units"):
        new_head(gate, 2)
    shared = keras.layers.Dense(8, name="shared")
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match="whose units are the classes. Received: 'twice' .* behind 'shared'"):
        new_head(keras.Model(inputs, shared(shared(inputs)), name="twice"), 2)
    with pytest.raises(ValueError, match="end in a Dense layer. Received: 'own', without any"):
        new_head(sequential(keras.layers.GlobalAveragePooling2D()), 2)


@pytest.mark.parametrize("shape", [(16, 16, 2), (16, 16, 4), (16, 3), (16, 16, 3, 3)])
def test_images_that_cannot_be(trained, shape):
    with pytest.raises(ValueError, match=rf"Received: .*input_shape=\({', '.join(map(str, shape))}\)"):
        new_head(trained, 2, input_shape=shape)


def test_colour_images_for_a_grey_network():
    with pytest.raises(ValueError, match=r"images of 1 channels, or of one.* Received: input_shape=\(8, 8, 3\)"):
        new_head(models.resnet20(input_shape=(8, 8, 1)), 2, input_shape=(8, 8, 3))


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, True, None])
def test_classes_that_cannot_be(trained, num_classes):
    with pytest.raises(ValueError, match=f"positive integer. Received: num_classes={num_classes}"):
        new_head(trained, num_classes)
