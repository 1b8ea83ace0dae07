"""The ResNets' shape, names and files."""

import keras
import numpy as np
import pytest

from tfjointrd import models

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")


def names(model, *words):
    return [layer.name for layer in model.layers if any(word in layer.name for word in words)]


def randomised(model):
    """Weights under which every layer matters."""
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def test_layers_are_named_by_stage_and_block():
    model = models.cifar_resnet(14)
    assert names(model, "stage2_block1") == [
        "stage2_block1_pad1",
        "stage2_block1_conv1",
        "stage2_block1_bn1",
        "stage2_block1_relu1",
        "stage2_block1_conv2",
        "stage2_block1_shortcut_conv",
        "stage2_block1_bn2",
        "stage2_block1_shortcut_bn",
        "stage2_block1_add",
        "stage2_block1_relu",
    ]
    assert names(model, "shortcut") == [
        f"stage{stage}_block1_shortcut_{kind}" for stage in (2, 3) for kind in ("conv", "bn")
    ]
    assert [layer.name for layer in model.layers][:5] == ["image", "normalization", "stem_conv", "stem_bn", "stem_relu"]
    assert [layer.name for layer in model.layers][-3:] == ["stage3_block2_relu", "head_pool", "logits"]


def test_shortcuts_of_type_a_have_no_weights():
    model = models.cifar_resnet(14, shortcut="A")
    shortcuts = names(model, "shortcut")
    assert shortcuts == [f"stage{stage}_block1_shortcut_{kind}" for stage in (2, 3) for kind in ("pool", "pad")]
    assert not any(model.get_layer(name).weights for name in shortcuts)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (models.resnet20(), [(32, 32, 16), (16, 16, 32), (8, 8, 64)]),
        (models.wide_resnet18(), [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]),
        (models.resnet18(input_shape=(64, 96, 3)), [(16, 24, 64), (8, 12, 128), (4, 6, 256), (2, 3, 512)]),
        (models.resnet50(input_shape=(64, 96, 3)), [(16, 24, 256), (8, 12, 512), (4, 6, 1024), (2, 3, 2048)]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_stages_end_in_relus_of_these_shapes(model, shapes):
    last_of_stage = {}
    for name in names(model, "_relu"):
        if name.startswith("stage") and name.endswith("_relu"):
            last_of_stage[name.split("_")[0]] = model.get_layer(name).output.shape[1:]
    assert list(last_of_stage.values()) == shapes


def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution():
    model = models.resnet50(input_shape=(32, 32, 3))
    strides = {layer.name: layer.strides for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    assert {name for name, stride in strides.items() if stride == (2, 2)} == {"stem_conv"} | {
        f"stage{stage}_block1_{kind}" for stage in (2, 3, 4) for kind in ("conv2", "shortcut_conv")
    }


def test_only_blocks_that_change_the_shape_project():
    assert names(models.resnet18(input_shape=(32, 32, 3)), "shortcut_conv") == [
        f"stage{stage}_block1_shortcut_conv" for stage in (2, 3, 4)
    ]
    assert names(models.wide_resnet50(), "shortcut_conv") == [
        f"stage{stage}_block1_shortcut_conv" for stage in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_block_is_its_branch_plus_its_shortcut(shortcut):
    model = randomised(models.cifar_resnet(8, shortcut=shortcut))
    watched = ["stage2_block1_bn2", "stage2_block1_relu", "stage1_block1_relu"]
    inside = keras.Model(model.input, [model.get_layer(name).output for name in watched])
    branch, block, before = (keras.ops.convert_to_numpy(value) for value in inside(IMAGES, training=False))
    if shortcut == "A":
        joined = np.concatenate([before[:, ::2, ::2], np.zeros_like(before[:, ::2, ::2])], axis=-1)
    else:
        layers = [model.get_layer(f"stage2_block1_shortcut_{kind}") for kind in ("conv", "bn")]
        joined = keras.ops.convert_to_numpy(layers[1](layers[0](before), training=False))
    np.testing.assert_allclose(block, np.maximum(branch + joined, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_saved_network_is_the_same_network(tmp_path, shortcut):
    model = randomised(models.cifar_resnet(8, shortcut=shortcut))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(IMAGES), model.predict_on_batch(IMAGES))


def test_the_last_layer_takes_an_activation():
    outputs = models.cifar_resnet(8, num_classes=7, classifier_activation="softmax")(IMAGES)
    np.testing.assert_allclose(np.sum(outputs, axis=-1), 1, rtol=1e-5)
    assert models.cifar_resnet(8, num_classes=7).get_layer("logits").activation is keras.activations.linear


def test_names_of_networks():
    assert models.cifar_resnet(8).name == "resnet8"
    assert models.wide_resnet18().name == "wide_resnet18"
    assert models.cifar_resnet(8, name="teacher").name == "teacher"


def test_one_step_of_training_lowers_the_loss():
    model = models.cifar_resnet(8)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.array([0, 1, 2, 3])
    losses = [model.train_on_batch(IMAGES, labels) for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TFLite files are made with TensorFlow")
def test_quantised_files_need_builtin_operators_only(shortcut):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(models.cifar_resnet(8, shortcut=shortcut))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([IMAGES[:1]] for _ in range(2))
    assert converter.convert()[4:8] == b"TFL3"


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        (models.cifar_resnet, {"depth": 21}, "`depth` to be 6n \\+ 2.*depth=21"),
        (models.cifar_resnet, {"depth": 2}, "`depth` to be 6n \\+ 2.*depth=2"),
        (models.cifar_resnet, {"depth": "20"}, "`depth` to be 6n \\+ 2.*depth='20'"),
        (models.cifar_resnet, {"depth": 20, "shortcut": "C"}, "`shortcut` to be 'A' or 'B'. Received: shortcut='C'"),
        (models.wide_resnet, {"depth": 101}, r"`depth` to be one of \(18, 34, 50\). Received: depth=101"),
        (models.imagenet_resnet, {"depth": 20}, r"`depth` to be one of \(18, 34, 50, 101, 152\). Received: depth=20"),
    ],
)
def test_depths_and_shortcuts_that_do_not_exist(builder, arguments, message):
    with pytest.raises(ValueError, match=message):
        builder(**arguments)
