"""DenseNets: every layer of a stage takes the outputs of all layers before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers

from tfjointrd.models import blocks
from tfjointrd.models.naming import depth_function
from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD

GROWTH = 32
_LAYERS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
STEMS = ("imagenet", "cifar")


def densenet(
    depth: int,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    stem: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classifier_activation: str | Callable | None = None,
    name: str | None = None,
) -> keras.Model:
    """DenseNet for large and small images: bottlenecks and compression (DenseNet-BC), 32 channels more a layer.

    Args:
        depth: Number of layers: 121, 169 or 201.
        num_classes: Number of outputs.
        input_shape: `(height, width, channels)` of an image.
        stem: `"imagenet"` (a 7x7 convolution and a pooling, a quarter of the resolution) or `"cifar"` (a 3x3
            convolution at full resolution); by default the latter for images below 64 pixels.
        mean: Mean of each channel in pixel units from 0 to 255. By default ImageNet's, or CIFAR-10's with that stem.
        std: Standard deviation of each channel in the same units. By default likewise.
        classifier_activation: Activation of the last layer; by default the network returns logits.
        name: The network's name.

    Returns:
        A functional `keras.Model` from raw pixels `(batch, height, width, channels)` to `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not one of those described.

    Example:

    >>> tfjointrd.models.densenet(121, num_classes=100).output_shape
    (None, 100)

    Reference:
        Densely Connected Convolutional Networks (https://arxiv.org/abs/1608.06993), Table 1.
    """
    blocks.check_arguments(num_classes, input_shape)
    if depth not in _LAYERS:
        raise ValueError(f"Expected `depth` to be one of {tuple(_LAYERS)}. Received: depth={depth!r}")
    if stem is None:
        stem = "cifar" if min(input_shape[:2]) < 64 else "imagenet"
    if stem not in STEMS:
        raise ValueError(f"Expected `stem` to be one of {STEMS} or None. Received: stem={stem!r}")
    cifar = stem == "cifar"
    defaults = (blocks.CIFAR10_MEAN, blocks.CIFAR10_STD) if cifar else (IMAGENET_MEAN, IMAGENET_STD)
    image, x = blocks.image_input(input_shape, mean, std, *defaults)

    # === Functional model ===
    if cifar:
        x = _convolution(x, 2 * GROWTH, 3, "stem_conv")
    else:
        x = blocks.convolution(x, 2 * GROWTH, 7, 2, name="stem")
        x = blocks.max_pooling(x)
    for stage, count in enumerate(_LAYERS[depth], start=1):
        if stage > 1:
            x = _normalized(x, f"stage{stage}_transition")
            x = _convolution(x, x.shape[-1] // 2, 1, f"stage{stage}_transition_conv")
            x = layers.AveragePooling2D(2, name=f"stage{stage}_transition_pool")(x)
        for number in range(1, count + 1):
            x = _dense_layer(x, f"stage{stage}_block{number}")
    x = _normalized(x, "head")
    outputs = blocks.classifier(x, num_classes, classifier_activation)
    return keras.Model(image, outputs, name=name or f"densenet{depth}")


def _dense_layer(x, name: str):
    """A 1x1 and a 3x3 convolution, each behind its normalisation, whose output is appended to their input."""
    branch = _convolution(_normalized(x, name, 1), 4 * GROWTH, 1, f"{name}_conv1")
    branch = _convolution(_normalized(branch, name, 2), GROWTH, 3, f"{name}_conv2")
    return layers.Concatenate(name=f"{name}_concat")([x, branch])


def _normalized(x, name: str, index=""):
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn{index}")(x)
    return layers.ReLU(name=f"{name}_relu{index}")(x)


def _convolution(x, filters: int, kernel_size: int, name: str):
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal", "name": name}
    return layers.Conv2D(filters, kernel_size, **options)(x)


densenet121 = depth_function(densenet, 121, "densenet121")
densenet169 = depth_function(densenet, 169, "densenet169")
densenet201 = depth_function(densenet, 201, "densenet201")
