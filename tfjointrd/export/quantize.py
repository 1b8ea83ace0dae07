"""The number formats of `.tflite` files, by name and by layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from tfjointrd.export import by_litert, by_tensorflow  # noqa: F401  they register what they make
from tfjointrd.export.quantizer import FLOAT32, LITERT, TENSORFLOW, Quantizer, register_quantizer, registered

__all__ = [
    "FLOAT32",
    "LITERT",
    "Quantizer",
    "arguments",
    "defaults",
    "describe",
    "get",
    "register_quantizer",
    "registered",
]


def get(quantization: str | Mapping[str, str | None] | None, converter: str | None = None) -> Quantizer:
    """The quantizer that `export.tflite(quantization=..., converter=...)` means.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(quantization, Mapping):
        return _by_layer(quantization, converter)
    named = registered().get(FLOAT32 if quantization is None else quantization)
    if named is None or quantization == FLOAT32:
        raise ValueError(f"Expected `quantization` to be {_any_of()}. Received: quantization={quantization!r}")
    if converter is None:
        return _best(named)
    if converter not in named:
        expected = ", ".join(map(repr, named))
        raise ValueError(
            f"Expected `converter` to be one of None, {expected} with quantization={quantization!r}. "
            f"Received: converter={converter!r}"
        )
    return named[converter]


def arguments() -> dict[str, str | None]:
    """The name of each number format, float32 first, and what `export.tflite(quantization=...)` takes for it."""
    return {name: found.argument for name, found in defaults().items()}


def defaults() -> dict[str, Quantizer]:
    """How files of each number format are made by default."""
    return {name: _best(found) for name, found in registered().items()}


def describe(quantization: str | Mapping[str, str | None] | None) -> str:
    """A quantization in words, for messages."""
    if isinstance(quantization, Mapping):
        return ", ".join(f"'{pattern}' in {name or FLOAT32}" for pattern, name in quantization.items())
    found = registered().get(quantization or FLOAT32)
    return str(_best(found)) if found else str(quantization)


def _best(named: Mapping[str, Quantizer]) -> Quantizer:
    """What makes the better file of a format, where several can.

    Accuracies and bytes of both hardly differ (benchmarks/quantization.md), and litert-quantizer's also read float32
    files without TensorFlow. But it knows fewer operators in integers and leaves others in float, where TensorFlow's
    converter may not have to.
    """
    best = named.get(LITERT) or next(iter(named.values()))
    other = named.get(TENSORFLOW)
    if best.converter != LITERT or other is None or not best.needs_images:
        return best

    def function(source, images):
        from tfjointrd.export.file_graph import in_integers

        content = best.function(source, images)
        if source.layers is not None and not in_integers(content):
            with suppress(ValueError):  # an operator that it does not know in integers either
                return other.function(source, images)
        return content

    return replace(best, function=function)


def _by_layer(given: Mapping[str, str | None], converter: str | None) -> Quantizer:
    formats = {pattern: FLOAT32 if name is None else name for pattern, name in given.items()}
    unknown = {pattern: name for pattern, name in formats.items() if name not in by_litert.FORMATS}
    if unknown or not formats:
        raise ValueError(
            "Expected `quantization` to map names or patterns of layers to "
            f"{', '.join(map(repr, by_litert.FORMATS))}. Received: quantization={unknown or formats!r}"
        )
    if converter not in (None, LITERT):
        raise ValueError(
            f"Expected `converter` to be None or '{LITERT}' with a quantization for each layer. "
            f"Received: converter={converter!r}"
        )
    parts = [registered()[name][LITERT] for name in formats.values() if name != FLOAT32]
    in_bytes = next((part for part in parts if part.input_type != FLOAT32), None)
    return Quantizer(
        name=describe(formats),
        function=partial(by_litert.by_layer, formats=formats),
        needs_images=any(part.needs_images for part in parts),
        types=in_bytes.types if in_bytes else (FLOAT32,),
        input_type=in_bytes.input_type if in_bytes else FLOAT32,
        exact=not parts,
        converter=LITERT,
    )


def _any_of() -> str:
    *others, last = (repr(name) for name in arguments().values())
    return f"{', '.join(others)}, {last}, or a dict from patterns of layers' names to names of formats"
