import keras
import numpy as np
import pytest

L = keras.layers


def small_resnet(shortcuts=True, filters=4, classes=3, softmax=False, stages=3, name="tiny"):
    """A residual network that trains in a moment: one block a stage, the first of them with one convolution."""
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(momentum=0.8, name="stem_bn")(x))
    for stage in range(1, stages + 1):
        width, strides = filters * stage, 1 if stage == 1 else 2
        z = x
        if stage > 1:
            z = L.Conv2D(width, 3, strides, padding="same", use_bias=False, name=f"stage{stage}_conv1")(z)
            z = L.ReLU(name=f"stage{stage}_relu1")(L.BatchNormalization(momentum=0.8, name=f"stage{stage}_bn1")(z))
        z = L.Conv2D(width, 3, padding="same", use_bias=False, name=f"stage{stage}_conv2")(z)
        z = L.BatchNormalization(momentum=0.8, name=f"stage{stage}_bn2")(z)
        if shortcuts:
            if stage > 1:
                x = L.Conv2D(width, 1, strides, use_bias=False, name=f"stage{stage}_shortcut")(x)
            z = L.Add(name=f"stage{stage}_add")([x, z])
        x = L.ReLU(name=f"stage{stage}_relu")(z)
    x = L.GlobalAveragePooling2D(name="head_pool")(x)
    outputs = L.Dense(classes, activation="softmax" if softmax else None, name="logits")(x)
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture
def tiny():
    return small_resnet


@pytest.fixture
def images():
    """64 images of three classes that can be told apart, and their labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 64).astype("int32")
    x = rng.normal(size=(64, 8, 8, 1)).astype("float32")
    x[:, 2:5, 2:5, 0] += 1.5 * y[:, None, None]
    return x, y


@pytest.fixture
def eager():
    """Steps without a graph: to trace a small network takes longer than to run it a few times."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
