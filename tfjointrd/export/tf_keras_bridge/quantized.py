"""A network that was trained with quantisation, and its file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd.data import batches
from tfjointrd.export import quantize
from tfjointrd.export.convert import agreement_by_output, check_types
from tfjointrd.export.file_graph import in_integers
from tfjointrd.export.int8_scales import with_usable_scales
from tfjointrd.export.interpreter import quiet
from tfjointrd.export.source import Source, file_name
from tfjointrd.export.verify import ExportReport, check_agreement, compare
from tfjointrd.files import replacing
from tfjointrd.surgery.output_activation import output_names
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tasks import classifying


class QuantizedNetwork:
    """A network that computes as its int8 file will; `export.quantization_aware` returns it.

    Args:
        source: The Keras 3 network that the training started from.
        network: The trained network, as tf_keras with the layers of tensorflow-model-optimization.
        history: Losses and accuracies of each epoch, by name.
        images: Images, to compare files on.
        partly_in_float: Whether layers were left in float.

    Attributes:
        network: See above.
        history: See above.
        name: The network's name.
    """

    def __init__(
        self,
        source: keras.Model,
        network: Any,
        history: dict[str, list[float]],
        images: np.ndarray,
        partly_in_float: bool = False,
    ):
        self.network, self.history, self.name = network, history, source.name
        self._source, self._images, self._partly_in_float = source, images, partly_in_float

    def __call__(self, x: Any, training: bool = False) -> Any:
        """The outputs for images, rounded as the file rounds."""
        return self.network(x, training=training)

    def accuracy(self, data: Any) -> float:
        """Top-1 accuracy on images with labels; see `export.accuracy`."""
        predict = self.network.predict_on_batch
        share: Any = batches.accuracy(predict, data, shape=self._source.inputs[0].shape[1:])  # of its one output
        return share

    def tflite(
        self,
        path: str | os.PathLike,
        *,
        input_type: str = "uint8",
        output_type: str = "float32",
        min_agreement: float | Mapping[str, float | None] | None = 0.8,
        max_error: float = 0.1,
    ) -> ExportReport:
        """Writes the network as an int8 file and compares the two.

        Args:
            path: As for `export.tflite`, and so are the other arguments.
            input_type: See `path`.
            output_type: See `path`.
            min_agreement: See `path`.
            max_error: See `path`.

        Returns:
            An `ExportReport` that compares the file with the trained network.

        Raises:
            ValueError: If an argument does not fit, if a part of the file computes in float though no layer was to stay
                there, or if the file does not agree with the network.
            OSError: If `path` cannot be written.
        """
        check_types(quantize.get("int8"), "int8", input_type, output_type)
        classes = classifying(self._source)
        least = agreement_by_output(min_agreement, classes)
        with replacing(path) as part:
            content = self._converted(input_type, output_type)
            if not self._partly_in_float and not in_integers(content):
                raise ValueError(
                    f"Expected '{self.name}' to become a file of integers. Received: one that computes in float in "
                    "between. Leave the layers that cause it in float: `quantization_aware(..., in_float=[...])`"
                )
            part.write_bytes(content)
            report = compare(self, part, self._images, Path(path), "int8", classes)
            check_agreement(report, False, 1e-3, least, max_error)
        return report

    def _converted(self, input_type: str, output_type: str) -> bytes:
        """The content of the file, by TensorFlow's converter."""
        import tensorflow as tf

        def configure(converter):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = tf.as_dtype(input_type)
            converter.inference_output_type = tf.as_dtype(output_type)

        with tempfile.TemporaryDirectory() as folder:
            with quiet():
                self._save(folder)
            source = Source(self._source, Path(folder), input_type, output_type)
            return with_usable_scales(source.convert(configure))

    def _save(self, folder: str) -> None:
        """Writes a SavedModel with the names that files of the Keras 3 network have."""
        import tensorflow as tf

        names = output_names(read_graph(self._source))
        name = file_name(names[0] if len(names) > 1 else self._source.layers[-1].name)
        shape = (1, *self._source.inputs[0].shape[1:])
        module = tf.Module()
        module.network = self.network

        @tf.function(input_signature=[tf.TensorSpec(shape, "float32", name=file_name(self._source.inputs[0].name))])
        def serve(x):
            return {name: self.network(x, training=False)}

        tf.saved_model.save(module, folder, signatures=serve)
