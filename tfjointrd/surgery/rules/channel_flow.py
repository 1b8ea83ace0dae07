"""How channels pass through layers, and how narrower copies of them are configured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfjointrd.surgery.graph import refs_in, sizes_error
from tfjointrd.surgery.rules.activations import configured_activation, mixes_channels
from tfjointrd.surgery.rules.rule import IN, OUT, Config, Rule

# === How channels pass through: `Rule.channels` ===


def produced(analysis, call, spec, inputs):
    """Channels of the layer's own."""
    if configured_activation(spec.config) == "glu":
        raise ValueError(
            f"Layer '{call.layer}' has the activation 'glu', which halves its channels. Write `keras.activations.glu` "
            "behind the layer instead."
        )
    outputs = analysis.fresh(call)
    if mixes_channels(spec.config):
        analysis.fix(outputs, f"softmax of '{call.layer}'")
    return outputs


def convolved(analysis, call, spec, inputs):
    """Channels of the layer's own; within groups, tied to those of the input."""
    outputs = produced(analysis, call, spec, inputs)
    groups = spec.config.get("groups", 1)
    if groups > 1:  # a group is kept or dropped as a whole, its inputs and outputs together
        for ins, outs in zip(np.split(inputs[0], groups), np.split(outputs, groups), strict=True):
            analysis.tie_all(np.concatenate([ins, outs]))
    return outputs


def depthwise(analysis, call, spec, inputs):
    """Each channel of the input as many times as the layer multiplies it."""
    if mixes_channels(spec.config):
        analysis.fix(inputs[0], f"softmax of '{call.layer}'")
    return np.repeat(inputs[0], spec.config["depth_multiplier"])


def same(analysis, call, spec, inputs):
    """The input's channels; a layer with an `axis` of its own has to work along the channels."""
    last = len(analysis.graph.shapes[call.output]) - 1
    if positive(spec.config.get("axis", -1), last + 1) != [last] or configured_activation(spec.config) == "glu":
        return opaque(analysis, call, spec, inputs)
    if mixes_channels(spec.config):
        analysis.fix(inputs[0], f"softmax of '{call.layer}'")
    return inputs[0]


def mixing(analysis, call, spec, inputs):
    """A layer whose output channels have the inputs' places but depend on all of them."""
    analysis.fix(inputs[0], f"'{call.layer}' needs them all")
    return inputs[0]


def per_channel_constant(analysis, call, spec, inputs):
    """A layer whose configuration may hold one number a channel; such channels stay."""
    adapted = spec.config.get("axis") is not None and spec.config.get("mean") is None  # a `Normalization`'s weights
    if adapted or any(np.ndim(spec.config.get(key)) for key in ("scale", "offset", "mean", "variance")):
        analysis.fix(inputs[0], f"'{call.layer}' has a constant for each")
    return inputs[0]


def merged(analysis, call, spec, inputs):
    """Channel i of all inputs makes channel i, so that they are tied."""
    constants = [x for x in (*call.args, *call.kwargs.values()) if not list(refs_in(x))]
    if any(np.ndim(x) for x in constants):
        return opaque(analysis, call, spec, inputs)  # a constant with an entry a channel
    width = max(len(ids) for ids in inputs)
    for ids in inputs:
        if len(ids) == width:
            analysis.tie(inputs[[len(i) for i in inputs].index(width)], ids)
        else:  # broadcast along the channels: every channel of the result needs it
            analysis.fix(ids, f"'{call.layer}' broadcasts them")
    return next(ids for ids in inputs if len(ids) == width)


def concatenated(analysis, call, spec, inputs):
    """The inputs' channels in a row; tied where they are strung together along another axis."""
    rank = len(analysis.graph.shapes[call.inputs[0]])
    if spec.config.get("axis", -1) in (-1, rank - 1):
        return np.concatenate(inputs)
    for ids in inputs[1:]:
        analysis.tie(inputs[0], ids)
    return inputs[0]


def split(analysis, call, spec, inputs):
    """Several tensors of one: its channels in parts, of which each needs some, or each all of them."""
    graph = analysis.graph
    outputs = graph.outputs_of(call)
    axis = spec.config["axis"] % len(graph.shapes[call.inputs[0]])
    if axis == 0:
        raise ValueError(f"Layer '{call.layer}' splits the batch. Expected one that splits channels or positions.")
    if axis < len(graph.shapes[call.inputs[0]]) - 1:
        return [inputs[0]] * len(outputs)
    parts = np.split(inputs[0], np.cumsum([graph.shapes[ref][-1] for ref in outputs])[:-1])
    for part in parts:
        analysis.keep_some(part)
    return parts


def flattened(analysis, call, spec, inputs):
    """The input's channels once for each position."""
    width = analysis.graph.shapes[call.output][-1]
    if width is None or width % len(inputs[0]):
        raise sizes_error(analysis.graph.name, analysis.graph.shapes[call.output], "since it is flattened", call.layer)
    return np.tile(inputs[0], width // len(inputs[0]))


def reshaped(analysis, call, spec, inputs):
    """Channels survive a reshape that only moves axes of size one, as squeeze-and-excitation does."""
    before, after = analysis.graph.shapes[call.inputs[0]], analysis.graph.shapes[call.output]
    if before[-1] == after[-1] and [n for n in before[1:] if n != 1] == [n for n in after[1:] if n != 1]:
        return inputs[0]
    return opaque(analysis, call, spec, inputs)


def reduced(analysis, call, spec, inputs):
    """A maximum or mean over some axes; channels survive one over positions."""
    before, after = (analysis.graph.shapes[ref] for ref in (call.inputs[0], call.output))
    axes = positive(spec.config["axis"], len(before))
    if 0 in axes or len(after) < 2:
        raise ValueError(f"Layer '{call.layer}' reduces over the batch. Expected one that reduces over positions.")
    return opaque(analysis, call, spec, inputs) if len(before) - 1 in axes else inputs[0]


def padded(analysis, call, spec, inputs):
    """Positions appended; channels survive where none of them are."""
    widths = np.broadcast_to(spec.config["pad_width"], (len(analysis.graph.shapes[call.output]), 2))
    return opaque(analysis, call, spec, inputs) if widths[-1].any() else inputs[0]


def positive(axis, rank: int) -> list[int]:
    """Axes as a list of numbers from 0 on; `None` stands for all."""
    axes = range(rank) if axis is None else axis if isinstance(axis, (list, tuple)) else [axis]
    return [number % rank for number in axes]


def opaque(analysis, call, spec, inputs):
    """A layer that mixes channels without weights: everything around it stays as wide as it is."""
    for ids in inputs:
        analysis.fix(ids, f"'{call.layer}' needs them all")
    outputs = analysis.fresh(call)
    analysis.fix(outputs, f"'{call.layer}' makes them")
    return outputs


def elastic(analysis, call, spec, inputs):
    """Output channels that can be dropped but ask nothing: they follow whatever they are added to."""
    return analysis.fresh(call)


# === How a narrower copy is configured: `Rule.axes` and `Rule.narrow` ===


def narrow_convolution(config, kept_in, kept_out):
    """As many filters as channels are kept, and as many groups."""
    groups = config.get("groups", 1)
    if groups > 1:
        groups = len(kept_out) * groups // config["filters"]
    return {"filters": len(kept_out), **({"groups": groups} if "groups" in config else {})}


def convolution_axes(config):
    """The axes of a convolution, with groups or without."""
    ins = IN if config.get("groups", 1) == 1 else None
    return {"kernel": (None, None, ins, OUT), "bias": (OUT,)}


def separable_axes(config):
    """The axes of a separable convolution."""
    return {
        "depthwise_kernel": (None, None, IN, None),
        "pointwise_kernel": (None, None, (IN, config["depth_multiplier"]), OUT),
        "bias": (OUT,),
    }


def dirac_axes(config):
    """The axes of a `DiracConv2D`."""
    return {**convolution_axes(config), "alpha": (OUT,), "beta": (OUT,)}


def narrow_dirac(config, kept_in, kept_out):
    """The identity copies channel i to channel i, also after both were numbered anew."""
    both = min(len(kept_in), len(kept_out))
    if list(kept_in[:both]) != list(kept_out[:both]):
        raise ValueError(
            f"Layer '{config['name']}' is a DiracConv2D. It keeps the same channels of its input and its output. "
            f"Received: {np.asarray(kept_in).tolist()} of its input, {np.asarray(kept_out).tolist()} of its output. "
            "`tfjointrd.fold` makes it an ordinary convolution, which may keep any."
        )
    return narrow_convolution(config, kept_in, kept_out)


def narrow_fit(config, kept_in, kept_out):
    """As many channels as are kept, the first ones."""
    if list(kept_in) != list(range(len(kept_in))) or list(kept_out) != list(range(len(kept_out))):
        raise ValueError(
            f"Layer '{config['name']}' appends or cuts channels. Only the first channels can be kept around it. "
            f"Received: {kept_in.tolist()} of its input, {kept_out.tolist()} of its output."
        )
    return {"filters": len(kept_out)}


def narrow_reshape(config, kept_in, kept_out):
    """The shape with as many channels as are kept."""
    return _with_last("target_shape", config, kept_out)


def narrow_newshape(config, kept_in, kept_out):
    """The shape of the operator with as many channels as are kept."""
    return _with_last("newshape", config, kept_out)


def narrow_shape(config, kept_in, kept_out):
    """The shape of a slice with as many channels as are kept."""
    return _with_last("shape", config, kept_out)


def narrow_noise(config, kept_in, kept_out):
    """Noise of its own for each channel that is kept, where each channel has its own."""
    return {} if config.get("noise_shape") is None else _with_last("noise_shape", config, kept_out)


def narrow_split(config, kept_in, kept_out):
    """Parts as wide as what is kept of each."""
    widths = [len(kept) for kept in kept_out]
    if sum(widths) != len(kept_in) or (isinstance(config["indices_or_sections"], int) and len(set(widths)) == 1):
        return {}  # along another axis, or into equal parts
    return {"indices_or_sections": tuple(np.cumsum(widths)[:-1].tolist())}


def _with_last(key: str, config: Config, kept_out: np.ndarray) -> Config:
    """A shape in the configuration with as many channels as are kept, where it says how many there are."""
    shape = config[key]
    return {} if shape[-1] in (None, -1, 1) else {key: (*shape[:-1], len(kept_out))}


def pointwise(axes: Mapping[str, tuple] | None = None, **traits) -> Rule:
    """The rule of layers whose output channel i depends on input channel i alone, in the same way for each i.

    Args:
        axes: For layers with weights: weight name -> axes, e.g. `{"alpha": (None, None, IN)}`.
        **traits: Traits of the `Rule`, e.g. `elementwise=True`.
    """
    return Rule(same, axes or {}, **traits)
