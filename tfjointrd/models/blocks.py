"""What the residual networks of this package have in common: input, blocks, stages, head.

Layers are named by position: `stem_conv`, `stage2_block1_conv1`, `stage2_block1_shortcut_conv`, `logits`. A stage ends
at the last `stage{k}_block{n}_relu`; that layer still exists when shortcuts are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from tfjointrd.layers.fit_channels import FitChannels

# Mean and standard deviation of each channel over the training images, pixels from 0 to 255.
CIFAR10_MEAN = (125.31, 122.95, 113.87)
CIFAR10_STD = (62.99, 62.09, 66.70)


def image_input(
    input_shape: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    default_mean: Sequence[float],
    default_std: Sequence[float],
):
    """The input `image` of raw pixels and the layer `normalization` behind it.

    Args:
        input_shape: `(height, width, channels)`.
        mean: Mean of each channel in pixel units, or `None` for the default.
        std: Standard deviation of each channel in pixel units, or `None` for the default.
        default_mean: Default for three channels; their average serves one channel.
        default_std: Likewise.

    Returns:
        The input tensor and the normalised tensor `(x - mean) / std`.

    Raises:
        ValueError: If the statistics do not fit the channels.
    """
    channels = input_shape[-1]
    mean = _statistics("mean", mean, default_mean, channels)
    std = _statistics("std", std, default_std, channels)
    if min(std) <= 0:
        raise ValueError(f"Expected `std` to be positive in each channel. Received: std={std}")
    image = keras.Input(tuple(input_shape), name="image")
    # A product and a sum, because the quantised operators of TFLite know no division.
    scale = [1 / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return image, layers.Rescaling(scale, offset, name="normalization")(image)


def check_arguments(num_classes: Any, input_shape: Any) -> None:
    """Checks what all builders take.

    Raises:
        ValueError: If `num_classes` is not a positive integer, `input_shape` is not `(height, width, channels)`, or
            Keras is not set to channels last.
    """
    if not _is_positive(num_classes):
        raise ValueError(f"Expected `num_classes` to be a positive integer. Received: num_classes={num_classes!r}")
    dimensions = list(input_shape) if isinstance(input_shape, (list, tuple)) else []
    if len(dimensions) != 3 or not all(_is_positive(size) for size in dimensions):
        raise ValueError(
            "Expected `input_shape` to be three positive integers (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Expected `keras.config.image_data_format()` to be 'channels_last', the only order these networks are "
            f"built in. Received: '{keras.config.image_data_format()}'"
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _statistics(argument: str, values, default: Sequence[float], channels: int) -> list[float]:
    if values is None:
        values = default if channels == len(default) else [sum(default) / len(default)]
    values = [float(value) for value in values] if isinstance(values, (list, tuple)) else [values]
    if len(values) != channels or not all(isinstance(value, float) for value in values):
        raise ValueError(
            f"Expected `{argument}` to hold one number for each of the {channels} channels of `input_shape`, in pixel "
            f"units from 0 to 255. Received: {argument}={values}"
        )
    return values


def pad(x, kernel_size: int, strides: int, name: str):
    """Puts `kernel_size // 2` zeros on each side, if windows larger than one pixel are strided.

    Windows are then centred on pixels 0, 2, 4, ..., those that a strided 1x1 convolution beside them takes, as in
    PyTorch and `keras.applications`. Keras' `padding="same"` centres windows of 3 pixels on 1, 3, 5, ... where the size
    is even. Zeros are harmless to a maximum pooling that follows a ReLU.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        kernel_size: Height and width of the window that follows.
        strides: Its stride along height and width.
        name: Name of the padding layer.

    Returns:
        The padded tensor, and the `padding` of the layer that follows.
    """
    if kernel_size == 1 or strides == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel_size // 2, name=name)(x), "valid"


def max_pooling(x):
    """The maximum of 3x3 pixels at half the resolution, behind the ReLU of a stem."""
    x, padding = pad(x, 3, 2, "stem_pool_pad")
    return layers.MaxPooling2D(3, 2, padding=padding, name="stem_pool")(x)


def convolution(
    x, filters: int, kernel_size: int, strides: int = 1, *, name: str, index="", relu: bool = True, gamma="ones"
):
    """Convolution without bias, batch normalisation and, if `relu`, a ReLU.

    Strided windows are padded by `pad`; all others as `"same"` pads, which is the same there.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        strides: Stride along height and width.
        name: Where the layers are, e.g. `stage2_block1`.
        index: Number of the convolution there; ends the layer names, as in `stage2_block1_conv1`.
        relu: Whether a ReLU follows.
        gamma: Initializer of the batch normalisation's scale.

    Returns:
        Tensor of shape `(batch, ceil(height / strides), ceil(width / strides), filters)`.
    """
    x, padding = pad(x, kernel_size, strides, f"{name}_pad{index}")
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv{index}",
    )(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=f"{name}_bn{index}")(x)
    return layers.ReLU(name=f"{name}_relu{index}")(x) if relu else x


# === Shortcuts ===


def projection(x, filters: int, strides: int, name: str):
    """Shortcut type B: a strided 1x1 convolution with batch normalisation."""
    return convolution(x, filters, 1, strides, name=f"{name}_shortcut", relu=False)


def zero_padding(x, filters: int, strides: int, name: str):
    """Shortcut type A: every `strides`-th pixel, and zeros for the new channels. No weights."""
    if strides > 1:
        x = layers.AveragePooling2D(1, strides, name=f"{name}_shortcut_pool")(x)
    return FitChannels(filters, name=f"{name}_shortcut_pad")(x)


def pooled_projection(x, filters: int, strides: int, name: str):
    """Shortcut of the XResNet: average pooling instead of the stride, then the 1x1 convolution."""
    if strides > 1:
        x = layers.AveragePooling2D(strides, padding="same", name=f"{name}_shortcut_pool")(x)
    return projection(x, filters, 1, name)


# === Blocks and stages ===


def basic_block(x, filters: int, strides: int, name: str, gamma="ones"):
    """The main branch of a block of two 3x3 convolutions, `filters` wide."""
    x = convolution(x, filters, 3, strides, name=name, index=1)
    return convolution(x, filters, 3, name=name, index=2, relu=False, gamma=gamma)


def bottleneck_block(x, filters: int, strides: int, name: str, gamma="ones"):
    """The main branch of a block of 1x1, 3x3 (with the stride) and 1x1 convolutions; ends `4 * filters` wide."""
    x = convolution(x, filters, 1, name=name, index=1)
    x = convolution(x, filters, 3, strides, name=name, index=2)
    return convolution(x, 4 * filters, 1, name=name, index=3, relu=False, gamma=gamma)


# Blocks of each stage and their kind, by depth. Widths count before a bottleneck's expansion.
_BLOCKS = {
    18: ((2, 2, 2, 2), basic_block),
    34: ((3, 4, 6, 3), basic_block),
    50: ((3, 4, 6, 3), bottleneck_block),
    100: ((6, 8, 12, 6), bottleneck_block),
    101: ((3, 4, 23, 3), bottleneck_block),
    152: ((3, 8, 36, 3), bottleneck_block),
}
FILTERS = (64, 128, 256, 512)


def of_depth(depth: int, depths: Sequence[int]) -> tuple[tuple[int, ...], Callable]:
    """The blocks of each stage and the kind of block of a network of `depth` layers.

    Raises:
        ValueError: If `depth` is not among `depths`, those that the family has.
    """
    if depth not in depths:
        raise ValueError(f"Expected `depth` to be one of {tuple(depths)}. Received: depth={depth!r}")
    return _BLOCKS[depth]


def stages(
    x,
    blocks: Sequence[int],
    filters: Sequence[int],
    block: Callable = basic_block,
    shortcut: Callable = projection,
    gamma="ones",
):
    """Stages of residual blocks, each stage but the first at half the resolution of the one before.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        blocks: Number of blocks of each stage.
        filters: Width of each stage.
        block: `basic_block` or `bottleneck_block`: a block's main branch.
        shortcut: The shortcut of blocks that change the tensor's shape; all others are identities.
        gamma: Initializer of the scale of each block's last batch normalisation.

    Returns:
        The output of the last block's ReLU.
    """
    for stage, (count, width) in enumerate(zip(blocks, filters, strict=True), start=1):
        for number in range(1, count + 1):
            name = f"stage{stage}_block{number}"
            strides = 2 if stage > 1 and number == 1 else 1
            branch = block(x, width, strides, name, gamma)
            if strides > 1 or x.shape[-1] != branch.shape[-1]:
                x = shortcut(x, branch.shape[-1], strides, name)
            x = layers.Add(name=f"{name}_add")([branch, x])
            x = layers.ReLU(name=f"{name}_relu")(x)
    return x


def classifier(x, num_classes: int, activation: str | Callable | None):
    """Global average pooling and the dense layer `logits`."""
    x = layers.GlobalAveragePooling2D(name="head_pool")(x)
    return layers.Dense(num_classes, activation=activation, name="logits")(x)
