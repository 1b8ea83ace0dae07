"""What makes the files of a number format, and the registry of these.

`export.tflite`, the command line and the cards of trainings offer what is registered here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tfjointrd.export.source import FileSource, Source

FLOAT32 = "float32"
TENSORFLOW, LITERT = "tensorflow", "litert"  # converters


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
        converter: Who makes the file: `"tensorflow"`, TensorFlow's converter, from the network; or `"litert"`, the
            litert-quantizer, from the float32 file.
        description: What the format is, in a few words; the name by default.
    """

    name: str
    function: Callable[[Source | FileSource, np.ndarray | None], bytes]
    needs_images: bool = False
    types: tuple[str, ...] = (FLOAT32,)
    input_type: str = FLOAT32
    exact: bool = False
    converter: str = TENSORFLOW
    description: str = ""

    @property
    def argument(self) -> str | None:
        """What `export.tflite(quantization=...)` takes for it: the name, but `None` for float32."""
        return None if self.name == FLOAT32 else self.name

    def __str__(self) -> str:
        """The format with its description, for messages."""
        return f"{self.name} ({self.description})" if self.description else self.name


_QUANTIZERS: dict[str, dict[str, Quantizer]] = {}  # name -> converter -> how; `quantize.defaults` chooses among them


def register_quantizer(name: str, **options) -> Callable[[Callable], Callable]:
    """Decorates a function that makes the files of a number format.

    Args:
        name: See `Quantizer`.
        **options: The other attributes of `Quantizer`.

    Raises:
        ValueError: If there is one of that name and converter.

    Example:

    >>> @register_quantizer("float16_by_hand")
    ... def float16(source, images):
    ...     def use_float16(converter):
    ...         converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ...         converter.target_spec.supported_types = [tf.float16]
    ...     return source.convert(use_float16)
    """

    def register(function):
        quantizer = Quantizer(name, function, **options)
        if quantizer.converter in _QUANTIZERS.get(name, {}):
            raise ValueError(f"Expected the name of a new quantizer. Received: name='{name}'")
        _QUANTIZERS.setdefault(name, {})[quantizer.converter] = quantizer
        return function

    return register


def registered() -> dict[str, dict[str, Quantizer]]:
    """All quantizers: name -> converter -> how."""
    return _QUANTIZERS
