"""The table: what Keras' layers and operators, and those of this package, are."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
from keras import layers

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.layers.fit_channels import FitChannels
from tfjointrd.surgery.rules import channel_flow as flow
from tfjointrd.surgery.rules import counters
from tfjointrd.surgery.rules.activations import ELEMENTWISE, activation_name, configured_activation
from tfjointrd.surgery.rules.channel_flow import pointwise
from tfjointrd.surgery.rules.rule import IN, OUT, Config, Rule, add


def _add_layers(names: str, rule: Rule) -> None:
    for name in names.split():
        if hasattr(layers, name):  # not every Keras has all
            add(getattr(layers, name), rule)


def _add_operators(names: str, rule: Rule) -> None:
    for name in names.split():
        add(name, rule)


def _elementwise_activation(config: Config) -> bool | None:
    name = configured_activation(config)
    return None if name is None else name in ELEMENTWISE


def _activation_keeps_zeros(config: Config) -> bool | None:
    name = configured_activation(config)
    return None if name is None else ELEMENTWISE.get(name, False)


def _unbiased(config: Config) -> bool | None:
    """Whether a layer with a kernel keeps zeros: without a bias, as its activation does."""
    return False if config.get("use_bias") else _activation_keeps_zeros(config)


def _relu_keeps_zeros(config: Config) -> bool:
    return not (config.get("threshold") and config.get("negative_slope"))


# === Activations ===

_ACTIVATION = pointwise(elementwise=True, in_place=True, macs=counters.free)
_SOFTMAX = Rule(flow.mixing, in_place=True, keeps_zeros=False, elementwise=False, macs=counters.free)

_ACTIVATIONS = """
    Relu Relu6 LeakyRelu Elu Selu Celu Gelu Silu HardSilu Tanh HardTanh TanhShrink Softsign
    SoftShrink HardShrink Sigmoid HardSigmoid LogSigmoid Softplus Exp SparsePlus SparseSigmoid Squareplus
"""

add(
    layers.Activation,
    replace(
        _ACTIVATION,
        activation=configured_activation,
        elementwise=_elementwise_activation,
        keeps_zeros=_activation_keeps_zeros,
        keeps_probabilities=lambda config: configured_activation(config) == "linear",
    ),
)
add(layers.ReLU, replace(_ACTIVATION, activation="relu", keeps_zeros=_relu_keeps_zeros))
add(layers.LeakyReLU, replace(_ACTIVATION, activation="leaky_relu", keeps_zeros=True))
add(layers.ELU, replace(_ACTIVATION, activation="elu", keeps_zeros=True))
add(layers.PReLU, replace(_ACTIVATION, activation="prelu", keeps_zeros=True, axes={"alpha": (None, None, IN)}))
add(layers.Softmax, replace(_SOFTMAX, activation="softmax"))
for _name in _ACTIVATIONS.split():
    _activation = activation_name(_name)
    add(_name, replace(_ACTIVATION, activation=_activation, keeps_zeros=ELEMENTWISE[_activation]))
add("ReLU", replace(_ACTIVATION, activation="relu", keeps_zeros=_relu_keeps_zeros))
add("Threshold", _ACTIVATION)
add("Softmax", replace(_SOFTMAX, activation="softmax"))
add("LogSoftmax", replace(_SOFTMAX, activation="log_softmax"))
add("Glu", Rule(flow.opaque, keeps_zeros=True, macs=counters.free))

# === Arithmetic ===

_FUNCTION = pointwise(elementwise=True, in_place=True, macs=counters.free)
_add_operators("Negative Absolute Square Sqrt Sign Expm1 Log1p Sin", replace(_FUNCTION, keeps_zeros=True))
_add_operators("Rsqrt Log Reciprocal Cos", replace(_FUNCTION, keeps_zeros=False))
add("Clip", _FUNCTION)
add("Cast", replace(_FUNCTION, keeps_zeros=True, keeps_range=True, keeps_probabilities=True))
add("StopGradient", replace(_FUNCTION, keeps_zeros=True, keeps_range=True, keeps_probabilities=True))

_MERGE = Rule(flow.merged, elementwise=True, macs=counters.free)
_add_layers("Subtract Multiply Average Maximum Minimum", replace(_MERGE, keeps_zeros=True))
_add_operators("Subtract Multiply Maximum Minimum Power Divide TrueDivide", replace(_MERGE, in_place=True))
add(layers.Add, replace(_MERGE, keeps_zeros=True, joins="add"))
add("Add", replace(_MERGE, in_place=True, joins="add"))
for _key in (layers.Concatenate, "Concatenate"):
    add(_key, Rule(flow.concatenated, keeps_zeros=True, joins="concatenate", macs=counters.free))

# === Layers with a kernel ===

_CONVOLUTION = Rule(
    flow.convolved, flow.convolution_axes, flow.narrow_convolution, producer=True, macs=counters.convolution
)
_TRANSPOSED = Rule(
    flow.produced,
    {"kernel": (None, None, OUT, IN), "bias": (OUT,)},
    flow.narrow_convolution,
    producer=True,
    macs=counters.transposed_convolution,
)
add(layers.Conv2D, replace(_CONVOLUTION, keeps_zeros=_unbiased))
add(DiracConv2D, replace(_CONVOLUTION, axes=flow.dirac_axes, narrow=flow.narrow_dirac, matches_by_place=True))
add(layers.SeparableConv2D, replace(_CONVOLUTION, channels=flow.produced, axes=flow.separable_axes))
add(layers.Conv2DTranspose, _TRANSPOSED)
add(
    layers.DepthwiseConv2D,
    Rule(
        flow.depthwise,
        {"kernel": (None, None, IN, None), "bias": (OUT,)},
        keeps_zeros=_unbiased,
        macs=counters.convolution,
    ),
)
add(
    layers.Dense,
    Rule(
        flow.produced,
        {"kernel": (IN, OUT), "bias": (OUT,)},
        lambda config, kept_in, kept_out: {"units": len(kept_out)},
        producer=True,
        macs=counters.dense,
    ),
)
_add_layers("Conv1D Conv3D DepthwiseConv1D SeparableConv1D", Rule(macs=counters.convolution))
_add_layers("Conv1DTranspose Conv3DTranspose", Rule(macs=counters.transposed_convolution))
_add_layers("Embedding", Rule(macs=counters.free))
_add_operators(
    "Matmul Einsum Tensordot Inner Outer Vdot Correlate DotProductAttention Conv ConvTranspose DepthwiseConv "
    "SeparableConv",
    Rule(macs=counters.unknown),
)
_add_operators("Dot", Rule(macs=counters.unknown))
_add_layers("Attention AdditiveAttention", Rule(macs=counters.unknown))
_add_layers("Dot", Rule(flow.opaque, macs=counters.unknown))

# === Normalisation ===

_NORMALIZATION = pointwise(
    {
        name: (IN,)
        for name in (
            *("gamma", "beta", "moving_mean", "moving_variance"),
            *("moving_stddev", "renorm_mean", "renorm_stddev"),  # with renorm=True
        )
    },
    keeps_zeros=False,
    macs=counters.free,
)
for _class in (layers.BatchNormalization, FusedBatchNormalization):
    add(_class, replace(_NORMALIZATION, elementwise=True, in_place=True, normalizes="batch"))
add(layers.LayerNormalization, replace(_NORMALIZATION, normalizes="channels"))
add(layers.GroupNormalization, Rule(flow.mixing, keeps_zeros=False, macs=counters.free))
_add_layers(
    "RMSNormalization", pointwise({"scale": (IN,)}, keeps_zeros=True, normalizes="channels", macs=counters.free)
)
_add_layers("UnitNormalization", pointwise(keeps_zeros=True, macs=counters.free))
_CONSTANT = Rule(flow.per_channel_constant, elementwise=True, in_place=True, macs=counters.free)
add(layers.Normalization, _CONSTANT)
add(layers.Rescaling, replace(_CONSTANT, keeps_zeros=lambda config: not np.any(config["offset"])))

# === Regularisation ===

_NOISE = pointwise(elementwise=True, in_place=True, keeps_range=True, keeps_probabilities=True, macs=counters.free)
_add_layers(
    "SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout Identity ActivityRegularization",
    replace(_NOISE, keeps_zeros=True),
)
_add_layers("GaussianNoise", replace(_NOISE, keeps_zeros=False))
_add_layers("Dropout", replace(_NOISE, keeps_zeros=True, narrow=flow.narrow_noise))
_add_layers("AlphaDropout", replace(_NOISE, keeps_zeros=False, narrow=flow.narrow_noise))

# === Positions ===

_POSITIONS = pointwise(keeps_zeros=True, keeps_range=True, macs=counters.free)
_POOLING = replace(_POSITIONS, pools=True)
_PROBABILITIES = replace(_POOLING, keeps_probabilities=True)  # means of probabilities are some
for _rank in "123":
    _add_layers(f"MaxPooling{_rank}D GlobalMaxPooling{_rank}D AdaptiveMaxPooling{_rank}D", _POOLING)
    _add_layers(f"AveragePooling{_rank}D GlobalAveragePooling{_rank}D AdaptiveAveragePooling{_rank}D", _PROBABILITIES)
    _add_layers(f"ZeroPadding{_rank}D Cropping{_rank}D UpSampling{_rank}D", _POSITIONS)
_add_operators("MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool", _POOLING)
_add_operators("Mean Max", Rule(flow.reduced, pools=True, keeps_zeros=True, keeps_range=True, macs=counters.free))
add("Pad", Rule(flow.padded, macs=counters.free))

# === Shapes ===

_SHAPE = Rule(
    flow.reshaped, in_place=True, keeps_zeros=True, keeps_range=True, keeps_probabilities=True, macs=counters.free
)
add(layers.Flatten, replace(_SHAPE, channels=flow.flattened))
add(layers.Reshape, replace(_SHAPE, narrow=flow.narrow_reshape))
add("Reshape", replace(_SHAPE, narrow=flow.narrow_newshape))
_add_operators("Squeeze ExpandDims", _SHAPE)
add("Split", Rule(flow.split, narrow=flow.narrow_split, keeps_zeros=True, keeps_range=True, macs=counters.free))
_add_layers("Permute RepeatVector", Rule(flow.opaque, keeps_zeros=True, keeps_range=True, macs=counters.free))
_FITTED = Rule(flow.elastic, narrow=flow.narrow_fit, keeps_zeros=True, matches_by_place=True, macs=counters.free)
add(FitChannels, _FITTED)

# === Images ===

add(layers.InputLayer, Rule(flow.opaque, keeps_range=True, macs=counters.free))
_AUGMENTATION = pointwise(
    keeps_zeros=lambda config: not config.get("fill_value"), keeps_range=True, augments=True, macs=counters.free
)
_MOVING = "RandomFlip RandomCrop RandomTranslation RandomRotation RandomZoom"  # of all channels alike
_add_layers("Resizing CenterCrop", _POSITIONS)
_add_layers(_MOVING, _AUGMENTATION)
_COLOURS = Rule(flow.opaque, keeps_range=True, augments=True, macs=counters.free)
_add_layers(
    " ".join(name for name in dir(keras.layers) if name.startswith("Random") and name not in _MOVING.split()), _COLOURS
)
_add_layers("RandAugment AugMix", _COLOURS)
_add_layers("CutMix MixUp", Rule(augments=True, macs=counters.free))
_add_layers("AutoContrast", Rule(flow.opaque, macs=counters.free))
