import keras
import numpy as np
import pytest

from tfjointrd.layers.adjoined import AdjoinedLayer


def randomise(model, seed=0):
    """Gives every batch normalisation random weights and statistics, as a trained network has."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        parts = [layer.full, *layer.own.values()] if isinstance(layer, AdjoinedLayer) else [layer]
        for part in parts:
            for variable in part.weights:
                if variable.name in ("gamma", "moving_variance"):
                    variable.assign(rng.uniform(0.5, 1.5, variable.shape))
                elif variable.name in ("beta", "moving_mean", "bias"):
                    variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture
def randomised():
    return randomise


@pytest.fixture
def residual():
    """A small residual network of a user's own, layers unnamed, additions written with `+`."""
    layers = keras.layers

    def convolution(x, filters, strides=1, relu=True):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input((16, 16, 3))
    x = convolution(inputs, 8)
    x = keras.ops.relu(x + convolution(convolution(x, 8), 8, relu=False))
    shortcut = layers.BatchNormalization()(layers.Conv2D(16, 1, strides=2, use_bias=False, name="projection")(x))
    x = layers.ReLU(name="end")(layers.Add()([convolution(convolution(x, 16, 2), 16, relu=False), shortcut]))
    x = x + convolution(convolution(x, 16), 16, relu=False)
    x = layers.Dense(5, name="head")(layers.GlobalAveragePooling2D()(x))
    return randomise(keras.Model(inputs, x, name="own"))
