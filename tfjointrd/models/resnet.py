"""ResNets for small and for large images, by depth.

Three families share their code: `cifar_resnet` (three narrow stages, 6n + 2 layers), `wide_resnet` (four wide stages
at full resolution) and `imagenet_resnet` (four stages behind a stem that divides the resolution by four).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfjointrd.models import blocks
from tfjointrd.models.naming import depth_function
from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD

_SHORTCUTS = {"A": blocks.zero_padding, "B": blocks.projection}


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    shortcut: str = "B",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classifier_activation: str | Callable | None = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet for small images: three stages, 16, 32 and 64 channels wide.

    Args:
        depth: Number of layers: 6n + 2 for n blocks in each stage.
        num_classes: Number of outputs.
        input_shape: `(height, width, channels)` of an image.
        shortcut: Where a block changes its tensor's shape, `"B"` projects with a 1x1 convolution; `"A"` subsamples
            and pads with zero channels, without weights. All other shortcuts are identities.
        mean: Mean of each channel in pixel units from 0 to 255. By default CIFAR-10's.
        std: Standard deviation of each channel in the same units. By default CIFAR-10's.
        classifier_activation: Activation of the last layer; by default the network returns logits.
        name: The network's name.

    Returns:
        A functional `keras.Model` from raw pixels `(batch, height, width, channels)` to `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not one of those described.

    Example:

    >>> tfjointrd.models.cifar_resnet(20, num_classes=100).output_shape
    (None, 100)

    Reference:
        Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385), section 4.2.
    """
    blocks.check_arguments(num_classes, input_shape)
    if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
        raise ValueError(f"Expected `depth` to be 6n + 2 with n at least 1, as in 20 or 56. Received: depth={depth!r}")
    if shortcut not in _SHORTCUTS:
        raise ValueError(f"Expected `shortcut` to be 'A' or 'B'. Received: shortcut={shortcut!r}")
    image, x = blocks.image_input(input_shape, mean, std, blocks.CIFAR10_MEAN, blocks.CIFAR10_STD)

    # === Functional model ===
    x = blocks.convolution(x, 16, 3, name="stem")
    x = blocks.stages(x, 3 * [(depth - 2) // 6], (16, 32, 64), shortcut=_SHORTCUTS[shortcut])
    outputs = blocks.classifier(x, num_classes, classifier_activation)
    return keras.Model(image, outputs, name=name or f"resnet{depth}")


def wide_resnet(
    depth: int,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classifier_activation: str | Callable | None = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet for small images with the widths of the large ones: four stages of 64 to 512 channels.

    The first stage runs at the image's own resolution. Stage widths count before a bottleneck's expansion by four;
    its 3x3 convolution has the stride.

    Args:
        depth: Number of layers: 18, 34 or 50.
        num_classes: Number of outputs.
        input_shape: `(height, width, channels)` of an image.
        mean: Mean of each channel in pixel units from 0 to 255. By default CIFAR-10's.
        std: Standard deviation of each channel in the same units. By default CIFAR-10's.
        classifier_activation: Activation of the last layer; by default the network returns logits.
        name: The network's name.

    Returns:
        A functional `keras.Model` from raw pixels `(batch, height, width, channels)` to `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not one of those described.

    Example:

    >>> tfjointrd.models.wide_resnet(18, num_classes=100).output_shape
    (None, 100)

    Reference:
        Residual Distillation (NeurIPS 2020), the networks of its CIFAR experiments.
    """
    blocks.check_arguments(num_classes, input_shape)
    counts, block = blocks.of_depth(depth, (18, 34, 50))
    image, x = blocks.image_input(input_shape, mean, std, blocks.CIFAR10_MEAN, blocks.CIFAR10_STD)

    # === Functional model ===
    x = blocks.convolution(x, 64, 3, name="stem")
    x = blocks.stages(x, counts, blocks.FILTERS, block)
    outputs = blocks.classifier(x, num_classes, classifier_activation)
    return keras.Model(image, outputs, name=name or f"wide_resnet{depth}")


def imagenet_resnet(
    depth: int,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classifier_activation: str | Callable | None = None,
    name: str | None = None,
) -> keras.Model:
    """ResNet for large images: a 7x7 stem and four stages of 64 to 512 channels.

    Stage widths count before a bottleneck's expansion by four; its 3x3 convolution has the stride.

    Args:
        depth: Number of layers: 18, 34, 50, 101 or 152.
        num_classes: Number of outputs.
        input_shape: `(height, width, channels)` of an image.
        mean: Mean of each channel in pixel units from 0 to 255. By default ImageNet's.
        std: Standard deviation of each channel in the same units. By default ImageNet's.
        classifier_activation: Activation of the last layer; by default the network returns logits.
        name: The network's name.

    Returns:
        A functional `keras.Model` from raw pixels `(batch, height, width, channels)` to `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not one of those described.

    Example:

    >>> tfjointrd.models.imagenet_resnet(18, num_classes=100).output_shape
    (None, 100)

    Reference:
        Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385), Table 1.
    """
    blocks.check_arguments(num_classes, input_shape)
    counts, block = blocks.of_depth(depth, (18, 34, 50, 101, 152))
    image, x = blocks.image_input(input_shape, mean, std, IMAGENET_MEAN, IMAGENET_STD)

    # === Functional model ===
    x = blocks.convolution(x, 64, 7, 2, name="stem")
    x = blocks.max_pooling(x)
    x = blocks.stages(x, counts, blocks.FILTERS, block)
    outputs = blocks.classifier(x, num_classes, classifier_activation)
    return keras.Model(image, outputs, name=name or f"resnet{depth}")


resnet20 = depth_function(cifar_resnet, 20, "resnet20")
resnet32 = depth_function(cifar_resnet, 32, "resnet32")
resnet44 = depth_function(cifar_resnet, 44, "resnet44")
resnet56 = depth_function(cifar_resnet, 56, "resnet56")
resnet110 = depth_function(cifar_resnet, 110, "resnet110")
wide_resnet18 = depth_function(wide_resnet, 18, "wide_resnet18")
wide_resnet34 = depth_function(wide_resnet, 34, "wide_resnet34")
wide_resnet50 = depth_function(wide_resnet, 50, "wide_resnet50")
resnet18 = depth_function(imagenet_resnet, 18, "resnet18")
resnet34 = depth_function(imagenet_resnet, 34, "resnet34")
resnet50 = depth_function(imagenet_resnet, 50, "resnet50")
resnet101 = depth_function(imagenet_resnet, 101, "resnet101")
resnet152 = depth_function(imagenet_resnet, 152, "resnet152")
