"""Keras networks, and float32 files, as `.tflite` files."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.export import quantize
from tfjointrd.export.accuracy_drop import check_accuracy_drop, check_limit
from tfjointrd.export.file_graph import names_classes, read_file, takes_pixels
from tfjointrd.export.interpreter import TFLiteModel
from tfjointrd.export.metadata import with_metadata_of
from tfjointrd.export.quantize import FLOAT32, Quantizer
from tfjointrd.export.samples import flat_layers, random_images, sample, sample_of_shape
from tfjointrd.export.source import FileSource, Source, file_name, in_float32
from tfjointrd.export.verify import ExportReport, check_agreement, compare
from tfjointrd.files import replacing
from tfjointrd.surgery.graph import functional, sizes_error
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.output_activation import output_names
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tasks import classifying


def tflite(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str | Mapping[str, str | None] | None = None,
    representative_data: Any = None,
    *,
    input_type: str | None = None,
    output_type: str = "float32",
    converter: str | None = None,
    max_accuracy_drop: float | None = None,
    validation: Any = None,
    tolerance: float = 1e-3,
    min_agreement: float | Mapping[str, float | None] | None = 0.8,
    max_error: float = 0.1,
    saved_model: str | os.PathLike | None = None,
) -> ExportReport:
    """Writes a network as a `.tflite` file and checks that it computes the same as the Keras network.

    The file has a fixed batch of one image and uses builtin operators only. It is run in the LiteRT interpreter first,
    and compared with the network on sample images. A file that disagrees or returns NaN raises an error and is not
    kept. A network in mixed precision is rebuilt in float32 before.

    The number formats, by `quantization`:

    - `None`: float32.
    - `"float16"`: weights in float16, which takes half of the space. It is computed in float.
    - `"dynamic"`: weights in int8. Activations are floats, which the runtime quantizes by their range in each image.
      Depthwise convolutions are computed in float. Needs no images.
    - `"int8"`: static. Weights and activations in int8, by ranges that are calibrated on images. The file then takes
      raw pixels as bytes from 0 to 255, which is what a camera delivers, and returns floats. For hardware without
      floats, ask for `output_type="int8"`. A byte stands for its own value if the network takes pixels from 0 to 255;
      if it takes another range, `input_quantization` of the report says what a byte stands for.
    - `"int16x8"`: static. Weights in int8 and activations in int16: nearly as exact as `"dynamic"` where `"int8"` is
      not, but slow on processors.
    - `"int4"`: weights of convolutions and dense layers in int4, others in int8; activations as for `"dynamic"`.
    - A dict: a format for each layer, e.g. `{"*": "int8", "stem_*": "float32"}`. The keys are names or patterns of
      layers. Of several that match, the last one counts; layers that none matches stay in float32.

    Args:
        model: A functional or Sequential network with one input `(batch, height, width, channels)` of fixed size, and
            one or several outputs: logits, probabilities or numbers, of the image or of its positions. Several keep
            their names in the file, with `_` for characters other than letters and digits.
        path: Where the file goes; its folder has to exist.
        quantization: See above.
        representative_data: Images the network was trained on or similar ones, in the range the network takes: an array
            `(count, height, width, channels)`, or an iterable (`tf.data.Dataset`, `keras.utils.PyDataset`, ...) of
            batches `x` or `(x, y)`, shuffled, or a function that returns one, as TFLite's `representative_dataset`. Up
            to 256 images are taken. Needed for static formats, to calibrate the ranges of activations; the file is
            checked on the half of them that it was not calibrated on. Optional for others, which otherwise are checked
            on random images.
        input_type: `"uint8"`, `"int8"` or `"float32"` for int8, by default `"uint8"`; `"int16"` or `"float32"` for
            int16x8. Otherwise `"float32"`, which is the default too.
        output_type: Likewise for the output; `"float32"` by default.
        converter: `"tensorflow"`, TensorFlow's converter, or `"litert"`, Google's litert-quantizer. By default
            litert-quantizer. For static formats, TensorFlow's converter is used instead if litert-quantizer would leave
            operators in float that TensorFlow's converter quantizes. Only litert-quantizer takes a dict and `"int4"`.
        max_accuracy_drop: How many percentage points of top-1 accuracy the file may lose on `validation`. With several
            outputs, this holds for each one with classes. A file that loses more raises an error, which names the
            layers with the largest errors, to leave them in float. By default accuracy is not checked.
        validation: Images with labels for it, in any form that `tfjointrd.data.batches` describes; for several outputs
            a dict of labels by their names. Labels of outputs without classes are left out.
        tolerance: Largest difference that a float32 file may have, as a share of the largest output. Rounding differs
            by 1e-6 to 1e-5 from one implementation to the next; a wrong file differs by 1e-2 and more.
        min_agreement: Least share of images, or positions, on which a file in another format has to name the same class
            as the network. Trained networks reach 0.95 and more. An untrained one may not, as its outputs hardly differ
            between classes. Several channels are taken for classes unless they end in a sigmoid, or the network was
            compiled with a loss for something else; `None` says that there are none. For several outputs also a dict by
            their names.
        max_error: Largest relative error ‖file - network‖ / ‖network‖ of a file in another format, for outputs without
            classes.
        saved_model: Folder for the SavedModel from which the network is converted, temporary by default. A SavedModel
            that is already there is used as that of `model`, so several files of one network can share one.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If an argument does not fit, before any long work; if the network needs an operator that is not
            built into TFLite; if the file does not agree with the network, or loses more than `max_accuracy_drop`.
        OSError: If `path` cannot be written.
        RuntimeError: If Keras does not run on TensorFlow.
        ImportError: If litert-quantizer is needed and not installed.

    Example:

    >>> train, test = jrd.data.load("digits")
    >>> written = tflite(model, "model.tflite", quantization="int8", representative_data=train)
    >>> 0 <= jrd.export.accuracy(written.path, test) <= 1
    True
    """
    check_network(model)
    quantizer = quantize.get(quantization, converter)
    input_type = input_type or quantizer.input_type
    check_types(quantizer, quantization, input_type, output_type)
    if isinstance(quantization, Mapping):
        names = [layer.name for layer in flat_layers(model)]
        matching(names, [pattern for pattern in quantization if pattern != "*"], "quantization")
    _check_images_given(quantizer, representative_data)
    classes = classifying(model)
    least = agreement_by_output(min_agreement, classes)
    check_limit(max_accuracy_drop, validation, classes)
    with replacing(path) as part:
        none = representative_data is None
        images = random_images(model.inputs[0].shape[1:]) if none else sample(representative_data, model)
        model = in_float32(model)
        calibration, check = _parted(images, quantizer)
        with tempfile.TemporaryDirectory() if saved_model is None else nullcontext(saved_model) as saved:
            source = Source(model, Path(saved), input_type, output_type)
            part.write_bytes(quantizer.function(source, calibration))
        report = compare(model, part, check, Path(path), quantization, classes)
        check_agreement(report, quantizer.exact, tolerance, least, max_error)
        if max_accuracy_drop is not None:
            check_accuracy_drop(model, part, quantization, validation, max_accuracy_drop, check, classes)
    return report


def quantize_file(
    float32_file: str | os.PathLike,
    path: str | os.PathLike,
    quantization: str | Mapping[str, str | None],
    representative_data: Any = None,
    *,
    input_type: str | None = None,
    output_type: str = "float32",
    min_agreement: float | Mapping[str, float | None] | None = 0.8,
    max_error: float = 0.1,
) -> ExportReport:
    """Writes a float32 `.tflite` file in another number format, without TensorFlow, and compares the two.

    litert-quantizer makes the file. Keras may run on any backend.

    Args:
        float32_file: The file to start from, with one input `(1, height, width, channels)` and one or several outputs.
        path: Where the file goes; its folder has to exist.
        quantization: As for `tflite`. Names or patterns of layers are compared with the names of the file's tensors.
        representative_data: See `tflite`.
        input_type: See `tflite`.
        output_type: See `tflite`.
        min_agreement: See `tflite`. Several channels are taken for classes unless they end in a sigmoid.
        max_error: See `tflite`.

    Returns:
        An `ExportReport` that compares the file with the float32 file.

    Raises:
        FileNotFoundError: If there is no `float32_file`.
        ValueError: If an argument does not fit, if `float32_file` is not in float32, or if the file does not agree
            with it.
        OSError: If `path` cannot be written.
        ImportError: If litert-quantizer is not installed.

    Example:

    >>> written = quantize_file("resnet20.tflite", "resnet20_int8.tflite", "int8", train)
    >>> written.input_type
    'uint8'
    """
    network = _FloatFile(float32_file)
    quantizer = quantize.get(quantization, quantize.LITERT)
    input_type = input_type or quantizer.input_type
    check_types(quantizer, quantization, input_type, output_type)
    _check_images_given(quantizer, representative_data)
    if quantizer.needs_images and not network.graph.signature[0]:
        raise ValueError(
            "Expected `float32_file` to have a signature, the names of its inputs and outputs, for files that are "
            f"calibrated on images. Received: float32_file='{network.name}' without one. Formats without "
            "`representative_data`, such as 'dynamic', need none"
        )
    classes = network.classifying()
    least = agreement_by_output(min_agreement, classes, named=str)
    with replacing(path) as part:
        shape = network.file.input_shape[1:]
        images = random_images(shape) if representative_data is None else sample_of_shape(representative_data, shape)
        if takes_pixels(network.content) and images.max() <= 1:
            raise ValueError(
                "Expected `representative_data` to hold pixels from 0 to 255, as the file rescales them. "
                f"Received: values from {images.min()} to {images.max()}"
            )
        calibration, check = _parted(images, quantizer)
        source = FileSource(network.content, network.name, input_type, output_type)
        part.write_bytes(with_metadata_of(quantizer.function(source, calibration), network.content))
        report = compare(network, part, check, Path(path), quantization, classes, named=str)
        check_agreement(report, quantizer.exact, 1e-3, least, max_error)
    return report


class _FloatFile:
    """A float32 file that is called like a network."""

    def __init__(self, path: str | os.PathLike):
        self.file, self.name = TFLiteModel(path), os.fspath(path)
        self.content = Path(path).read_bytes()
        self.graph = graph = read_file(self.content)
        kinds = {"INT4", "INT8", "UINT8", "INT16", "FLOAT16"}
        others = {name for name, size in zip(graph.types, graph.sizes, strict=True) if size} & kinds
        ends = {self.file.input_type, *(output.type for output in self.file.outputs.values())}
        others |= {name.upper() for name in ends - {FLOAT32}}
        if others:
            raise ValueError(
                "Expected `float32_file` to be in float32, from which other files are made. "
                f"Received: float32_file='{self.name}', which holds numbers in {', '.join(sorted(others))}"
            )

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        return self.file.predict(x)

    def classifying(self) -> dict[str, bool]:
        """Whether each output, by its name, names a class by its largest channel."""
        outputs = self.file.outputs.items()
        return {name: output.shape[-1] > 1 and names_classes(self.graph, output.index) for name, output in outputs}


def _parted(images: np.ndarray, quantizer: Quantizer) -> tuple[np.ndarray | None, np.ndarray]:
    """Images to calibrate on, and images to check the file on: others, as far as there are."""
    if not quantizer.needs_images:
        return None, images[::2]
    return images[::2], images[1::2] if len(images) > 1 else images


def check_network(model: keras.Model) -> None:
    """Raises an error unless files can be made of a network."""
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
    _check_weights(model)
    if len(model.inputs) != 1:
        raise ValueError(
            "Expected `model` to have one input; make a `keras.Model(input, outputs)` of the part to deploy. Received: "
            f"'{model.name}' with {len(model.inputs)} inputs"
        )
    names = output_names(read_graph(model))
    in_file = Counter(map(file_name, names))
    alike = [name for name in names if in_file[file_name(name)] > 1]
    if alike:
        raise ValueError(
            f"Expected outputs whose names differ in letters, digits or `_`, which is all that a file keeps. Received: "
            f"{', '.join(map(repr, alike))}"
        )
    shape, dtype = model.inputs[0].shape, keras.backend.standardize_dtype(model.inputs[0].dtype)
    if None in shape[1:]:
        raise sizes_error(model.name, shape, "since a file takes images of a fixed size")
    if not dtype.startswith(("float", "bfloat")):
        raise ValueError(
            "Expected `model` to take floats. Received: "
            f"'{model.name}' with an input of shape {tuple(shape)} and dtype {dtype}"
        )


def _check_weights(model: keras.Model) -> None:
    for layer in flat_layers(model):
        for weight in layer.weights:
            if not bool(keras.ops.all(keras.ops.isfinite(keras.ops.cast(weight, "float32")))):
                raise ValueError(
                    f"Expected `model` to have finite weights. Received: '{model.name}', whose layer '{layer.name}' "
                    f"has NaN or infinity in its {weight.name}"
                )


def check_types(quantizer: Quantizer, quantization: Any, input_type: str, output_type: str) -> None:
    """Raises a `ValueError` unless a number format has files with these types at their ends."""
    for argument, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in quantizer.types:
            raise ValueError(
                f"Expected `{argument}` to be one of {quantizer.types} with quantization={quantization!r}. "
                f"Received: {argument}={value!r}"
            )


def _check_images_given(quantizer: Quantizer, representative_data: Any) -> None:
    if quantizer.needs_images and representative_data is None:
        raise ValueError(
            f"Expected `representative_data`, images to calibrate {quantizer} on. Received: None. Formats that need "
            f"no images: {', '.join(name for name, one in quantize.defaults().items() if not one.needs_images)}"
        )


def agreement_by_output(
    min_agreement: float | Mapping[str, float | None] | None,
    classes: dict[str, bool],
    named: Callable[[str], str] = file_name,
) -> dict[str, float | None]:
    """The least agreement of each output, by its name in the file; `classes` learns which are said to have none."""
    if isinstance(min_agreement, Mapping) and not set(min_agreement) <= set(classes):
        raise ValueError(
            f"Expected `min_agreement` by output: {list(classes)}. Received: min_agreement={min_agreement!r}"
        )
    found: dict[str, float | None] = {}
    for name in classes:
        least = min_agreement.get(name, 0.8) if isinstance(min_agreement, Mapping) else min_agreement
        classes[name] = classes[name] and least is not None
        found[named(name)] = least if classes[name] else None
    return found
