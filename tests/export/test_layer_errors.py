"""Errors of files by layer."""

import re

import keras
import pytest
from keras import layers
from small_networks import pixels, with_random_statistics

from tfjointrd import export, report
from tfjointrd.export.file_graph import read_file

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files are written on TensorFlow")


def network_of_many_kinds():
    """Fused and unfused activations, operators, a network within, names that end in numbers, a layer called twice."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(4, 3, padding="same", activation="swish", name="conv_1")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", activation="relu6", name="conv")(x)
    inner_image = keras.Input((8, 8, 4))
    inner = layers.BatchNormalization(name="inner_bn")(layers.Conv2D(4, 3, padding="same", name="inner")(inner_image))
    x = x + layers.ReLU(name="relu")(keras.Model(inner_image, inner, name="within_1")(x))
    twice = layers.Dense(4, name="twice")
    x = layers.Concatenate(name="both")([twice(twice(x)), x])
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Dense(4, activation="softmax", name="scores")(layers.GlobalAveragePooling2D(name="mean")(x))
    return with_random_statistics(keras.Model(image, x, name="kinds_1"))


@pytest.fixture(scope="module")
def images():
    return pixels(24, (8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def kinds():
    keras.utils.set_random_seed(2)
    return network_of_many_kinds()


@pytest.fixture(scope="module")
def kinds_file(kinds, images, tmp_path_factory):
    return export.tflite(kinds, tmp_path_factory.mktemp("kinds") / "kinds.tflite", representative_data=images).path


def test_layers_are_found_by_name(kinds, kinds_file, images):
    """In a float32 file, each layer's output is the network's."""
    found = {one.layer: one for one in report.quantization_error(kinds_file, kinds, images[:10]).layers}
    assert {"conv_1", "conv", "relu", "both", "up", "pool", "mean", "scores"} <= found.keys()
    assert not {"twice", "inner", "image"} & found.keys()
    assert max(one.error for one in found.values()) < 1e-5
    assert set(found["relu"].fused) >= {"relu", "inner"} and found["scores"].operator == "SOFTMAX"


def test_numbers_at_the_end_of_names(kinds, kinds_file):
    content = kinds_file.read_bytes()
    known = [layer.name for layer in kinds.layers]
    named = {name for step in read_file(content, known, "kinds_1").operators for name in step.layers}
    assert {"conv", "conv_1"} <= named <= set(known)


def test_a_layer_that_differs_has_the_error_of_its_own(kinds, kinds_file, images):
    """What comes after it only passes the error on."""
    other = keras.models.clone_model(kinds)
    other.set_weights(kinds.get_weights())
    kernel = other.get_layer("up").kernel
    kernel.assign(1.1 * kernel)
    errors = report.quantization_error(kinds_file, other, images)
    assert errors.layers[0].layer == "up" and errors.layers[0].own_error > 0.05
    later = {one.layer: one for one in errors.layers}["mean"]
    assert later.error > 0.05 and later.own_error < 1e-5 and errors.layers[1].own_error < 1e-5


def test_table_and_figure(network, int8_file, tmp_path):
    errors = report.quantization_error(int8_file.path, network, pixels(10))
    lines = str(errors).splitlines()
    assert lines[0].split() == ["layer", "operator", "weights", "activations", "own", "error", "%", "error", "%"]
    assert re.match(r"re_lu +CONV_2D +int8 +int8 +0\.\d{3} +\d\.\d{3}$", next(line for line in lines if "CONV" in line))
    assert lines[-1] == f"{len(errors.layers)} layers, 10 images" and len(lines) == len(errors.layers) + 2
    assert 1e-4 < errors.layers[0].own_error < 0.05
    axes = errors.figure(tmp_path / "errors.png")
    assert len(axes.get_yticklabels()) == len(errors.layers) and (tmp_path / "errors.png").stat().st_size > 5000


def test_another_network_or_other_images(network, int8_file, kinds):
    with pytest.raises(ValueError, match=r"`x` of shape \(count, 8, 8, 1\)"):
        report.quantization_error(int8_file.path, kinds, pixels(2, (8, 8, 3)))
    with pytest.raises(ValueError, match=r"`x` of shape \(count, 8, 8, 1\)"):
        report.quantization_error(int8_file.path, network, pixels(2, (8, 8, 3)))
    image = keras.Input((8, 8, 1))
    stranger = keras.Model(image, layers.Dense(3, name="other")(layers.Flatten(name="flat")(image)))
    with pytest.raises(ValueError, match="share no layer"):
        report.quantization_error(int8_file.path, stranger, pixels(2))


def test_file_profile(network, int8_file, tmp_path):
    profile = report.file_profile(int8_file.path)
    assert profile.input == "uint8 (1, 8, 8, 1)" and profile.output == "float32 (1, 4)"
    assert profile.operators["CONV_2D", "int8", "int8"] == 1 and profile.weight_bytes.keys() == {"int8"}
    assert "1  FULLY_CONNECTED  int8" in str(profile)
    assert profile.weight_bytes["int8"] >= 3 * 3 * 8 + 4 * 8 * 64


def test_augmentation_does_not_count_as_an_error(images, tmp_path):
    """Keras' layers for it augment unless they are told not to."""
    x = image = keras.Input((8, 8, 3))
    for layer in (layers.RandomFlip(), layers.RandomContrast(0.9), layers.Conv2D(4, 3, name="first"), layers.ReLU()):
        x = layer(x)
    model = with_random_statistics(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))
    file = export.tflite(model, tmp_path / "augmented.tflite", representative_data=images)
    found = report.quantization_error(file.path, model, images[:6]).layers
    assert "first" in [name for one in found for name in one.fused] and max(one.own_error for one in found) < 1e-5


def test_layers_of_one_name_in_two_networks_are_left_out(images, tmp_path):
    def member(name):
        image = keras.Input((8, 8, 3))
        x = layers.ReLU(name="activation")(layers.Conv2D(4, 3, padding="same", name="conv")(image))
        return keras.Model(image, layers.Conv2D(4, 3, padding="same", name=f"{name}_conv")(x), name=name)

    image = keras.Input((8, 8, 3))
    x = layers.Add(name="both")([member("a")(image), member("b")(image)])
    model = keras.Model(image, layers.Dense(3, name="scores")(layers.GlobalAveragePooling2D()(x)))
    model = with_random_statistics(model)
    file = export.tflite(model, tmp_path / "members.tflite", representative_data=images)
    found = {one.layer: one.own_error for one in report.quantization_error(file.path, model, images[:6]).layers}
    assert "scores" in found and not {"conv", "b_conv_1", "activation"} & found.keys()
    assert max(found.values()) < 1e-5
