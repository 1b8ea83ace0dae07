"""What the residual networks share: pixels in, checked arguments, shortcuts."""

import keras
import numpy as np
import pytest

from tfjointrd import models
from tfjointrd.data import information
from tfjointrd.models import blocks


def normalization(model):
    return keras.Model(model.input, model.get_layer("normalization").output)


def test_pixels_are_normalised_by_channel():
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    model = normalization(models.cifar_resnet(8, input_shape=(8, 8, 3), mean=mean, std=std))
    np.testing.assert_allclose(model(pixels), (pixels - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("builder", "mean", "std"),
    [
        (models.cifar_resnet, information.KNOWN["cifar10"].mean, information.KNOWN["cifar10"].std),
        (models.wide_resnet, information.KNOWN["cifar10"].mean, information.KNOWN["cifar10"].std),
        (models.imagenet_resnet, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        (models.xresnet, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_default_statistics_are_those_of_the_data(builder, mean, std):
    pixels = np.full((1, 32, 32, 3), 200.0)
    model = normalization(builder(20 if builder is models.cifar_resnet else 18, input_shape=(32, 32, 3)))
    np.testing.assert_allclose(model(pixels)[0, 0, 0], (200 - np.array(mean)) / np.array(std), rtol=1e-4)


def test_one_channel_takes_the_average_of_the_default_statistics():
    model = normalization(models.cifar_resnet(8, input_shape=(8, 8, 1)))
    expected = (200 - np.mean(blocks.CIFAR10_MEAN)) / np.mean(blocks.CIFAR10_STD)
    np.testing.assert_allclose(model(np.full((1, 8, 8, 1), 200.0))[0, 0, 0], [expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` to be a positive integer. Received: num_classes=0"),
        ({"num_classes": 2.5}, r"`num_classes` to be a positive integer. Received: num_classes=2.5"),
        ({"input_shape": (32, 32)}, r"`input_shape` to be three positive integers.*\(32, 32\)"),
        ({"input_shape": (None, None, 3)}, r"`input_shape` to be three positive integers.*\(None, None, 3\)"),
        ({"input_shape": 32}, r"`input_shape` to be three positive integers.*input_shape=32"),
        ({"mean": (1.0, 2.0)}, r"`mean` to hold one number for each of the 3 channels"),
        ({"mean": "cifar"}, r"`mean` to hold one number for each of the 3 channels.*cifar"),
        ({"std": (1.0,)}, r"`std` to hold one number for each of the 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, r"`std` to be positive"),
        ({"input_shape": (32, 32, 2)}, r"`mean` to hold one number for each of the 2 channels"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    for builder in (models.resnet20, models.wide_resnet18, models.resnet18, models.xresnet18):
        with pytest.raises(ValueError, match=message):
            builder(**arguments)


def test_channels_first_is_an_error():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="to be 'channels_last'.*Received: 'channels_first'"):
            models.resnet20()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_zero_padding_takes_every_other_pixel():
    x = np.arange(2 * 5 * 5 * 3, dtype="float32").reshape(2, 5, 5, 3)
    inputs = keras.Input((5, 5, 3))
    y = keras.Model(inputs, blocks.zero_padding(inputs, 8, 2, "block")).predict_on_batch(x)
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    assert y.shape == (2, 3, 3, 8) and not y[..., 3:].any()


def test_pooled_projection_pools_before_it_projects():
    inputs = keras.Input((5, 5, 3))
    model = keras.Model(inputs, blocks.pooled_projection(inputs, 8, 2, "block"))
    kernel = model.get_layer("block_shortcut_conv").kernel.numpy()[0, 0]
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 3)).astype("float32")
    corner = x[0, 4, 4] @ kernel / np.sqrt(1 + 1e-5)  # at an odd size the last window holds one pixel
    middle = x[0, 2:4, 2:4].mean((0, 1)) @ kernel / np.sqrt(1 + 1e-5)
    y = model.predict_on_batch(x)
    np.testing.assert_allclose(y[0, 2, 2], corner, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[0, 1, 1], middle, rtol=1e-4, atol=1e-5)
