"""Runs `.tflite` files on this machine, in the LiteRT interpreter that phones run them in."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfjointrd.silence import no_output


class TFLiteModel:
    """A network in a `.tflite` file, called like a Keras network: floats in, floats out.

    Files with integers at their interface get and give them through the scale and zero point that the file states, as
    an app would have to: `real = scale * (integer - zero_point)`.

    Args:
        path: The `.tflite` file.
        threads: Number of processor threads to run it on.
        keep_tensors: Whether `tensor` can be asked for what lies between input and output. It takes more memory.
        xnnpack: Whether XNNPACK's kernels compute what they can, as by default; else LiteRT's own do.

    Attributes:
        input_shape: Shape of the input, batch axis of 1 included.
        output_shape: Likewise of the output; of several, the first by name, and so are the others.
        input_type: Number format of the input, e.g. `"uint8"`.
        output_type: Likewise of the output.
        input_quantization: `(scale, zero_point)` of the input; `(0.0, 0)` for floats.
        output_quantization: Likewise of the output.
        outputs: Index, shape, number format and quantization of each output by its name.
        interpreter: The interpreter, its tensors allocated.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no `.tflite` file, or not all of one, if it needs operators that are not built in, or has
            several inputs.

    Example:

    >>> model = TFLiteModel("resnet20_int8.tflite")
    >>> classes = model.predict(images).argmax(axis=-1)
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1, keep_tensors: bool = False, xnnpack: bool = True):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Expected `path` to be a .tflite file. Received: path='{os.fspath(path)}'")
        if not isinstance(threads, int) or threads < 1:
            raise ValueError(f"Expected `threads` to be a positive integer. Received: threads={threads}")
        _check_identifier(path)
        with quiet():
            try:
                self.interpreter = _interpreter(os.fspath(path), threads, keep_tensors, xnnpack)
                self.interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ValueError(_unreadable(path, str(error))) from error
        inputs, outputs = self.interpreter.get_input_details(), self._output_details()
        if len(inputs) != 1:
            raise ValueError(
                f"Expected `path` to be a file with one input. Received: path='{os.fspath(path)}' with "
                f"{len(inputs)} inputs"
            )
        self._details = {details["index"]: details for details in self.interpreter.get_tensor_details()}
        self._input = inputs[0]["index"]
        self.outputs = {name: _Output.of(detail) for name, detail in outputs.items()}
        self.input_shape, self.input_type = tuple(map(int, inputs[0]["shape"])), np.dtype(inputs[0]["dtype"]).name
        self.input_quantization = inputs[0]["quantization"]
        first = next(iter(self.outputs.values()))
        self.output_shape, self.output_type, self.output_quantization = first.shape, first.type, first.quantization

    def _output_details(self) -> dict[str, dict]:
        """What the interpreter says of each output, by the name that the file gives it."""
        details = self.interpreter.get_output_details()
        signatures = self.interpreter.get_signature_list()
        if len(details) > 1 and len(signatures) == 1:
            (name,) = signatures
            named = self.interpreter.get_signature_runner(name).get_output_details()
            return dict(sorted(named.items()))
        return {detail["name"]: detail for detail in details}

    def predict(self, x) -> Any:
        """Runs the file on each image by itself.

        Args:
            x: Images `(count, height, width, channels)`, in the range the Keras network takes.

        Returns:
            Array `(count, ...)` in float32: the outputs of all images; of several outputs, a dict of arrays by their
            names.

        Raises:
            ValueError: If the images have another shape.
        """
        x = np.asarray(x)
        self.check_images(x)
        outputs = {name: np.empty((len(x), *output.shape[1:]), "float32") for name, output in self.outputs.items()}
        for number, image in enumerate(self._encode(x)):
            self.set_input(image[None])
            self.interpreter.invoke()
            for name, output in self.outputs.items():
                outputs[name][number] = output.decoded(self.interpreter.get_tensor(output.index)[0])
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

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
        if self.input_type.startswith("float"):
            return x.astype(self.input_type)
        scale, zero_point = self.input_quantization if self.input_quantization[0] else (1.0, 0)  # numbers as they are
        limits = np.iinfo(self.input_type)
        return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(self.input_type)


@dataclass(frozen=True)
class _Output:
    """One output of a file.

    Attributes:
        index: Its place in the file.
        shape: Its shape, batch axis of 1 included.
        type: Its number format.
        quantization: `(scale, zero_point)`.
    """

    index: int
    shape: tuple[int, ...]
    type: str
    quantization: tuple[float, int]

    @classmethod
    def of(cls, detail: dict) -> _Output:
        """From what the interpreter says of it."""
        shape = tuple(map(int, detail["shape"]))
        return cls(detail["index"], shape, np.dtype(detail["dtype"]).name, detail["quantization"])

    def decoded(self, y: np.ndarray) -> np.ndarray:
        """Values as floats."""
        scale, zero_point = self.quantization
        if not scale:  # floats, or numbers of classes
            return y.astype("float32")
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


def _interpreter(path: str, threads: int, keep_tensors: bool, xnnpack: bool):
    """The interpreter of the LiteRT package, or TensorFlow's own where that package is missing."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter, OpResolverType
    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(
        path,
        num_threads=threads,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=keep_tensors,
    )


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
