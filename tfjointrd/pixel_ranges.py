"""The numbers that networks take for pixels from 0 to 255."""

from typing import Any

# Statistics that networks for photographs are customarily normalised with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# The ranges that networks take pixels in: by name, the scale and the offset that lead there from 0 to 255.
PIXEL_RANGES: dict[str, tuple[Any, Any]] = {
    "0..255": (1.0, 0.0),
    "0..1": (1 / 255, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "imagenet": (
        tuple(1 / std for std in IMAGENET_STD),
        tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)),
    ),
}
