"""Runs `.tflite` files on this machine, in the LiteRT interpreter that phones run them in."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import numpy as np

from tfjointrd.silence import no_output


class TFLiteModel:
    """A classifier in a `.tflite` file, called like a Keras network: floats in, floats out.

    Files with integers at their interface get and give them through the scale and zero point that the file states, as
    an app would have to: `real = scale * (integer - zero_point)`.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads to run it on.

    Attributes:
        input_shape: Shape of the input, batch axis of 1 included.
        output_shape: Likewise of the output.
        input_type: Number format of the input, e.g. `"uint8"`.
        output_type: Likewise of the output.
        input_quantization: `(scale, zero_point)` of the input; `(0.0, 0)` for floats.
        output_quantization: Likewise of the output.
        interpreter: The interpreter, its tensors allocated.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, or has several inputs or outputs.

    Example:

    >>> model = TFLiteModel("resnet20_int8.tflite")
    >>> classes = model.predict(images).argmax(axis=-1)
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected `path` to be a .tflite file. Received: path='{os.fspath(path)}'")
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"Expected `threads` to be a positive integer. Received: threads={threads}")
        with quiet():
            self.interpreter = _interpreter_class()(model_path=os.fspath(path), num_threads=threads)
            self.interpreter.allocate_tensors()
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"Expected `path` to be a file with one input and one output. Received: path='{os.fspath(path)}' with "
                f"{len(inputs)} inputs and {len(outputs)} outputs"
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_shape, self.output_shape = (tuple(map(int, side["shape"])) for side in (inputs[0], outputs[0]))
        self.input_type, self.output_type = (np.dtype(side["dtype"]).name for side in (inputs[0], outputs[0]))
        self.input_quantization, self.output_quantization = inputs[0]["quantization"], outputs[0]["quantization"]

    def predict(self, x) -> np.ndarray:
        """Runs the file on each image by itself.

        Args:
            x: Images `(count, height, width, channels)`, in the range the Keras network takes.

        Returns:
            Array `(count, ...)` in float32: the outputs of all images.

        Raises:
            ValueError: If the images have another shape.
        """
        x = np.asarray(x)
        if x.shape[1:] != self.input_shape[1:]:
            expected = ("count", *self.input_shape[1:])
            raise ValueError(f"Expected `x` of shape {expected}. Received: shape {x.shape}".replace("'", ""))
        outputs = np.empty((len(x), *self.output_shape[1:]), "float32")
        for image, output in zip(self._encode(x), outputs, strict=True):
            self.set_input(image[None])
            self.interpreter.invoke()
            output[...] = self._decode(self.interpreter.get_tensor(self._output)[0])
        return outputs

    def set_input(self, x: np.ndarray) -> None:
        """Puts one image `input_shape`, in the file's own number format, where the interpreter reads it."""
        self.interpreter.set_tensor(self._input, x)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        if self.input_type == "float32":
            return x.astype("float32")
        scale, zero_point = self.input_quantization
        limits = np.iinfo(self.input_type)
        return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(self.input_type)

    def _decode(self, y: np.ndarray) -> np.ndarray:
        if self.output_type == "float32":
            return y
        scale, zero_point = self.output_quantization
        return scale * (y.astype("float32") - zero_point)


def _interpreter_class():
    """The interpreter of the LiteRT package, or TensorFlow's own where that package is missing."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    return Interpreter


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what libraries print away from the terminal, C++ code included; exceptions still say what is wrong."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        sink = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(no_output())
        stack.enter_context(contextlib.redirect_stdout(sink))
        stack.enter_context(contextlib.redirect_stderr(sink))
        stack.enter_context(_no_logging())
        yield


@contextlib.contextmanager
def _no_logging() -> Iterator[None]:
    """Turns `logging` off, whose handlers may write elsewhere, and removes the handlers that are set up meanwhile."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable()
    try:
        yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers  # a new one would write to a stream that is closed
