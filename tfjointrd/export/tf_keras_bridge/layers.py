"""How each layer, and each operator, of a Keras 3 network is written in tf_keras.

A translator gets a `Part` and returns a function from the tensors that the layer takes to what it returns. Who wants to
translate one more layer adds a function here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfjointrd.export.tf_keras_bridge.libraries import tf_keras
from tfjointrd.layers import FitChannels, FusedBatchNormalization
from tfjointrd.surgery.graph import Call, LayerSpec, Ref

# Layers whose class has the same name, the same configuration and the same weights in tf_keras.
_SAME = (
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense", "BatchNormalization"),
    *("LayerNormalization", "GroupNormalization", "UnitNormalization", "ReLU", "LeakyReLU", "PReLU", "ELU"),
    *("Softmax", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Flatten", "Reshape", "Permute", "RepeatVector", "Dropout"),
    *("SpatialDropout2D", "GaussianNoise", "GaussianDropout", "ActivityRegularization", "Add", "Subtract"),
    *("Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
)
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
# Entries that tf_keras lacks and that change nothing here: number formats, devices, random seeds.
_IGNORED = {"dtype", "synchronized", "seed", "lora_rank", "lora_alpha", "quantization_config"}
_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
# Operators of one tensor, and the activation that they are.
_ACTIVATIONS = {
    **{"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Silu": "silu", "Tanh": "tanh", "Selu": "selu"},
    **{"Softplus": "softplus", "Softsign": "softsign", "Exp": "exponential"},
}


@dataclass(frozen=True)
class Part:
    """A layer that is to be translated.

    Attributes:
        name: Its name.
        spec: Its class and configuration.
        source: The layer itself.
        call: Its first call.
        shapes: The shapes of what it takes and returns: `(inputs, output)`.
        layers: The tf_keras layers that its translator made.
    """

    name: str
    spec: LayerSpec
    source: Any
    call: Call
    shapes: tuple[list[tuple], tuple]
    layers: list[Any] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The class's name."""
        return self.spec.cls.__name__

    def error(self, why: str) -> ValueError:
        """The error for a layer that cannot be translated."""
        return ValueError(
            f"Expected layers that tf_keras has too, as tensorflow-model-optimization works on its networks alone. "
            f"Received: layer '{self.name}' ({self.kind}), {why}"
        )

    def make(self, kind: str, *args: Any, **config: Any):
        """A tf_keras layer of that class, with this layer's name unless it is given another."""
        layer = getattr(tf_keras().layers, kind)(*args, **{"name": self.name, **config})
        self.layers.append(layer)
        return layer


Apply = Callable[..., Any]
_TRANSLATORS: dict[str | type, Callable[[Part], Apply]] = {}


def translates(*kinds: str | type) -> Callable:
    """Decorates the translator of layers of these classes; Keras' own layers and operators by name."""

    def register(function):
        _TRANSLATORS.update(dict.fromkeys(kinds, function))
        return function

    return register


def translator(part: Part) -> Apply:
    """The function that does in tf_keras what a layer does.

    Raises:
        ValueError: If there is none; the message names the layer.
    """
    cls = part.spec.cls
    own = cls.__module__.startswith("keras.")
    name = part.kind if issubclass(cls, keras.Layer) else f"operator {part.kind}"
    found = _TRANSLATORS.get(cls) or (_TRANSLATORS.get(name) if own else None)
    if found is None:
        raise part.error(
            "which cannot be translated. `jrd.export.tflite(..., quantization='int8')` quantises it without training"
        )
    return found(part)


# === Layers ===


@translates(*_SAME)
def same(part: Part, kind: str | None = None) -> Apply:
    """A layer that tf_keras has too."""
    kind = kind or part.kind
    layer = part.make(kind, **_config(part, kind))

    def apply(*args):
        return layer(*args)

    return apply


@translates("Activation")
def activation(part: Part) -> Apply:
    """An activation; hard ones, which are others in tf_keras, piece by piece."""
    kind = part.spec.config["activation"]
    if kind not in ("hard_silu", "hard_swish", "hard_sigmoid"):
        return same(part)
    pieces = [
        part.make("Rescaling", 1.0, 3.0, name=f"{part.name}_shift"),
        part.make("ReLU", 6.0, name=f"{part.name}_clip"),
        part.make("Rescaling", 1 / 6, name=part.name if kind == "hard_sigmoid" else f"{part.name}_gate"),
    ]
    product = None if kind == "hard_sigmoid" else part.make("Multiply")

    def apply(x):
        gate = x
        for piece in pieces:
            gate = piece(gate)
        return gate if product is None else product([x, gate])

    return apply


@translates(FusedBatchNormalization)
def batch_normalization(part: Part) -> Apply:
    """Keras' batch normalisation, whichever kernel computes it."""
    return same(part, "BatchNormalization")


@translates("Rescaling")
def rescaling(part: Part) -> Apply:
    """A product and a sum, with numbers or arrays."""
    layer = part.make("Rescaling", *(_number(value) for value in (part.source.scale, part.source.offset)))
    return lambda x: layer(x)


@translates("Normalization")
def normalization(part: Part) -> Apply:
    """The product and the sum that a normalisation by known statistics is."""
    if part.source.invert:
        raise part.error("with invert=True, which cannot be translated")
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (part.source.mean, part.source.variance))
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    layer = part.make("Rescaling", _number(scale), _number(-mean * scale))
    return lambda x: layer(x)


@translates(FitChannels)
def fit_channels(part: Part) -> Apply:
    """Zero channels appended, or the last ones cut off.

    tf_keras pads and crops the last two axes of `channels_first`; here these are the width and the channels.
    """
    missing = part.spec.config["filters"] - part.shapes[0][0][-1]
    kind, count = ("ZeroPadding2D", missing) if missing >= 0 else ("Cropping2D", -missing)
    layer = part.make(kind, ((0, 0), (0, count)), data_format="channels_first")
    return lambda x: layer(x)


# === Operators ===


@translates(*(f"operator {name}" for name in (*_MERGES, "Divide", "TrueDivide", "Negative")))
def arithmetic(part: Part) -> Apply:
    """A sum, product or the like of two tensors, or of a tensor and a number."""
    operands = [*part.call.args, *part.call.kwargs.values()]
    if all(isinstance(operand, Ref) for operand in operands) and len(operands) == 2:
        if part.kind not in _MERGES:
            raise part.error("a quotient of two tensors, which cannot be translated")
        layer = part.make(part.kind)
        return lambda first, second: layer([first, second])
    first = isinstance(operands[0], Ref)
    number = _number(operands[int(first)]) if len(operands) == 2 else None
    forms = {
        "Add": (1.0, number),
        "Multiply": (number, 0.0),
        "Subtract": (1.0, None if number is None else -number) if first else (-1.0, number),
        "Negative": (-1.0, 0.0),
        "Divide": (1 / number, 0.0) if first and number is not None else None,
    }
    form = forms.get(part.kind.replace("True", ""))
    if form is None:
        raise part.error("of a tensor and a number, which cannot be translated")
    layer = part.make("Rescaling", *form)
    return lambda *tensors: layer(next(tensor for tensor in tensors if hasattr(tensor, "shape") and tensor.shape.rank))


@translates(*(f"operator {name}" for name in _ACTIVATIONS))
def activation_operator(part: Part) -> Apply:
    """An activation as an operator."""
    layer = part.make("Activation", _activation(part, _ACTIVATIONS[part.kind]))
    return lambda x: layer(x)


@translates("operator Softmax")
def softmax(part: Part) -> Apply:
    """A softmax over an axis."""
    layer = part.make("Softmax", axis=part.spec.config.get("axis", -1))
    return lambda x: layer(x)


@translates("operator Mean", "operator Max", "operator Amax")
def pooled(part: Part) -> Apply:
    """The mean or the maximum of all positions."""
    axes = part.spec.config.get("axis")
    axes = {axes} if isinstance(axes, int) else set(axes or ())
    rank = len(part.shapes[0][0])
    if rank != 4 or {axis % rank for axis in axes} != {1, 2}:
        raise part.error(f"over the axes {sorted(axes)}, where tf_keras pools over height and width only")
    kind = "GlobalAveragePooling2D" if part.kind == "Mean" else "GlobalMaxPooling2D"
    layer = part.make(kind, keepdims=bool(part.spec.config.get("keepdims")))
    return lambda x, *_: layer(x)


@translates(*(f"operator {name}" for name in ("Reshape", "Squeeze", "ExpandDims")))
def reshaped(part: Part) -> Apply:
    """The same numbers in another shape; the batch stays."""
    before, after = part.shapes[0][0], part.shapes[1]
    if None in after[1:] or np.prod(before[1:]) != np.prod(after[1:]):
        raise part.error(f"from shape {before} to shape {after}, which cannot be translated")
    layer = part.make("Reshape", after[1:])
    return lambda x, *_: layer(x)


@translates("operator Concatenate")
def concatenated(part: Part) -> Apply:
    """Tensors one behind the other."""
    layer = part.make("Concatenate", axis=part.spec.config.get("axis", -1))
    return lambda *tensors: layer(list(keras.tree.flatten(tensors[0])))


# === Configurations ===


def _config(part: Part, kind: str) -> dict[str, Any]:
    """The configuration as tf_keras' class takes it."""
    cls = getattr(tf_keras().layers, kind, None)
    if cls is None:
        raise part.error(f"which tf_keras {tf_keras().__version__} does not have")
    accepted = {name for base in cls.__mro__ if "__init__" in vars(base) for name in _arguments(base)} | {"trainable"}
    found = {}
    for key, value in part.spec.config.items():
        key = _RENAMED.get(kind, {}).get(key, key)
        if key == "name" or key.endswith("_initializer") or key in _IGNORED:
            continue
        if key not in accepted:
            if value not in (None, False):
                raise part.error(f"with {key}={value!r}, which tf_keras does not know")
            continue
        found[key] = _value(part, key, value)
    return found


def _arguments(cls: type) -> list[str]:
    parameters = inspect.signature(vars(cls)["__init__"]).parameters
    return [name for name in parameters if name not in ("self", "args", "kwargs")]


def _value(part: Part, key: str, value: Any) -> Any:
    if key == "activation":
        return _activation(part, value)
    for ending, module in (("_regularizer", "regularizers"), ("_constraint", "constraints")):
        if key.endswith(ending) and value is not None:
            cls = getattr(getattr(tf_keras(), module), value["class_name"], None) if isinstance(value, dict) else None
            if cls is None or value.get("registered_name"):
                raise part.error(f"with a {key} that tf_keras does not know")
            return cls(**value["config"])
    return value


def _activation(part: Part, value: Any) -> str:
    """The name of an activation, if it is the same function in tf_keras."""
    if isinstance(value, str):
        name = {"silu": "swish"}.get(value, value)
        ours, theirs = keras.activations.get(value), getattr(tf_keras().activations, name, None)
        x = np.linspace(-8, 8, 34, dtype="float32").reshape(2, 17)
        expected = keras.ops.convert_to_numpy(ours(keras.ops.convert_to_tensor(x)))
        if theirs is not None and np.allclose(expected, theirs(tf_keras().backend.constant(x)), atol=1e-6):
            return name
    raise part.error(f"with the activation {value!r:.80}, which is not the same in tf_keras")


def _number(value: Any) -> Any:
    """A float, or an array of the channels' numbers."""
    array = np.asarray(keras.ops.convert_to_numpy(value), "float32")
    return (
        float(array) if array.ndim == 0 else array.reshape(array.shape[-1:]) if array.size == array.shape[-1] else array
    )
