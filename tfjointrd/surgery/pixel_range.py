"""The range of pixels that a trained network takes, which its file does not say but its first statistics show."""

from __future__ import annotations

import keras
import numpy as np

from tfjointrd.pixel_ranges import PIXEL_RANGES
from tfjointrd.surgery.graph import Graph, refs_in
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import describe


def with_pixel_range(model: keras.Model, pixel_range: str | None) -> keras.Model:
    """A network that takes pixels from 0 to 255, from one that takes another range.

    Args:
        model: A functional or Sequential network of images. It becomes a part of the new one.
        pixel_range: `"0..255"`, `"0..1"`, `"-1..1"`, or `"imagenet"`, pixels less ImageNet's mean and divided by its
            standard deviation. `None` leaves the network as it is.

    Raises:
        ValueError: If `pixel_range` is no such name.

    Example:

    >>> network = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3)])
    >>> with_pixel_range(network, "-1..1").layers[0].scale
    0.00784313725490196
    """
    if pixel_range is not None and pixel_range not in PIXEL_RANGES:
        raise ValueError(f"Expected `pixel_range` to be one of {list(PIXEL_RANGES)}. Received: {pixel_range!r}.")
    if pixel_range in (None, "0..255"):
        return model
    scale, offset = _for_channels(pixel_range, model.inputs[0].shape[-1])
    rescaling = keras.layers.Rescaling(scale, offset, name="pixels")
    return keras.Sequential([keras.Input(model.inputs[0].shape[1:]), rescaling, model], name=model.name)


def says_its_range(model: keras.Model) -> bool:
    """Whether a network begins by bringing pixels from 0 to 255 to the range that it goes on with."""
    return _rescaling(model) is not None


def check_pixels(images: np.ndarray, model: keras.Model, argument: str) -> None:
    """Refuses images from 0 to 1 for a network that begins by bringing pixels from 0 to 255 to another range.

    Args:
        images: Images of a batch or more, in any shape.
        model: The functional or Sequential network that is to take them.
        argument: What the caller calls the images.

    Raises:
        ValueError: If they lie between 0 and 1, and the network says that it takes 0 to 255.
    """
    if not np.size(images) or np.max(images) > 1:
        return
    first = _rescaling(model)
    if first is not None:
        low, high = float(np.min(images)), float(np.max(images))
        raise ValueError(
            f"Expected `{argument}` to hold pixels from 0 to 255, as layer '{first.name}' of '{model.name}' rescales "
            f"them. Received: values from {low:g} to {high:g}"
        )


def _rescaling(model: keras.Model) -> keras.Layer | None:
    """The layer at a network's beginning that brings pixels from 0 to 255 to another range, if there is one."""
    graph = read_graph(model)
    for call in graph.calls:
        source = graph.sources[call.layer]
        if describe(graph.layers[call.layer]).keeps_range:
            continue
        rescales = isinstance(source, keras.layers.Rescaling) and np.max(source.scale) < 0.1
        centres = isinstance(source, keras.layers.Normalization) and np.max(np.abs(source.mean)) > 2
        return source if rescales or centres else None
    return None


def misfits(model: keras.Model, images: np.ndarray) -> dict[str, float]:
    """How far images in each range are from those that a network was trained on, by its first batch normalisation.

    That has recorded mean and variance of what came out of the layers ahead of it in training. A range fits where the
    images give about the same.

    Args:
        model: The trained network.
        images: `(count, height, width, channels)`, pixels from 0 to 255, in the network's size.

    Returns:
        By range, as `with_pixel_range` names it: the distance of the means, log(1 + d²) with d in standard deviations,
        plus that of the variances' logarithms, the mean over the channels. Empty where no batch normalisation has
        recorded anything.
    """
    graph = read_graph(model)
    found = _first_recorded(graph)
    if found is None:
        return {}
    call, source = found
    ahead = graph.until(call.inputs[0]).assemble(
        lambda call, *args, **kwargs: graph.sources[call.layer](*args, **kwargs), graph.sources
    )
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (source.moving_mean, source.moving_variance))
    result = {}
    for name in PIXEL_RANGES:
        scale, offset = _for_channels(name, images.shape[-1])
        values = keras.ops.convert_to_numpy(ahead((images * np.array(scale) + np.array(offset)).astype("float32")))
        values = np.moveaxis(values.astype("float64"), source.axis, -1).reshape(-1, len(mean))
        ours = values.mean(0), values.var(0)
        small = 1e-3 * variance.mean() + 1e-12  # channels that are constant say nothing
        distance = np.minimum((ours[0] - mean) ** 2 / (variance + small), 1e4)
        result[name] = float(np.mean(np.log1p(distance) + np.abs(np.log((ours[1] + small) / (variance + small)))))
    return result


def _first_recorded(graph: Graph):
    """The first batch normalisation that has recorded statistics, behind the network's input."""
    if len(list(refs_in(graph.inputs))) != 1:
        return None
    for call in graph.calls:
        source = graph.sources[call.layer]
        if describe(graph.layers[call.layer]).normalizes == "batch":
            mean = keras.ops.convert_to_numpy(source.moving_mean)
            return (call, source) if mean.any() else None
    return None


def _for_channels(pixel_range: str, channels: int):
    """Scale and offset, one number each where images are not of three colours."""
    return tuple(
        float(np.mean(value)) if channels != 3 else (list(value) if isinstance(value, tuple) else value)
        for value in PIXEL_RANGES[pixel_range]
    )
