"""Profiles of whole networks: facts measured elsewhere, data, table, bad input."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from tfjointrd import models, remove_shortcuts, report

MEBIBYTE = 2**20


def nested():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), layers.ReLU()], name="inner")
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(3, 1, name="conv")(x)
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(inner(y))), name="outer")


def test_live_memory_of_the_imagenet_resnet50():
    network = keras.applications.ResNet50(weights=None)
    costs = report.profile(network)
    assert costs.peak_activation_bytes / MEBIBYTE == pytest.approx(9.19, abs=0.005)
    assert costs.peak_layer == "conv2_block1_add"
    assert costs.macs == 3_857_973_248
    plain = report.profile(remove_shortcuts(network))
    assert plain.peak_activation_bytes / MEBIBYTE == pytest.approx(6.24, abs=0.005)
    kept = report.profile(remove_shortcuts(network, keep_projections=True))
    assert kept.peak_activation_bytes == costs.peak_activation_bytes


def test_live_memory_of_the_cifar_resnet56():
    network = models.resnet56()
    feature_map = 32 * 32 * 16 * 4
    assert report.profile(network).peak_activation_bytes == 3 * feature_map  # 0.188 MiB
    assert report.profile(remove_shortcuts(network)).peak_activation_bytes == 2 * feature_map  # 0.125 MiB


# Parameters as in the documentation of Keras; MACs in millions, as TensorFlow's profiler counts them too.
@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("MobileNetV2", 3_538_984, 300),
        ("DenseNet121", 8_062_504, 2_834),
        ("EfficientNetV2B0", 7_200_312, 718),
        ("InceptionV3", 23_851_784, 5_713),
    ],
)
def test_networks_of_keras_applications(name, parameters, macs):
    network = getattr(keras.applications, name)(weights=None)
    costs = report.profile(network)
    assert costs.parameters == network.count_params() == parameters
    assert costs.trainable_parameters == sum(np.prod(weight.shape) for weight in network.trainable_weights)
    assert costs.macs // 10**6 == macs
    assert costs.uncounted == ()


def test_totals_are_those_of_the_network():
    network = models.cifar_resnet(8)
    network.get_layer("stem_conv").trainable = False
    costs = report.profile(network)
    assert costs.parameters == network.count_params()
    assert costs.trainable_parameters == sum(np.prod(weight.shape) for weight in network.trainable_weights)
    kernels = [weight for weight in network.weights if weight.name == "kernel"]
    assert costs.kernel_parameters == sum(np.prod(weight.shape) for weight in kernels)
    assert [row.name for row in costs.layers] == [layer.name for layer in network.layers]


def test_shown_as_one_line():
    network = models.cifar_resnet(8)
    costs = report.profile(network)
    assert repr(costs) == (
        f"Profile(name='resnet8', batch_size=1, parameters={network.count_params()}, macs={costs.macs}, "
        f"peak_activation_bytes={costs.peak_activation_bytes}, {len(network.layers)} layers)"
    )


def test_a_layers_line():
    costs = report.profile(models.cifar_resnet(8))
    (row,) = [row for row in costs.layers if row.name == "stage2_block1_conv1"]
    assert row == report.LayerProfile(
        name="stage2_block1_conv1",
        class_name="Conv2D",
        output_shape=(1, 16, 16, 32),
        parameters=9 * 16 * 32,
        trainable_parameters=9 * 16 * 32,
        kernel_parameters=9 * 16 * 32,
        macs=9 * 16 * 32 * 16 * 16,
        output_bytes=16 * 16 * 32 * 4,
        live_bytes=(32 * 32 * 16 + 16 * 16 * 32) * 4,
    )


def test_batches_multiply_macs_and_bytes():
    one, five = (report.profile(models.cifar_resnet(8), batch_size=size) for size in (1, 5))
    assert five.macs == 5 * one.macs
    assert five.peak_activation_bytes == 5 * one.peak_activation_bytes
    assert five.parameters == one.parameters
    assert five.layers[0].output_shape == (5, 32, 32, 3)


def test_half_precision_halves_the_activations():
    keras.config.set_dtype_policy("mixed_bfloat16")
    costs = report.profile(models.resnet20())
    assert costs.peak_activation_bytes == 3 * 32 * 32 * 16 * 2
    assert costs.layers[0].output_bytes == 32 * 32 * 3 * 4  # pixels come in as they are


def test_nested_networks_count_layer_by_layer():
    costs = report.profile(nested())
    assert costs.parameters == nested().count_params()
    assert costs.macs == 8 * 8 * 3 * 3 + 6 * 6 * 9 * 3 * 4 + 4 * 2
    assert [row.class_name for row in costs.layers].count("InputLayer") == 1
    assert len({row.name for row in costs.layers}) == len(costs.layers)


def test_several_outputs_of_one_layer():
    x = keras.Input((4, 4, 6))
    costs = report.profile(keras.Model(x, keras.ops.split(x, 2, axis=-1)))
    assert costs.layers[-1].output_shape == ((1, 4, 4, 3), (1, 4, 4, 3))
    assert costs.layers[-1].live_bytes == 2 * 4 * 4 * 6 * 4
    assert "1x4x4x3, 1x4x4x3" in costs.table()


def test_the_profile_is_plain_data():
    costs = report.profile(models.cifar_resnet(8))
    data = json.loads(json.dumps(costs.to_dict()))
    assert data["macs"] == costs.macs and data["peak_layer"] == costs.peak_layer and data["uncounted"] == []
    assert len(data["layers"]) == len(costs.layers)
    assert data["layers"][2]["output_shape"] == [1, 32, 32, 16]


def test_summary_prints_an_aligned_table(capsys):
    network = models.cifar_resnet(8)
    costs = report.summary(network, batch_size=2)
    printed = capsys.readouterr().out
    assert printed == costs.table() + "\n"
    assert costs == report.profile(network, batch_size=2)
    lines = printed.splitlines()
    rule = lines[1]
    body = lines[2 : lines.index(rule, 4)]
    assert len(body) == len(network.layers) + 2
    assert {len(line) for line in body} == {len(rule)}
    assert f"MACs                   {costs.macs:,}" in lines
    assert f"at '{costs.peak_layer}', batch 2" in lines[-1]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None])
def test_batch_size_must_be_a_positive_integer(batch_size):
    with pytest.raises(ValueError, match="`batch_size` to be a positive integer. Received: batch_size="):
        report.profile(models.cifar_resnet(8), batch_size=batch_size)


def test_open_image_size_asks_for_an_input_shape():
    x = keras.Input((None, None, 3))
    network = keras.Model(x, layers.Conv2D(4, 3, name="first")(x), name="open")
    with pytest.raises(ValueError, match="known image size, .*Received: 'open', where layer '.*' has the shape"):
        report.profile(network)


def test_networks_that_are_not_functional():
    class Mine(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Expected `model` to be a functional keras.Model"):
        report.summary(Mine())
    with pytest.raises(ValueError, match="Expected `model` to be built"):
        report.summary(keras.Sequential([layers.Dense(2)]))


def test_bytes_of_operators_follow_their_types():
    """A cast widens pixels, a comparison returns truth values of a byte each."""
    images = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.ops.cast(images, "float32")
    y = keras.layers.GlobalAveragePooling2D()(keras.ops.where(x > 1.0, x, 0.0))
    rows = {
        row.class_name: row.output_bytes for row in report.profile(keras.Model(images, keras.layers.Dense(2)(y))).layers
    }
    assert rows["InputLayer"] == rows["Greater"] == 48 and rows["Cast"] == rows["Where"] == 192
