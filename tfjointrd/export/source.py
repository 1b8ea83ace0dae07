"""A network on its way to a file: the forms of it that quantizers start from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from tfjointrd.export.interpreter import quiet
from tfjointrd.export.samples import flat_layers
from tfjointrd.files import write
from tfjointrd.surgery.output_activation import named_outputs, output_names
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.weights import settle


class Source:
    """What a file is made of: the network as a SavedModel and as a float32 `.tflite` file, made when asked for.

    Args:
        model: The network, in float32.
        folder: Where the SavedModel is put, or is; the float32 file is put into it too.
        input_type: Number format that the file's input shall have.
        output_type: Likewise of the output.
    """

    def __init__(self, model: keras.Model, folder: Path, input_type: str = "float32", output_type: str = "float32"):
        self.model, self.folder = model, folder
        self.input_type, self.output_type = input_type, output_type

    @property
    def name(self) -> str:
        """The network's name."""
        return self.model.name

    @property
    def layers(self) -> list[str]:
        """The names of the network's layers, those of networks within it too."""
        return [layer.name for layer in flat_layers(self.model)]

    def saved_model(self) -> Path:
        """The folder of the SavedModel."""
        if not (self.folder / "saved_model.pb").exists():
            with quiet():
                _save(self.model, self.folder)
        return self.folder

    def float32_file(self) -> bytes:
        """The content of the float32 file."""
        kept = self.saved_model() / "float32.tflite"
        if not kept.exists():
            write(kept, self.convert())
        return kept.read_bytes()

    def convert(self, configure: Callable[[Any], None] | None = None) -> bytes:
        """The content of a file by TensorFlow's converter, with TFLite's builtin operators alone.

        Args:
            configure: Function that sets more of the `tf.lite.TFLiteConverter`.

        Raises:
            ValueError: If the network needs another operator.
        """
        import tensorflow as tf

        # By way of a SavedModel: conversion from a concrete function loses the weights of Keras 3 networks.
        folder = self.saved_model()
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if configure is not None:
                configure(converter)
            try:
                return converter.convert()
            except Exception as error:
                reasons = re.findall(r"^(?:Custom|Flex) ops: .*$", str(error), re.MULTILINE) or [str(error)]
                raise ValueError(
                    f"'{self.model.name}' cannot be converted with TFLite's builtin operators alone. "
                    f"{' '.join(reasons)}"
                ) from error


class FileSource:
    """A float32 `.tflite` file that other files are made from.

    Args:
        content: The file's content.
        name: Its name, for messages.
        input_type: As for `Source`, and so is `output_type`.
        output_type: See `input_type`.
    """

    layers = None  # unknown

    def __init__(self, content: bytes, name: str, input_type: str = "float32", output_type: str = "float32"):
        self.content, self.name, self.input_type, self.output_type = content, name, input_type, output_type

    def float32_file(self) -> bytes:
        """The content of the float32 file."""
        return self.content


def in_float32(model: keras.Model) -> keras.Model:
    """The network itself, or if it computes in another precision, the same network in float32."""
    if all(layer.dtype_policy.name == "float32" for layer in flat_layers(model)):
        return model
    try:
        clone = keras.models.clone_model(
            model, clone_function=lambda layer: type(layer).from_config(_float32_config(layer.get_config()))
        )
        clone.set_weights(model.get_weights())
    except (TypeError, ValueError):  # networks within that share layers, or hold what Keras does not make again
        return _written_out(model)
    for layer in flat_layers(clone):
        settle(layer)
    return clone


def _written_out(model: keras.Model) -> keras.Model:
    """The network in float32 as the layers that it calls, in one."""
    graph, layers = read_graph(model), {}
    for name, spec in graph.layers.items():
        config = _float32_config(spec.config)
        if spec.cls.__name__ == "Cast" and config.get("dtype") in ("float16", "bfloat16"):
            config["dtype"] = "float32"
        layers[name] = replace(spec, config=config)
    return replace(graph, layers=layers).build()


def _float32_config(config: Any) -> Any:
    """A layer's configuration with each dtype policy in it, nested layers included, replaced by float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return "float32"
        return {key: _float32_config(value) for key, value in config.items()}
    return [_float32_config(value) for value in config] if isinstance(config, list) else config


def file_name(name: str) -> str:
    """The name that an input or output of the network has in a file."""
    return re.sub(r"\W", "_", name)


def _save(model: keras.Model, folder: Path) -> None:
    """Writes a SavedModel for one image at a time, with the names of the Keras network at its interface."""
    import tensorflow as tf

    names = output_names(read_graph(model))
    own = names if len(names) > 1 else [model.layers[-1].name]
    input_name, *file_names = map(file_name, (model.inputs[0].name, *own))
    signature = tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32", name=input_name)

    def outputs(x):
        return dict(zip(file_names, named_outputs(names, model(x, training=False)).values(), strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", outputs, [signature])
    archive.write_out(str(folder), verbose=False)
