"""Small networks, and images for them."""

import keras
import numpy as np


def with_random_statistics(model):
    """Batch normalisation as after training: no layer is an identity."""
    random = np.random.default_rng(4)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(random.normal(0, 0.2, shape))
            layer.moving_variance.assign(random.uniform(0.5, 1.5, shape))
            if layer.scale:
                layer.gamma.assign(random.uniform(0.5, 1.5, shape))
            if layer.center:
                layer.beta.assign(random.normal(0, 0.2, shape))
    return model


def pixels(count=40, shape=(8, 8, 1)):
    return np.random.default_rng(5).integers(0, 256, (count, *shape)).astype("uint8")


def small_network(activation=None, classes=4, dtype=None):
    """Eight by eight pixels from 0 to 255; classes differ by which part of the image is bright."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.ReLU(dtype=dtype)(x)
    x = keras.layers.Flatten(dtype=dtype)(x)
    x = keras.layers.Dense(classes, activation=activation, name="scores", dtype=dtype)(x)
    return with_random_statistics(keras.Model(image, x, name="tiny"))
