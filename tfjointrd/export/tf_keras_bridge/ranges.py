"""The ranges of activations that are recorded while a network is trained with quantisation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfjointrd.export.samples import with_pixel_limits
from tfjointrd.export.tf_keras_bridge.libraries import part_of_tfmot

_DECAY = 0.99  # the library's 0.999 forgets its first guess, -6 to 6, in some thousand steps
_WHILE_CALIBRATING = 0.5


@contextlib.contextmanager
def moving_ranges(decay: float = _DECAY) -> Iterator[None]:
    """Lets recorded ranges follow a moving average that forgets its beginning sooner than the library's.

    It counts for networks that are run, or whose training is traced, meanwhile.
    """
    operations: Any = part_of_tfmot("quantization.keras.quant_ops")
    before = operations.MovingAvgQuantize

    def faster(*args, **kwargs):
        return before(*args, **{**kwargs, "ema_decay": decay})

    operations.MovingAvgQuantize = faster
    try:
        yield
    finally:
        operations.MovingAvgQuantize = before


def calibrate(model: Any, images: np.ndarray, steps: int = 12) -> None:
    """Records the ranges of a tf_keras network's activations on images, and changes nothing else.

    Pixels from 0 to 255 get exactly this range, so that byte b of the file's input means pixel value b.

    Args:
        model: The network, with quantisation.
        images: Images `(count, height, width, channels)`.
        steps: Number of batches.
    """
    images = with_pixel_limits(images)
    ranges = {id(variable) for variable in model.weights if variable.name.split(":")[0].endswith(("_min", "_max"))}
    others = [(variable, variable.numpy()) for variable in model.weights if id(variable) not in ranges]
    model(images[:32], training=False)
    with moving_ranges(_WHILE_CALIBRATING):
        for step in range(steps):
            model(images[step % 8 :: 8][:32], training=True)
            for variable, value in others:
                variable.assign(value)
    model(images[:1], training=False)
