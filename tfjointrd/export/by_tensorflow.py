"""Number formats by TensorFlow's converter, which starts from the network.

Neither this module nor `by_litert` imports Keras, TensorFlow or litert-quantizer before a file is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfjointrd.export.quantizer import FLOAT32, register_quantizer

if TYPE_CHECKING:
    import numpy as np

    from tfjointrd.export.source import Source

INT8 = {"needs_images": True, "types": (FLOAT32, "uint8", "int8"), "input_type": "uint8"}
INT16 = {"needs_images": True, "types": (FLOAT32, "int16")}
DESCRIPTIONS = {
    "float16": "weights in float16, computed in float",
    "dynamic": "int8 weights, activations quantized while the file runs",
    "int8": "static: int8 weights and activations, calibrated on images",
    "int16x8": "static: int8 weights, int16 activations, calibrated on images",
    "int4": "int4 weights of convolutions and dense layers, activations quantized while the file runs",
}


@register_quantizer(FLOAT32, exact=True)
def float32(source: Source, images: None = None) -> bytes:
    """The network as it is."""
    return source.float32_file()


@register_quantizer("float16", description=DESCRIPTIONS["float16"])
def float16(source: Source, images: None = None) -> bytes:
    """Weights as 16-bit floats."""
    import tensorflow as tf

    return source.convert(_optimized(supported_types=[tf.float16]))


@register_quantizer("dynamic", description=DESCRIPTIONS["dynamic"])
def dynamic(source: Source, images: None = None) -> bytes:
    """Weights as 8-bit integers; ranges of activations are those of the image at hand."""
    return source.convert(_optimized())


@register_quantizer("int8", description=DESCRIPTIONS["int8"], **INT8)
def int8(source: Source, images: np.ndarray) -> bytes:
    """Weights and activations as 8-bit integers."""
    import tensorflow as tf

    from tfjointrd.export.int8_scales import with_usable_scales

    return with_usable_scales(source.convert(_static(source, images, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)))


@register_quantizer("int16x8", description=DESCRIPTIONS["int16x8"], **INT16)
def int16x8(source: Source, images: np.ndarray) -> bytes:
    """Weights as 8-bit, activations as 16-bit integers."""
    import tensorflow as tf

    operators = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return source.convert(_static(source, images, operators))


def _optimized(**target):
    import tensorflow as tf

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        for name, value in target.items():
            setattr(converter.target_spec, name, value)

    return configure


def _static(source: Source, images: np.ndarray, operators):
    import tensorflow as tf

    from tfjointrd.export.samples import with_pixel_limits

    images = with_pixel_limits(images)

    def configure(converter):
        _optimized(supported_ops=[operators])(converter)
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.inference_input_type = tf.as_dtype(source.input_type)
        converter.inference_output_type = tf.as_dtype(source.output_type)

    return configure
