"""XResNets: ResNets with a stem of three convolutions and average pooling in their shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfjointrd.models import blocks
from tfjointrd.models.naming import depth_function
from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD


def xresnet(
    depth: int,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    zero_gamma: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classifier_activation: str | Callable | None = None,
    name: str | None = None,
) -> keras.Model:
    """XResNet for large images: a stem of three 3x3 convolutions and four stages of 64 to 512 channels.

    Stage widths count before a bottleneck's expansion by four; its 3x3 convolution has the stride. Shortcuts that
    change the tensor's shape pool the average of 2x2 pixels, then project. Depth 100 has twice the blocks of 50.

    Args:
        depth: Number of layers: 18, 34, 50, 100, 101 or 152.
        num_classes: Number of outputs.
        input_shape: `(height, width, channels)` of an image.
        zero_gamma: Start every block as its shortcut alone, with a scale of zero in its last batch normalisation. Say
            `False` if the shortcuts will be removed before training: without them, nothing would get through.
        mean: Mean of each channel in pixel units from 0 to 255. By default ImageNet's.
        std: Standard deviation of each channel in the same units. By default ImageNet's.
        classifier_activation: Activation of the last layer; by default the network returns logits.
        name: The network's name.

    Returns:
        A functional `keras.Model` from raw pixels `(batch, height, width, channels)` to `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is not one of those described.

    Example:

    >>> tfjointrd.models.xresnet(18, num_classes=100).output_shape
    (None, 100)

    Reference:
        Bag of Tricks for Image Classification with Convolutional Neural Networks (https://arxiv.org/abs/1812.01187),
        section 4; the variant is that of Adjoined Networks (https://arxiv.org/abs/2006.05624), section 6.
    """
    blocks.check_arguments(num_classes, input_shape)
    counts, block = blocks.of_depth(depth, (18, 34, 50, 100, 101, 152))
    image, x = blocks.image_input(input_shape, mean, std, IMAGENET_MEAN, IMAGENET_STD)

    # === Functional model ===
    for index, (filters, strides) in enumerate(((32, 2), (64, 1), (64, 1)), start=1):
        x = blocks.convolution(x, filters, 3, strides, name="stem", index=index)
    x = blocks.max_pooling(x)
    gamma = "zeros" if zero_gamma else "ones"
    x = blocks.stages(x, counts, blocks.FILTERS, block, blocks.pooled_projection, gamma)
    outputs = blocks.classifier(x, num_classes, classifier_activation)
    return keras.Model(image, outputs, name=name or f"xresnet{depth}")


xresnet18 = depth_function(xresnet, 18, "xresnet18")
xresnet34 = depth_function(xresnet, 34, "xresnet34")
xresnet50 = depth_function(xresnet, 50, "xresnet50")
xresnet100 = depth_function(xresnet, 100, "xresnet100")
xresnet101 = depth_function(xresnet, 101, "xresnet101")
xresnet152 = depth_function(xresnet, 152, "xresnet152")
