"""Networks as plain functional `keras.Model`s from raw pixels to logits."""

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

__all__ = [
    "cifar_resnet",
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
]
