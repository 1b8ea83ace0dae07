"""`.tflite` files for phones, each run and compared with its Keras network before it is handed over."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.calibration import batches, flat_layers, random_images, sample, with_pixel_limits
from tfjointrd.litert import TFLiteModel, quiet
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.weights import settle

__all__ = ["ExportReport", "TFLiteModel", "accuracy", "tflite"]

_TYPES = ("float32", "uint8", "int8")


@dataclass(frozen=True)
class ExportReport:
    """What a `.tflite` file is, and how it compares with its Keras network.

    Attributes:
        path: The file.
        bytes: Its size.
        quantization: `None` for float32, or `"int8"`.
        input_shape: Shape of its input, batch axis of 1 included.
        input_type: Number format of its input.
        input_quantization: `(scale, zero_point)` of its input; `(0.0, 0)` for floats.
        output_type: Number format of its output.
        output_quantization: Likewise of its output.
        images: Number of images both were run on.
        max_difference: Largest difference between the outputs.
        output_scale: Largest absolute output of the Keras network; what `max_difference` is to be seen against.
        top1_agreement: Share of the images on which both name the same class.
    """

    path: Path
    bytes: int
    quantization: str | None
    input_shape: tuple[int, ...]
    input_type: str
    input_quantization: tuple[float, int]
    output_type: str
    output_quantization: tuple[float, int]
    images: int
    max_difference: float
    output_scale: float
    top1_agreement: float

    def __str__(self) -> str:
        """The report in one line."""
        return (
            f"{self.path}: {self.bytes:,} bytes, {self.quantization or 'float32'}, {self.input_type} in, "
            f"{self.output_type} out; against Keras on {self.images} images: same class "
            f"{100 * self.top1_agreement:.1f} %, largest difference {self.max_difference:.2g} of outputs up to "
            f"{self.output_scale:.2g}"
        )


def tflite(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str | None = None,
    representative_data: Any = None,
    *,
    input_type: str | None = None,
    output_type: str = "float32",
    tolerance: float = 1e-3,
    min_agreement: float = 0.8,
    saved_model: str | os.PathLike | None = None,
) -> ExportReport:
    """Writes a classifier as a `.tflite` file and proves that it computes what the Keras network computes.

    The file has a fixed batch of one image and uses builtin operators only. It is run in the LiteRT interpreter and
    compared with the network on sample images first; a file that disagrees or returns NaN is an error and is not kept.
    A network in mixed precision is rebuilt in float32 before.

    With `quantization="int8"`, weights and activations are 8-bit integers. The file then takes raw pixels as bytes
    from 0 to 255, which is what a camera delivers, and returns floats. For hardware without floats, ask for
    `output_type="int8"`. A byte stands for its own value if the network takes pixels from 0 to 255; if it takes another
    range, `input_quantization` of the report says what a byte stands for.

    Args:
        model: A functional or Sequential network with one input `(batch, height, width, channels)` of fixed size and
            one output `(batch, classes)`, logits or probabilities.
        path: Where the file goes; its folder has to exist.
        quantization: `None` for float32, or `"int8"`.
        representative_data: Images the network was trained on or similar ones, in the range the network takes: an array
            `(count, height, width, channels)`, or an iterable (`tf.data.Dataset`, `keras.utils.PyDataset`, ...) of
            batches `x` or `(x, y)`, shuffled. Up to 256 images are taken. Needed for int8, to calibrate the ranges of
            activations; the file is checked on the half of them that it was not calibrated on. Optional for float32,
            which otherwise is checked on random images.
        input_type: `"uint8"`, `"int8"` or `"float32"`; by default `"uint8"` for int8 and `"float32"` otherwise.
        output_type: Likewise for the output.
        tolerance: Largest difference that a float32 file may have, as a share of the largest output. Rounding differs
            by 1e-6 to 1e-5 from one implementation to the next; what is really wrong differs by 1e-2 and more.
        min_agreement: Least share of images on which an int8 file has to name the network's class. Trained networks
            reach 0.95 and more. An untrained one may not, as its outputs hardly differ between classes.
        saved_model: Folder for the SavedModel by way of which the network is converted, temporary by default. A
            SavedModel that is there already is taken for that of `model`: what several files of one network share is
            then written once.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument does not fit, before any long work; if the network needs an operator that is not
            built into TFLite; if the file does not agree with the network.
        OSError: If `path` cannot be written.
        RuntimeError: If Keras does not run on TensorFlow.

    Example:

    ```python
    train, test = data.load("cifar10")
    report = export.tflite(model, "model.tflite", quantization="int8", representative_data=train)
    print(report, export.accuracy(report.path, test))
    ```
    """
    _check_network(model)
    input_type = input_type or ("uint8" if quantization == "int8" else "float32")
    _check_types(model, quantization, input_type, output_type, classes=min_agreement > 0)
    if quantization == "int8" and representative_data is None:
        raise ValueError("Expected `representative_data`, images to calibrate int8 on. Received: None")
    with _replacing(Path(path)) as part:
        images = random_images(model) if representative_data is None else sample(representative_data, model)
        model = _in_float32(model)
        calibration, check = (images[::2], images[1::2]) if quantization == "int8" else (None, images[::2])
        with tempfile.TemporaryDirectory() if saved_model is None else nullcontext(saved_model) as saved:
            part.write_bytes(_convert(model, Path(saved), calibration, input_type, output_type))
        report = _compare(model, part, check if len(check) else images, Path(path), quantization)
        _check_agreement(report, tolerance, min_agreement)
    return report


def accuracy(path: str | os.PathLike, data: Any, threads: int = 1) -> float:
    """Top-1 accuracy of a `.tflite` file.

    Args:
        path: The file.
        data: Arrays `(x, y)`, or an iterable of such batches. Labels are integers or one-hot.
        threads: Number of processor threads.

    Returns:
        The share of images whose class the file names.

    Raises:
        ValueError: If `data` holds no labels or no images, or the file has one output for all classes.
    """
    model, right, count = TFLiteModel(path, threads), 0, 0
    for x, y in batches(data):
        if y is None:
            raise ValueError("Expected `data` to hold batches (x, y). Received: batches without labels")
        y = np.asarray(y)
        labels = y.argmax(-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(-1)
        outputs = model.predict(x)
        if outputs.shape[-1] == 1:
            raise ValueError(
                f"Expected a file with one output for each class. Received: path='{path}', with one output"
            )
        right += int(np.sum(outputs.argmax(-1) == labels))
        count += len(labels)
    if not count:
        raise ValueError("Expected `data` to hold images. Received: none")
    return right / count


# === Arguments ===


def _check_network(model: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Files for phones are written on the TensorFlow backend. Save the network with `model.save('model.keras')` "
            "and load it in a process that was started with KERAS_BACKEND=tensorflow. "
            f"Received: backend '{keras.backend.backend()}'"
        )
    parts = [part for part in ("small()", "full()", "student") if hasattr(model, part.rstrip("()"))]
    if parts:
        options = " or ".join(f"`model.{part}`" for part in parts)
        raise ValueError(f"Expected one network to deploy, such as {options}. Received: {type(model).__name__}")
    functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "Expected `model` to have one input and one output; make a `keras.Model(inputs, output)` of the part to "
            f"deploy. Received: '{model.name}' with {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    shape, dtype = model.inputs[0].shape, keras.backend.standardize_dtype(model.inputs[0].dtype)
    if None in shape[1:] or not dtype.startswith(("float", "bfloat")):
        raise ValueError(
            "Expected `model` to take floats of a fixed size. Received: "
            f"'{model.name}' with an input of shape {tuple(shape)} and dtype {dtype}"
        )


def _check_types(
    model: keras.Model, quantization: str | None, input_type: str, output_type: str, classes: bool
) -> None:
    if quantization not in (None, "int8"):
        raise ValueError(f"Expected `quantization` to be None or 'int8'. Received: quantization={quantization!r}")
    allowed = _TYPES if quantization == "int8" else _TYPES[:1]
    for argument, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in allowed:
            raise ValueError(
                f"Expected `{argument}` to be one of {allowed} with quantization={quantization!r}. "
                f"Received: {argument}={value!r}"
            )
    if quantization == "int8" and classes and (model.outputs[0].shape[-1] or 0) < 2:
        raise ValueError(
            "Expected `model` to return a number for each of two or more classes, by which an int8 file is compared. "
            f"Received: '{model.name}' with an output of shape {tuple(model.outputs[0].shape)}"
        )


class _replacing:
    """Gives a file beside `path` to write to; it takes the place of `path` at the end, or is gone after an error."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        if self.path.is_dir():
            raise IsADirectoryError(f"Expected `path` to name a file. Received: the folder path='{self.path}'")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"Expected the folder of `path` to exist. Received: path='{self.path}'")
        try:
            self.part.touch()
        except OSError as error:
            raise type(error)(f"Expected `path` to be writable. Received: path='{self.path}' ({error})") from error
        return self.part

    def __exit__(self, error_type, *_):
        if error_type is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


# === Conversion ===


def _in_float32(model: keras.Model) -> keras.Model:
    """The network itself, or if it computes in another precision, the same network in float32."""
    if all(layer.dtype_policy.name == "float32" for layer in flat_layers(model)):
        return model
    clone = keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config(_float32_config(layer.get_config()))
    )
    clone.set_weights(model.get_weights())
    for layer in flat_layers(clone):
        settle(layer)
    return clone


def _float32_config(config: Any) -> Any:
    """A layer's configuration with each dtype policy in it, nested layers included, replaced by float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return "float32"
        return {key: _float32_config(value) for key, value in config.items()}
    return [_float32_config(value) for value in config] if isinstance(config, list) else config


def _convert(
    model: keras.Model, saved: Path, calibration: np.ndarray | None, input_type: str, output_type: str
) -> bytes:
    """The content of the `.tflite` file; int8 if there are images to calibrate on."""
    import tensorflow as tf

    from tfjointrd.scales import with_usable_scales

    # By way of a SavedModel: conversion from a concrete function loses the weights of Keras 3 networks.
    with quiet():
        if not (saved / "saved_model.pb").exists():
            _save(model, saved)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if calibration is not None:
            images = with_pixel_limits(calibration)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            converter.inference_input_type = tf.as_dtype(input_type)
            converter.inference_output_type = tf.as_dtype(output_type)
        try:
            content = converter.convert()
        except Exception as error:
            reasons = re.findall(r"^(?:Custom|Flex) ops: .*$", str(error), re.MULTILINE) or [str(error)]
            raise ValueError(
                f"'{model.name}' cannot be converted with TFLite's builtin operators alone. {' '.join(reasons)}"
            ) from error
    return content if calibration is None else with_usable_scales(content)


def _save(model: keras.Model, folder: Path) -> None:
    """Writes a SavedModel for one image at a time, with the names of the Keras network at its interface."""
    import tensorflow as tf

    input_name, output_name = (re.sub(r"\W", "_", name) for name in (model.inputs[0].name, model.layers[-1].name))
    signature = tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32", name=input_name)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", lambda x: {output_name: model(x, training=False)}, [signature])
    archive.write_out(str(folder), verbose=False)


# === Comparison ===


def _compare(model: keras.Model, part: Path, images: np.ndarray, path: Path, quantization: str | None) -> ExportReport:
    """Runs file and network on the same images."""
    file = TFLiteModel(part)
    actual = file.predict(images)
    pieces = np.array_split(images, -(-len(images) // 32))
    expected = np.concatenate([keras.ops.convert_to_numpy(model(piece, training=False)) for piece in pieces])
    if not np.isfinite(expected).all():
        raise ValueError(f"Expected `model` to return finite numbers. Received: '{model.name}', which does not")
    return ExportReport(
        path=path,
        bytes=part.stat().st_size,
        quantization=quantization,
        input_shape=file.input_shape,
        input_type=file.input_type,
        input_quantization=file.input_quantization,
        output_type=file.output_type,
        output_quantization=file.output_quantization,
        images=len(images),
        max_difference=float(np.abs(actual - expected).max()),
        output_scale=float(np.abs(expected).max()),
        top1_agreement=float(np.mean(actual.argmax(-1) == expected.argmax(-1))),
    )


def _check_agreement(report: ExportReport, tolerance: float, min_agreement: float) -> None:
    # A comparison with NaN is false, so that NaN fails both.
    if report.quantization is None:
        agrees = report.max_difference <= tolerance * report.output_scale
        wanted = f"a largest difference of at most {tolerance} of the outputs"
    else:
        agrees = report.top1_agreement >= min_agreement and np.isfinite(report.max_difference)
        wanted = f"the same class on at least {100 * min_agreement:g} % of the images"
    if not agrees:
        raise ValueError(
            f"The file does not compute what the network computes and was not kept. Expected {wanted}. "
            f"Received: {report}"
        )
