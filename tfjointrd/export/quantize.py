"""The number formats of `.tflite` files: one function makes the file of each.

`export.tflite`, the command line and the cards of trainings offer what is registered here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tfjointrd.export.source import Source

FLOAT32 = "float32"


@dataclass(frozen=True)
class Quantizer:
    """How files of a number format are made, and what they are like.

    Attributes:
        name: What the format is called, in `export.tflite(quantization=...)` too.
        function: `(source, images) -> bytes`, the content of the file; see `tfjointrd.export.source.Source`.
        needs_images: Whether it calibrates on images, `(count, height, width, channels)` in float32; else they are
            `None`.
        types: The number formats that the file's input and output may have.
        input_type: The one that its input has by default; that of its output is float32.
        exact: Whether the file computes what the network computes but for rounding. Otherwise, it names the same class,
            or where there is none, has a small relative error.
    """

    name: str
    function: Callable[[Source, np.ndarray | None], bytes]
    needs_images: bool = False
    types: tuple[str, ...] = (FLOAT32,)
    input_type: str = FLOAT32
    exact: bool = False

    @property
    def argument(self) -> str | None:
        """What `export.tflite(quantization=...)` takes for it: the name, but `None` for float32."""
        return None if self.name == FLOAT32 else self.name


_QUANTIZERS: dict[str, Quantizer] = {}


def register_quantizer(name: str, **options) -> Callable[[Callable], Callable]:
    """Decorates a function that makes the files of a number format.

    Args:
        name: As for `Quantizer`, and so are the `options`.
        **options: See `name`.

    Raises:
        ValueError: If there is one of that name.

    Example:

    >>> @register_quantizer("float16")
    ... def float16(source, images):
    ...     def use_float16(converter):
    ...         converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ...         converter.target_spec.supported_types = [tf.float16]
    ...     return source.convert(use_float16)
    """

    def register(function):
        if name in _QUANTIZERS:
            raise ValueError(f"Expected the name of a new quantizer. Received: name='{name}'")
        _QUANTIZERS[name] = Quantizer(name, function, **options)
        return function

    return register


def get(quantization: str | None) -> Quantizer:
    """The quantizer that `export.tflite(quantization=...)` means.

    Raises:
        ValueError: If there is none.
    """
    found = _QUANTIZERS.get(FLOAT32 if quantization is None else quantization)
    if found is None or quantization == FLOAT32:
        *others, last = (repr(name) for name in arguments().values())
        raise ValueError(
            f"Expected `quantization` to be {', '.join(others)} or {last}. Received: quantization={quantization!r}"
        )
    return found


def arguments() -> dict[str, str | None]:
    """The name of each number format, float32 first, and what `export.tflite(quantization=...)` takes for it."""
    return {name: quantizer.argument for name, quantizer in _QUANTIZERS.items()}


@register_quantizer(FLOAT32, exact=True)
def float32(source: Source, images: None = None) -> bytes:
    """The network as it is."""
    return source.float32_file()


@register_quantizer("int8", needs_images=True, types=(FLOAT32, "uint8", "int8"), input_type="uint8")
def int8(source: Source, images: np.ndarray) -> bytes:
    """Weights and activations as 8-bit integers, in TensorFlow's converter."""
    import tensorflow as tf

    from tfjointrd.export.int8_scales import with_usable_scales
    from tfjointrd.export.samples import with_pixel_limits

    images = with_pixel_limits(images)

    def quantize(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.inference_input_type = tf.as_dtype(source.input_type)
        converter.inference_output_type = tf.as_dtype(source.output_type)

    return with_usable_scales(source.convert(quantize))
