"""Networks as plain functional `keras.Model`s from raw pixels to logits."""

from tfjointrd.models.densenet import densenet, densenet121, densenet169, densenet201
from tfjointrd.models.resnet import (
    cifar_resnet,
    imagenet_resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    wide_resnet,
    wide_resnet18,
    wide_resnet34,
    wide_resnet50,
)
from tfjointrd.models.xresnet import (
    xresnet,
    xresnet18,
    xresnet34,
    xresnet50,
    xresnet100,
    xresnet101,
    xresnet152,
)

__all__ = [
    "cifar_resnet",
    "densenet",
    "densenet121",
    "densenet169",
    "densenet201",
    "imagenet_resnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "wide_resnet",
    "wide_resnet18",
    "wide_resnet34",
    "wide_resnet50",
    "xresnet",
    "xresnet18",
    "xresnet34",
    "xresnet50",
    "xresnet100",
    "xresnet101",
    "xresnet152",
]


def __dir__() -> list[str]:
    return list(__all__)
