"""What surgery knows of each layer: how channels pass through it, and how it is made narrower.

A rule answers three questions about one class of layers: which channels its output has (`channels`), which of its
weights' axes run along its input or output channels (`axes`), and which configuration a narrower copy has
(`narrow`). A layer class without a rule stops surgery with an error: better none than a wrong network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.layers.fit_channels import FitChannels

if TYPE_CHECKING:
    from tfjointrd.surgery.channels import Channels
    from tfjointrd.surgery.graph import Call, LayerSpec

IN, OUT = "in", "out"
Axis = str | tuple[str, int] | None
Config = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """How surgery treats one class of layers.

    Attributes:
        channels: `(analysis, call, spec, inputs) -> ids`: the channel ids of the output, given those of each input.
        axes: Weight name -> for each axis, the last ones where there are more, `IN`, `OUT` or `None`; `(IN, n)` for an
            axis with n entries for each input channel.
        narrow: `(config, kept_in, kept_out) -> changes`: what changes in the configuration of the narrower layer.
            `kept_in` and `kept_out` are positions of kept channels.
        producer: Whether the layer computes each output channel from all its inputs with weights of its own, so that
            output channels can be dropped one by one.
    """

    channels: Callable[[Channels, Call, LayerSpec, list[np.ndarray]], np.ndarray]
    axes: Mapping[str, tuple] | Callable[[Config], Mapping[str, tuple]] = lambda config: {}
    narrow: Callable[[Config, np.ndarray, np.ndarray], Config] = lambda config, kept_in, kept_out: {}
    producer: bool = False

    def weight_axes(self, config: Config) -> Mapping[str, tuple]:
        """Weight name -> axes, for a layer of this configuration."""
        return self.axes(config) if callable(self.axes) else self.axes

    def kept_entries(
        self, config: Config, weights: Mapping[str, np.ndarray], kept_in: np.ndarray, kept_out: np.ndarray
    ) -> dict[str, list[np.ndarray | None]]:
        """What a narrower copy takes of a layer's weights.

        Args:
            config: The layer's configuration.
            weights: Its weights by name.
            kept_in: Positions of the kept input channels.
            kept_out: Positions of the kept output channels.

        Returns:
            Weight name -> for each axis the positions to keep, or `None` for all.
        """

        def positions(axis: Axis):
            if isinstance(axis, tuple):
                return np.add.outer(kept_in * axis[1], np.arange(axis[1])).ravel()
            return {IN: kept_in, OUT: kept_out, None: None}[axis]

        return {
            name: [positions(axis) for axis in self.axes_of(config, name, value)] for name, value in weights.items()
        }

    def axes_of(self, config: Config, name: str, value: np.ndarray) -> list[Axis]:
        """What the axes of one weight are; an axis of size one serves all channels."""
        axes = self.weight_axes(config).get(name, (None,) * value.ndim)[-value.ndim or None :]
        return [None if size == 1 else axis for axis, size in zip(axes, value.shape, strict=True)]


_RULES: dict[type, Rule] = {}
_OPERATOR_RULES: dict[str, Rule] = {}


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teaches surgery a layer class of your own.

    Args:
        layer_class: A subclass of `keras.Layer`. Its subclasses need rules of their own.
        rule: Its `Rule`; see `pointwise()` for layers that treat each channel alike.
    """
    _RULES[layer_class] = rule


def rule_for(name: str, spec: LayerSpec) -> Rule:
    """The rule for a layer.

    Raises:
        ValueError: If there is none; the message names the layer.
    """
    rule = _RULES.get(spec.cls) or (
        None if issubclass(spec.cls, keras.Layer) else _OPERATOR_RULES.get(spec.cls.__name__)
    )
    if rule is None and spec.cls is keras.layers.Lambda:
        raise ValueError(
            f"Layer '{name}' is a Lambda, into which surgery cannot look. Write what it does with layers of "
            "`keras.layers` or functions of `keras.ops`, or as a layer class of your own that "
            "`tfjointrd.surgery.register_rule` describes."
        )
    if rule is None:
        raise ValueError(
            f"Layer '{name}' is a {spec.cls.__name__}, and it is not known how channels pass through that layer. "
            "Teach it with `tfjointrd.surgery.register_rule`, or cut the network there."
        )
    return rule


# === How channels pass through ===


def _produced(analysis, call, spec, inputs):
    outputs = analysis.fresh(call)
    if _ends_in_softmax(spec.config):
        analysis.fix(outputs, f"softmax of '{call.layer}'")
    return outputs


def _ends_in_softmax(config: Config) -> bool:
    activation = config.get("activation")
    return "softmax" in str(activation.get("config", "") if isinstance(activation, Mapping) else activation)


def _convolved(analysis, call, spec, inputs):
    outputs = _produced(analysis, call, spec, inputs)
    groups = spec.config.get("groups", 1)
    if groups > 1:  # a group is kept or dropped as a whole, its inputs and outputs together
        for ins, outs in zip(np.split(inputs[0], groups), np.split(outputs, groups), strict=True):
            analysis.tie_all(np.concatenate([ins, outs]))
    return outputs


def _depthwise(analysis, call, spec, inputs):
    return np.repeat(inputs[0], spec.config["depth_multiplier"])


def _same(analysis, call, spec, inputs):
    if spec.config.get("axis", -1) not in (-1, [-1], len(analysis.graph.shapes[call.output]) - 1):
        return _opaque(analysis, call, spec, inputs)
    if _ends_in_softmax(spec.config):
        analysis.fix(inputs[0], f"softmax of '{call.layer}'")
    return inputs[0]


def _mixing(analysis, call, spec, inputs):
    """A layer whose output channels have the inputs' places but depend on all of them."""
    analysis.fix(inputs[0], f"'{call.layer}' needs them all")
    return inputs[0]


def _per_channel_constant(analysis, call, spec, inputs):
    """A layer whose configuration may hold one number a channel; such channels stay."""
    if any(np.ndim(spec.config.get(key)) for key in ("scale", "offset", "mean", "variance")):
        analysis.fix(inputs[0], f"'{call.layer}' has a constant for each")
    return inputs[0]


def _merged(analysis, call, spec, inputs):
    arguments = keras.tree.flatten([call.args, call.kwargs])
    if any(len(x.shape) for x in arguments if isinstance(x, np.ndarray) or keras.ops.is_tensor(x)):
        return _opaque(analysis, call, spec, inputs)  # a constant with an entry a channel
    width = max(len(ids) for ids in inputs)
    for ids in inputs:
        if len(ids) == width:
            analysis.tie(inputs[[len(i) for i in inputs].index(width)], ids)
        else:  # broadcast along the channels: every channel of the result needs it
            analysis.fix(ids, f"'{call.layer}' broadcasts them")
    return next(ids for ids in inputs if len(ids) == width)


def _concatenated(analysis, call, spec, inputs):
    rank = len(analysis.graph.shapes[call.inputs[0]])
    if spec.config.get("axis", -1) in (-1, rank - 1):
        return np.concatenate(inputs)
    for ids in inputs[1:]:
        analysis.tie(inputs[0], ids)
    return inputs[0]


def _flattened(analysis, call, spec, inputs):
    width = analysis.graph.shapes[call.output][-1]
    if width is None or width % len(inputs[0]):
        raise ValueError(f"Layer '{call.layer}' flattens a tensor of unknown size. Give the network an input_shape.")
    return np.tile(inputs[0], width // len(inputs[0]))


def _reshaped(analysis, call, spec, inputs):
    """Channels survive a reshape that only moves axes of size one, as squeeze-and-excitation does."""
    before, after = analysis.graph.shapes[call.inputs[0]], analysis.graph.shapes[call.output]
    if before[-1] == after[-1] and [n for n in before[1:] if n != 1] == [n for n in after[1:] if n != 1]:
        return inputs[0]
    return _opaque(analysis, call, spec, inputs)


def _opaque(analysis, call, spec, inputs):
    """A layer that mixes channels without weights: everything around it stays as wide as it is."""
    for ids in inputs:
        analysis.fix(ids, f"'{call.layer}' needs them all")
    outputs = analysis.fresh(call)
    analysis.fix(outputs, f"'{call.layer}' makes them")
    return outputs


def _elastic(analysis, call, spec, inputs):
    """Output channels that can be dropped but ask nothing: they follow whatever they are added to."""
    return analysis.fresh(call)


# === How a narrower copy is configured ===


def _narrow_convolution(config, kept_in, kept_out):
    groups = config.get("groups", 1)
    if groups > 1:
        groups = len(kept_out) * groups // config["filters"]
    return {"filters": len(kept_out), **({"groups": groups} if "groups" in config else {})}


def _convolution_axes(config):
    ins = IN if config.get("groups", 1) == 1 else None
    return {"kernel": (None, None, ins, OUT), "bias": (OUT,)}


def _separable_axes(config):
    return {
        "depthwise_kernel": (None, None, IN, None),
        "pointwise_kernel": (None, None, (IN, config["depth_multiplier"]), OUT),
        "bias": (OUT,),
    }


def _dirac_axes(config):
    return {**_convolution_axes(config), "alpha": (OUT,), "beta": (OUT,)}


def _narrow_dirac(config, kept_in, kept_out):
    """The identity hands channel i on as channel i, also after both were numbered anew."""
    both = min(len(kept_in), len(kept_out))
    if list(kept_in[:both]) != list(kept_out[:both]):
        raise ValueError(
            f"Layer '{config['name']}' is a DiracConv2D, of which the same channels of input and output can be kept. "
            f"Received: {np.asarray(kept_in).tolist()} of its input, {np.asarray(kept_out).tolist()} of its output. "
            "`tfjointrd.fold` makes it an ordinary convolution, of which any can."
        )
    return _narrow_convolution(config, kept_in, kept_out)


def _narrow_fit(config, kept_in, kept_out):
    if list(kept_in) != list(range(len(kept_in))) or list(kept_out) != list(range(len(kept_out))):
        raise ValueError(
            f"Layer '{config['name']}' appends or cuts channels, so that only first channels can be kept around it. "
            f"Received: {kept_in.tolist()} of its input, {kept_out.tolist()} of its output."
        )
    return {"filters": len(kept_out)}


def _narrow_reshape(config, kept_in, kept_out):
    return {"target_shape": (*config["target_shape"][:-1], len(kept_out))}


def pointwise(axes: Mapping[str, tuple] | None = None) -> Rule:
    """The rule of layers whose output channel i depends on input channel i alone, in the same way for each i.

    Args:
        axes: For layers with weights: weight name -> axes, e.g. `{"alpha": (None, None, IN)}`.
    """
    return Rule(_same, axes or {})


_NORMALIZATION = pointwise(
    {
        name: (IN,)
        for name in (
            *("gamma", "beta", "moving_mean", "moving_variance"),
            *("moving_stddev", "renorm_mean", "renorm_stddev"),  # with renorm=True
        )
    }
)
_UNTOUCHED = [
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "Identity",
    "ActivityRegularization",
    "MaxPooling2D",
    "AveragePooling2D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "ZeroPadding2D",
    "Cropping2D",
    "UpSampling2D",
    "Resizing",
    "RandomFlip",
    "RandomCrop",
    "RandomTranslation",
    "RandomRotation",
    "RandomZoom",
    "CenterCrop",
]
_MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]
_MIXING = ["Permute", "RepeatVector", "Dot"]

for _name in _UNTOUCHED:
    register_rule(getattr(keras.layers, _name), pointwise())
for _name in _MERGES:
    register_rule(getattr(keras.layers, _name), Rule(_merged))
    _OPERATOR_RULES[_name] = Rule(_merged)
for _name in _MIXING:
    register_rule(getattr(keras.layers, _name), Rule(_opaque))
for _name in [
    "Relu",
    "Relu6",
    "Sigmoid",
    "Silu",
    "HardSigmoid",
    "HardSwish",
    "Gelu",
    "Tanh",
    "Softplus",
    "Elu",
    "LeakyRelu",
    "Absolute",
    "Square",
    "Sqrt",
]:
    _OPERATOR_RULES[_name] = pointwise()
_OPERATOR_RULES["Softmax"] = _OPERATOR_RULES["LogSoftmax"] = Rule(_mixing)
for _name in dir(keras.layers):  # augmentation of colours and the like, which not every Keras has
    if _name.startswith("Random") and _name not in _UNTOUCHED or _name in ("RandAugment", "AugMix", "AutoContrast"):
        register_rule(getattr(keras.layers, _name), Rule(_opaque))
_OPERATOR_RULES["TrueDivide"] = _OPERATOR_RULES["Divide"] = Rule(_merged)

for _class in (keras.layers.BatchNormalization, FusedBatchNormalization, keras.layers.LayerNormalization):
    register_rule(_class, _NORMALIZATION)
register_rule(keras.layers.GroupNormalization, Rule(_mixing))
register_rule(keras.layers.InputLayer, Rule(_opaque))
register_rule(keras.layers.Softmax, Rule(_mixing))
register_rule(keras.layers.Rescaling, Rule(_per_channel_constant))
register_rule(keras.layers.Normalization, Rule(_per_channel_constant))
register_rule(keras.layers.Concatenate, Rule(_concatenated))
_OPERATOR_RULES["Concatenate"] = Rule(_concatenated)
register_rule(keras.layers.Flatten, Rule(_flattened))
register_rule(keras.layers.Reshape, Rule(_reshaped, narrow=_narrow_reshape))
register_rule(FitChannels, Rule(_elastic, narrow=_narrow_fit))
register_rule(keras.layers.PReLU, Rule(_same, {"alpha": (None, None, IN)}))
register_rule(keras.layers.Conv2D, Rule(_convolved, _convolution_axes, _narrow_convolution, producer=True))
register_rule(keras.layers.SeparableConv2D, Rule(_produced, _separable_axes, _narrow_convolution, producer=True))
register_rule(DiracConv2D, Rule(_convolved, _dirac_axes, _narrow_dirac, producer=True))
register_rule(
    keras.layers.Conv2DTranspose,
    Rule(_produced, {"kernel": (None, None, OUT, IN), "bias": (OUT,)}, _narrow_convolution, producer=True),
)
register_rule(
    keras.layers.Dense,
    Rule(
        _produced,
        {"kernel": (IN, OUT), "bias": (OUT,)},
        lambda config, kept_in, kept_out: {"units": len(kept_out)},
        producer=True,
    ),
)
register_rule(keras.layers.DepthwiseConv2D, Rule(_depthwise, {"kernel": (None, None, IN, None), "bias": (OUT,)}))
