"""`.tflite` files for phones, each run and compared with its Keras network before it is handed over.

`TFLiteModel` needs neither Keras nor TensorFlow, and `import tfjointrd.export` imports neither.
"""

from typing import TYPE_CHECKING

from tfjointrd import lazy as _lazy

if TYPE_CHECKING:
    from tfjointrd.export.convert import quantize_file, tflite
    from tfjointrd.export.interpreter import TFLiteModel
    from tfjointrd.export.metadata import FileMetadata, describe_file, read_metadata
    from tfjointrd.export.quantize import Quantizer, register_quantizer
    from tfjointrd.export.tf_keras_bridge.optimize import cluster_weights, prune_low_magnitude, quantization_aware
    from tfjointrd.export.tf_keras_bridge.quantized import QuantizedNetwork
    from tfjointrd.export.tf_keras_bridge.translate import to_tf_keras
    from tfjointrd.export.verify import ExportReport, accuracy

__all__ = [
    "ExportReport",
    "FileMetadata",
    "QuantizedNetwork",
    "Quantizer",
    "TFLiteModel",
    "accuracy",
    "cluster_weights",
    "describe_file",
    "prune_low_magnitude",
    "quantization_aware",
    "quantize_file",
    "read_metadata",
    "register_quantizer",
    "tflite",
    "to_tf_keras",
]

_NAMES = {
    "convert": ("quantize_file", "tflite"),
    "interpreter": ("TFLiteModel",),
    "metadata": ("FileMetadata", "describe_file", "read_metadata"),
    "quantize": ("Quantizer", "register_quantizer"),
    "tf_keras_bridge.optimize": ("cluster_weights", "prune_low_magnitude", "quantization_aware"),
    "tf_keras_bridge.quantized": ("QuantizedNetwork",),
    "tf_keras_bridge.translate": ("to_tf_keras",),
    "verify": ("ExportReport", "accuracy"),
}

__getattr__ = _lazy.attributes(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)


def __dir__() -> list[str]:
    return list(__all__)
