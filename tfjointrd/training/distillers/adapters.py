"""What brings feature maps of two networks to one shape, so that they can be compared."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfjointrd.layers.batch_normalization import FusedBatchNormalization


def connector(inputs: tuple, outputs: tuple, name: str, activation: keras.Layer | None = None) -> keras.Sequential:
    """A learned 1x1 convolution and batch normalisation from one feature map's shape to another's.

    Args:
        inputs: `(height, width, channels)` that it takes.
        outputs: `(height, width, channels)` that it returns; height and width as they are, or a whole number of times
            smaller.
        name: Its name.
        activation: A layer that follows, or `None`.

    Raises:
        ValueError: If no such convolution leads from one resolution to the other.
    """
    strides = connector_strides(inputs, outputs)
    if strides is None:
        raise ValueError(
            f"Expected a feature map whose height and width are a multiple of {tuple(outputs)}'s for '{name}'. "
            f"Received: shape {tuple(inputs)}."
        )
    layers = [
        keras.Input(inputs),
        keras.layers.Conv2D(
            outputs[-1],
            1,
            strides,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=np.sqrt(2.0 / outputs[-1])),
            name=f"{name}_conv",
        ),
        FusedBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn"),
    ]
    return keras.Sequential([*layers, *([activation] if activation else [])], name=name)


def connector_strides(inputs: tuple, outputs: tuple) -> tuple[int, int] | None:
    """The strides that lead from one feature map's resolution to another's.

    Args:
        inputs: `(height, width, channels)`, a size that is not known as `None`.
        outputs: `(height, width, channels)`.

    Returns:
        `(vertical, horizontal)`, or `None` if no whole number does.
    """
    strides = []
    for before, after in zip(inputs[:2], outputs[:2], strict=True):
        if before == after:
            strides.append(1)
        elif None in (before, after) or before % after:
            return None
        else:
            strides.append(before // after)
    return strides[0], strides[1]


def check_maps(shapes: list[tuple], what: str) -> None:
    """Checks that tensors are feature maps `(batch, height, width, channels)`.

    Raises:
        ValueError: If one is not.
    """
    for shape in shapes:
        if len(shape) != 4:
            raise ValueError(
                f"Expected feature maps (batch, height, width, channels) for {what}. Received: shape {shape}."
            )


def pooling(student: tuple, teacher: tuple, what: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """By how much either of two maps is averaged so that both have the lower resolution.

    Args:
        student: `(batch, height, width, channels)`.
        teacher: The teacher's.
        what: What compares them, for the error message.

    Returns:
        `(vertical, horizontal)` for the student's map, and for the teacher's; all 1 where nothing is to be done.

    Raises:
        ValueError: If these are no maps, or neither resolution is a whole multiple of the other.
    """
    check_maps([student, teacher], what)
    down, up = connector_strides(student[1:], teacher[1:]), connector_strides(teacher[1:], student[1:])
    if down is None and up is None:
        raise ValueError(
            f"Expected maps for {what} whose resolutions are alike or whole multiples of each other. Received: shape "
            f"{student} of the student and {teacher} of the teacher."
        )
    return down or (1, 1), (1, 1) if down else (up or (1, 1))


def averaged(features, size: tuple[int, int]):
    """A feature map averaged over windows of a size that divides it."""
    return features if tuple(size) == (1, 1) else ops.average_pool(features, size, size, data_format="channels_last")
