"""Networks that the bridge to tf_keras is tried on."""

import keras

import tfjointrd as jrd
from tfjointrd.models import cifar_resnet

CIFAR = {"num_classes": 5, "input_shape": (16, 16, 3)}
OURS = {
    "cifar_resnet": lambda: cifar_resnet(8, shortcut="A", **CIFAR),
    "cifar_resnet projections": lambda: cifar_resnet(8, shortcut="B", **CIFAR),
    "plain": lambda: jrd.remove_shortcuts(cifar_resnet(8, **CIFAR)),
    "dirac": lambda: jrd.dirac(jrd.remove_shortcuts(cifar_resnet(8, **CIFAR))),
    "pair": lambda: jrd.adjoin(cifar_resnet(8, **CIFAR), alpha=2).small(),
    "pruned": lambda: jrd.prune(cifar_resnet(8, **CIFAR), target_macs=0.6),
}
MORE = {
    "resnet50": lambda: jrd.models.resnet50(num_classes=5, input_shape=(64, 64, 3)),
    "xresnet50": lambda: jrd.models.xresnet50(num_classes=5, input_shape=(64, 64, 3)),
    "densenet121": lambda: jrd.models.densenet121(num_classes=5, input_shape=(64, 64, 3)),
}
APPLICATIONS = {"MobileNet": {"alpha": 0.25}, "MobileNetV2": {"alpha": 0.35}, "MobileNetV3Small": {}}
SLOW_APPLICATIONS = {
    **dict.fromkeys(["VGG16", "ResNet50", "ResNet50V2", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0"], {}),
    **dict.fromkeys(["MobileNetV3Large", "NASNetMobile"], {}),
}
LARGER = {**dict.fromkeys(["InceptionV3", "InceptionResNetV2"], 75), "Xception": 71}


def application(name, size=32, **options):
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=5, **options)
