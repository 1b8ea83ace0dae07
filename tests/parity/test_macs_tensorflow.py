"""MACs of whole networks against the operation counts that TensorFlow registers for its own kernels."""

import keras
import pytest

from tfjointrd import models, report

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow's profiler")


def tensorflow_macs(model):
    """Half the floating-point operations of all convolutions and matrix products, for one image."""
    import tensorflow as tf

    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    options = builder.with_accounted_types(["Conv2D", "DepthwiseConv2dNative", "MatMul"]).with_empty_output().build()
    return tf.compat.v1.profiler.profile(graph, cmd="op", options=options).total_float_ops // 2


@pytest.mark.parametrize(
    "build",
    [
        models.resnet20,
        lambda: models.xresnet18(input_shape=(75, 99, 3)),
        lambda: keras.applications.MobileNetV2(weights=None),
        pytest.param(lambda: keras.applications.DenseNet121(weights=None), marks=pytest.mark.slow),
        lambda: keras.applications.EfficientNetV2B0(weights=None),
        lambda: keras.applications.InceptionV3(weights=None),
    ],
    ids=["ResNet20", "XResNet18", "MobileNetV2", "DenseNet121", "EfficientNetV2B0", "InceptionV3"],
)
def test_tensorflow_counts_the_same(build):
    model = build()
    assert report.profile(model).macs == tensorflow_macs(model)
