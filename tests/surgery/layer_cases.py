"""Every layer and operator of the table as a network of its own."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfjointrd.layers import DiracConv2D, FitChannels
from tfjointrd.surgery import read_graph
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.rules.rule import registered

TABLE = {key: rule for key, rule in registered().items() if isinstance(key, str) or "test" not in key.__module__}
RNG = np.random.default_rng(0)
CHANNELS = 4

LAYERS = {  # layers that need arguments, or do nothing with their own defaults
    "Activation": lambda: L.Activation("selu"),
    "PReLU": lambda: L.PReLU(shared_axes=[1, 2]),
    "Dense": lambda: L.Dense(5),
    "DiracConv2D": lambda: DiracConv2D(5, 3),
    "Embedding": lambda: L.Embedding(300, 3),
    "FitChannels": lambda: FitChannels(6),
    "GroupNormalization": lambda: L.GroupNormalization(2),
    "Normalization": lambda: L.Normalization(mean=0.5, variance=2.0),
    "Rescaling": lambda: L.Rescaling(0.5, offset=0.25),
    "Permute": lambda: L.Permute((2, 1, 3)),
    "RepeatVector": lambda: L.RepeatVector(3),
    "Reshape": lambda: L.Reshape((36, CHANNELS)),
    "Resizing": lambda: L.Resizing(9, 9),
    "Cropping2D": lambda: L.Cropping2D(1),
    "CenterCrop": lambda: L.CenterCrop(4, 4),
    "ActivityRegularization": lambda: L.ActivityRegularization(0.1),
    **{name: lambda name=name: getattr(L, name)(0.5) for name in ("GaussianNoise", "GaussianDropout", "AlphaDropout")},
    **{f"SpatialDropout{rank}D": lambda rank=rank: getattr(L, f"SpatialDropout{rank}D")(0.5) for rank in "123"},
    "Dropout": lambda: L.Dropout(0.5),
    **{f"AveragePooling{rank}D": lambda rank=rank: getattr(L, f"AveragePooling{rank}D")(2) for rank in "123"},
    **{f"AdaptiveAveragePooling{r}D": lambda r=r: getattr(L, f"AdaptiveAveragePooling{r}D")(3) for r in "123"},
    **{f"AdaptiveMaxPooling{r}D": lambda r=r: getattr(L, f"AdaptiveMaxPooling{r}D")(3) for r in "123"},
    **{
        f"{kind}{rank}D": lambda kind=kind, rank=rank: getattr(L, f"{kind}{rank}D")(5, 2)
        for kind in ("Conv", "SeparableConv", "DepthwiseConv")
        for rank in "123"
    },
    **{f"DepthwiseConv{rank}D": lambda rank=rank: getattr(L, f"DepthwiseConv{rank}D")(2) for rank in "12"},
    **{f"Conv{rank}DTranspose": lambda rank=rank: getattr(L, f"Conv{rank}DTranspose")(5, 2) for rank in "123"},
    "RandomCrop": lambda: L.RandomCrop(4, 4),
    "RandomTranslation": lambda: L.RandomTranslation(0.3, 0.3),
    **{name: lambda name=name: getattr(L, name)(0.4) for name in ("RandomRotation", "RandomZoom", "RandomShear")},
    **{name: lambda name=name: getattr(L, name)(0.4) for name in ("RandomBrightness", "RandomContrast")},
    **{f"Random{what}": lambda what=what: getattr(L, f"Random{what}")(0.5) for what in ("Hue", "Saturation")},
    **{f"Random{what}": lambda what=what: getattr(L, f"Random{what}")(0.5) for what in ("Sharpness", "Posterization")},
    "RandomColorDegeneration": lambda: L.RandomColorDegeneration(0.5),
    "RandomPosterization": lambda: L.RandomPosterization(3),
    "RandomColorJitter": lambda: L.RandomColorJitter(brightness_factor=0.5, contrast_factor=0.5),
    "RandomInvert": lambda: L.RandomInvert(0.5),
    "RandomPerspective": lambda: L.RandomPerspective(scale=0.9),
}
OPERATORS = {  # class name -> function that makes it; those of one word and a tensor are found by it
    "Gelu": keras.activations.gelu,  # `keras.ops.gelu` approximates it by default
    "ReLU": lambda x: keras.activations.relu(x, negative_slope=0.1),
    "Clip": lambda x: ops.clip(x, -0.5, 2.0),
    "Cast": lambda x: ops.cast(x, "float32"),
    "Threshold": lambda x: ops.threshold(x, 0.5, 0.25),
    "Mean": lambda x: ops.mean(x, axis=(1, 2)),
    "Max": lambda x: ops.max(x, axis=(1, 2), keepdims=True),
    "MaxPool": lambda x: ops.max_pool(x, 2),
    "AveragePool": lambda x: ops.average_pool(x, 2),
    "AdaptiveMaxPool": lambda x: ops.adaptive_max_pool(x, (3, 3)),
    "AdaptiveAveragePool": lambda x: ops.adaptive_average_pool(x, (3, 3)),
    "Pad": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]]),
    "Reshape": lambda x: ops.reshape(x, (-1, 36, CHANNELS)),
    "Squeeze": lambda x: ops.squeeze(ops.reshape(x, (-1, 1, 36, CHANNELS)), 1),
    "ExpandDims": lambda x: ops.expand_dims(x, 1),
    "Transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "Swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "Moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "Power": lambda x: x**2,
    **{
        name: lambda x, name=name: getattr(ops, name.lower())(x, axis=(1, 2))
        for name in ("Amax", "Amin", "Min", "Median", "Sum", "Prod", "Std", "Var")
    },
    "Normalize": ops.normalize,
    "Flip": lambda x: ops.flip(x, 1),
    "Roll": lambda x: ops.roll(x, 1, 2),
    "Take": lambda x: ops.take(x, np.array([0, 2, 4, 5]), 1),
    "Repeat": lambda x: ops.repeat(x, 2, -1),
    "Tile": lambda x: ops.tile(x, (1, 2, 1, 2)),
    "GetItem": lambda x: x[:, ::2, 1:],
    "Slice": lambda x: ops.slice(x, (0, 1, 0, 0), (-1, 4, 6, x.shape[-1])),
    "SaturateCast": lambda x: ops.saturate_cast(x, "float32"),
    "DepthToSpace": lambda x: ops.depth_to_space(x, 2),
    "SpaceToDepth": lambda x: ops.space_to_depth(x, 2),
    "DivideNoNan": lambda x, y: ops.divide_no_nan(x, y),
    "Stack": lambda x, y: ops.stack([x, y], 1),
    "Where": lambda x, y: ops.where(x > 1, x, y),
    "LayerScale": lambda x: hidden("convnext", "LayerScale")(0.5, CHANNELS)(x),
    "StochasticDepth": lambda x: hidden("convnext", "StochasticDepth")(0.5)(x),
}
JOINING = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Divide", "TrueDivide", "Concatenate"]
JOINING += ["DivideNoNan", "FloorDivide", "Mod", "Logaddexp", "Hypot", "Arctan2", "Fmax", "Fmin", "Stack", "Where"]
JOINING += ["Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr"]
UNBUILT = {  # what takes no image tensor in, has no function that takes a symbolic one, or returns several tensors
    "Split",
    *("InputLayer", "CutMix", "MixUp", "Attention", "AdditiveAttention", "Dot", "Embedding", "RepeatVector"),
    *("Matmul", "Einsum", "Tensordot", "Inner", "Outer", "Vdot", "Correlate", "DotProductAttention"),
    *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv"),
    *("GaussianBlur", "SobelEdges", "Kron", "CDist", "Cross"),
}


def hidden(module, name):
    """A layer class that a network of `keras.applications` has for itself."""
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)


def snake(name):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def apply(key):
    """`(function, inputs)`: what makes the layer or operator of a key out of symbolic tensors or arrays."""
    name = key if isinstance(key, str) else key.__name__
    count = 2 if name in JOINING else 1
    if isinstance(key, str):
        if name == "TrueDivide":
            return ops.true_divide, 2
        if name == "Concatenate":
            return lambda *x: ops.concatenate(x, -1), 2
        function = OPERATORS.get(name) or getattr(ops, snake(name), None) or getattr(keras.activations, snake(name))
        return function, count
    layer = LAYERS.get(name, key)()
    return (lambda *x, **options: layer(list(x), **options)) if count == 2 else layer, count


def shape_of(key):
    name = key if isinstance(key, str) else key.__name__
    if name.startswith("Random") or name in ("RandAugment", "AugMix", "AutoContrast"):
        return (6, 6, 3)
    rank = 1 if "1D" in name else 3 if "3D" in name else 2
    return (*[6] * rank, CHANNELS)


class Case:
    """A layer or operator as a network of its own with random weights, and what the table says of it."""

    def __init__(self, key):
        self.key, self.shape = key, shape_of(key)
        self.function, self.count = apply(key)
        inputs = [keras.Input(self.shape) for _ in range(self.count)]
        self.model = keras.Model(inputs, self.function(*inputs))
        for variable in self.model.weights:
            variable.assign(RNG.uniform(0.5, 1.5, variable.shape))
        graph = read_graph(self.model)
        name = key if isinstance(key, str) else key.__name__
        calls = [call for call in graph.calls if graph.layers[call.layer].cls.__name__ == name]
        self.spec = graph.layers[calls[-1].layer]
        self.rule = describe(self.spec)

    def images(self, low=-2.0, high=2.0):
        return [RNG.uniform(low, high, (2, *self.shape)).astype("float32") for _ in range(self.count)]

    def __call__(self, *images, **options):
        y = ops.convert_to_numpy(self.model([ops.convert_to_tensor(x) for x in images], **options))
        return y.astype("float32") if y.dtype == bool else y


# Operators that change an element's value in steps, or leave one of two as it is.
STEPS = ["Sign", "Ceil", "Floor", "Round", "Trunc", "FloorDivide", "Maximum", "Minimum", "Fmax", "Fmin", "Where"]
STEPS += [L.Maximum, L.Minimum, *JOINING[JOINING.index("Equal") :]]
BUILT = [key for key in TABLE if (key if isinstance(key, str) else key.__name__) not in UNBUILT]


def marked(keys):
    """The keys as parameters of a test: of operators that have one rule, one runs by default."""
    seen, found = [], []
    for key in keys:
        again = isinstance(key, str) and any(TABLE[key] is rule for rule in seen)
        found.append(pytest.param(key, marks=pytest.mark.slow) if again else key)
        seen.append(TABLE[key])
    return found


def name_of(key):
    """The name of a layer class or operator; layers have classes of the operators' names."""
    return key if isinstance(key, str) else f"layers.{key.__name__}"
