"""Sample images, to calibrate int8 files on and to compare files with networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfjointrd.data.batches import batches
from tfjointrd.surgery.pixel_range import check_pixels

SAMPLE_SIZE = 256


def random_images(shape: tuple[int, ...]) -> np.ndarray:
    """Random images `(height, width, channels)`; whichever range a network takes, some of these are in it."""
    ranges = np.array([[0, 255], [0, 1], [-1, 1]] * 11).reshape(-1, 2, *[1] * len(shape))
    return np.random.default_rng(0).uniform(ranges[:, 0], ranges[:, 1], (len(ranges), *shape)).astype("float32")


def sample(data: Any, model: keras.Model) -> np.ndarray:
    """The first images of a data set, or images from all over an array, for a network.

    Args:
        data: As for `sample_of_shape`.
        model: The network that the images are for.

    Raises:
        ValueError: As `sample_of_shape`, or if they lie between 0 and 1 and the network begins by rescaling pixels from
            0 to 255.
    """
    sampled = sample_of_shape(data, model.inputs[0].shape[1:])
    check_pixels(sampled, model, "representative_data")
    return sampled


def sample_of_shape(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The first images of a data set, or images from all over an array.

    Args:
        data: Images in any form that `tfjointrd.data.batches` describes.
        shape: Shape of an image that the network takes.

    Returns:
        Up to `SAMPLE_SIZE` images in float32.

    Raises:
        ValueError: If there are no images, if they are not numbers, if their shape is another one, if all pixels are
            equal, or if one is not finite.
    """
    images: list[np.ndarray] = []
    for x, _ in batches(data, shape=shape, argument="representative_data"):
        if not np.issubdtype(np.asarray(x[:1]).dtype, np.number):
            raise ValueError(
                f"Expected `representative_data` to hold numbers. Received: dtype {np.asarray(x[:1]).dtype}"
            )
        chosen = np.linspace(0, len(x) - 1, min(len(x), SAMPLE_SIZE - len(images))).round().astype(int)
        images.extend(np.asarray(x)[chosen].astype("float32"))
        if len(images) == SAMPLE_SIZE:
            break
    sampled = np.stack(images)
    low, high = float(sampled.min()), float(sampled.max())
    if not np.isfinite([low, high]).all() or low == high:
        raise ValueError(
            f"Expected `representative_data` to hold varied, finite values. Received: values from {low} to {high}"
        )
    return sampled


def flat_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a network and of those within it."""
    for layer in model.layers:
        yield from flat_layers(layer) if isinstance(layer, keras.Model) else [layer]


def with_pixel_limits(images: np.ndarray) -> np.ndarray:
    """The images; if they are pixels from 0 to 255, bright ones among them, two of one are set to these limits.

    The calibrated range of the input is then exactly 0 to 255, and byte b of the file's input means pixel value b.
    """
    if images.min() < 0 or not 127 < images.max() <= 255:
        return images
    images = images.copy()
    first = images[0].reshape(-1)
    first[first.argmin()], first[first.argmax()] = 0, 255
    return images
