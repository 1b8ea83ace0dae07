"""Runs `.tflite` files on this machine, in the LiteRT interpreter that phones run them in."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np


class TFLiteModel:
    """A classifier in a `.tflite` file, called like a Keras network: floats in, floats out.

    Files with integers at their interface get and give them through the scale and zero point that the file states, as
    an app would have to: `real = scale * (integer - zero_point)`.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads to run it on.
        keep_tensors: Whether `tensor` can be asked for what lies between input and output. It takes more memory.

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
        ValueError: If it is no `.tflite` file, or not all of one, if it needs operators that are not built in, or has
            several inputs or outputs.

    Example:

    >>> model = TFLiteModel("resnet20_int8.tflite")
    >>> classes = model.predict(images).argmax(axis=-1)
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1, keep_tensors: bool = False):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected `path` to be a .tflite file. Received: path='{os.fspath(path)}'")
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"Expected `threads` to be a positive integer. Received: threads={threads}")
        _check_identifier(path)
        with quiet():
            try:
                self.interpreter = _interpreter_class()(
                    model_path=os.fspath(path), num_threads=threads, experimental_preserve_all_tensors=keep_tensors
                )
                self.interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ValueError(_unreadable(path, str(error))) from error
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"Expected `path` to be a file with one input and one output. Received: path='{os.fspath(path)}' with "
                f"{len(inputs)} inputs and {len(outputs)} outputs"
            )
        self._details = {details["index"]: details for details in self.interpreter.get_tensor_details()}
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
        self.check_images(x)
        outputs = np.empty((len(x), *self.output_shape[1:]), "float32")
        for image, output in zip(self._encode(x), outputs, strict=True):
            self.set_input(image[None])
            self.interpreter.invoke()
            output[...] = self._decode(self.interpreter.get_tensor(self._output)[0])
        return outputs

    def check_images(self, x: np.ndarray) -> None:
        """Checks the shape of images.

        Raises:
            ValueError: If it is another one than the file takes.
        """
        if x.shape[1:] != self.input_shape[1:]:
            expected = ("count", *self.input_shape[1:])
            raise ValueError(f"Expected `x` of shape {expected}. Received: shape {x.shape}".replace("'", ""))

    def shape_of(self, index: int) -> tuple[int, ...]:
        """Shape of one of the file's tensors."""
        return tuple(map(int, self._details[index]["shape"]))

    def tensor(self, index: int) -> np.ndarray:
        """What one of the file's tensors held at the last image, in float32; needs `keep_tensors`."""
        values, parameters = self.interpreter.get_tensor(index), self._details[index]["quantization_parameters"]
        if not len(parameters["scales"]):
            return values.astype("float32")
        return parameters["scales"][0] * (values.astype("float32") - parameters["zero_points"][0])

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


def _check_identifier(path: str | os.PathLike) -> None:
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != b"TFL3":
        raise ValueError(
            "Expected `path` to be a .tflite file, which has 'TFL3' as its bytes 4 to 8. "
            f"Received: path='{os.fspath(path)}', which has {start[4:]!r} there"
        )


def _unreadable(path: str | os.PathLike, reason: str) -> str:
    """What to say of a file that the interpreter refuses."""
    needed = sorted(set(re.findall(r"custom op: (\w+)|\((Flex\w+)\)", reason)))
    if needed:
        names = ", ".join(map("".join, needed))
        return (
            "Expected `path` to be a .tflite file of builtin operators. Convert the network without SELECT_TF_OPS and "
            f"without custom operators. Received: path='{os.fspath(path)}', which needs {names}"
        )
    return (
        "Expected `path` to be a whole .tflite file that the LiteRT interpreter runs. "
        f"Received: path='{os.fspath(path)}'. The interpreter says: {reason.strip() or 'nothing'}"
    )


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
        sink = stack.enter_context(tempfile.TemporaryFile("w"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
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
