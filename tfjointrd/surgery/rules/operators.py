"""The table: functions of `keras.ops` on arrays, and layers that only networks of `keras.applications` have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tfjointrd.surgery.graph import refs_in
from tfjointrd.surgery.rules import channel_flow as flow
from tfjointrd.surgery.rules import counters
from tfjointrd.surgery.rules.channel_flow import pointwise
from tfjointrd.surgery.rules.rule import IN, Rule, add


def _add(names: str, rule: Rule) -> None:
    for name in names.split():
        add(name, rule)


# === How channels pass through ===


def along_positions(analysis, call, spec, inputs):
    """A function along the `axis` of its configuration: each channel alone, if the channels are not among them."""
    rank = len(analysis.graph.shapes[call.inputs[0]])
    axes = flow.positive(spec.config.get("axis"), rank)
    if 0 in axes:
        raise ValueError(
            f"Layer '{call.layer}' ({spec.cls.__name__}) works along the batch. Expected one along positions."
        )
    return flow.opaque(analysis, call, spec, inputs) if rank - 1 in axes else inputs[0]


def repeated(analysis, call, spec, inputs):
    """Each entry several times in a row; channels too."""
    rank = len(analysis.graph.shapes[call.inputs[0]])
    if flow.positive(spec.config.get("axis"), rank) == [rank - 1] and isinstance(spec.config["repeats"], int):
        return np.repeat(inputs[0], spec.config["repeats"])
    return along_positions(analysis, call, spec, inputs)


def tiled(analysis, call, spec, inputs):
    """All of it several times in a row, along each axis."""
    rank = len(analysis.graph.shapes[call.inputs[0]])
    repeats = spec.config["repeats"]
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    if len(repeats) > rank or (len(repeats) == rank and repeats[0] != 1):
        raise ValueError(f"Layer '{call.layer}' (Tile) repeats the batch. Expected one that repeats positions.")
    return np.tile(inputs[0], repeats[-1])


def indexed(analysis, call, spec, inputs):
    """Slices such as `x[:, ::2]`: each channel alone, if all channels are taken."""
    rank = len(analysis.graph.shapes[call.inputs[0]])
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    if list(refs_in([key])):
        return flow.opaque(analysis, call, spec, inputs)
    entries = list(key) if isinstance(key, (list, tuple)) else [key]
    if not any(entry is Ellipsis for entry in entries):
        entries.append(Ellipsis)
    place = next(index for index, entry in enumerate(entries) if entry is Ellipsis)
    missing = rank - sum(entry is not None and entry is not Ellipsis for entry in entries)
    entries[place : place + 1] = [slice(None)] * missing
    if not _whole(entries[0]):
        raise ValueError(f"Layer '{call.layer}' (GetItem) takes a part of the batch. Expected a part of the positions.")
    return inputs[0] if _whole(entries[-1]) else flow.opaque(analysis, call, spec, inputs)


def _whole(entry) -> bool:
    return isinstance(entry, slice) and entry.start in (None, 0) and entry.stop is None and entry.step in (None, 1)


def moved(analysis, call, spec, inputs):
    """Axes in another order; channels survive where they are last before and after."""
    rank = len(analysis.graph.shapes[call.output])
    config = spec.config
    order = list(range(rank))
    if "axis1" in config:
        first, second = config["axis1"] % rank, config["axis2"] % rank
        order[first], order[second] = order[second], order[first]
    elif "source" in config:
        pairs = sorted((b % rank, a % rank) for a, b in zip(config["source"], config["destination"], strict=True))
        order = [axis for axis in order if axis not in {a for _, a in pairs}]
        for place, axis in pairs:
            order.insert(place, axis)
    elif "dims" in config:
        order = [0, *config["dims"]]
    else:
        axes = config.get("axes")
        order = order[::-1] if axes is None else [axis % rank for axis in axes]
    return inputs[0] if order[-1] == rank - 1 else flow.opaque(analysis, call, spec, inputs)


def stacked(analysis, call, spec, inputs):
    """Tensors along a new axis; channel i of all of them becomes channel i."""
    rank = len(analysis.graph.shapes[call.output])
    axis = spec.config["axis"] % rank
    if axis in (0, rank - 1):
        return flow.opaque(analysis, call, spec, inputs)
    for ids in inputs[1:]:
        analysis.tie(inputs[0], ids)
    return inputs[0]


def cut_out(analysis, call, spec, inputs):
    """`ops.slice`: each channel alone, if all channels are taken."""
    before, after = (analysis.graph.shapes[ref] for ref in (call.inputs[0], call.output))
    return inputs[0] if before[-1] == after[-1] else flow.opaque(analysis, call, spec, inputs)


def narrow_scale(config, kept_in, kept_out):
    """As many scales as channels are kept."""
    return {"projection_dim": len(kept_out)}


# === Functions of each element ===

_FUNCTION = pointwise(elementwise=True, in_place=True, macs=counters.free)
_add("Arcsinh Arctan Cbrt Ceil Erf Floor NanToNum Round Sinh Tan Trunc", replace(_FUNCTION, keeps_zeros=True))
_add("Cosh Exp2 Log2 Log10 Sinc Erfc", replace(_FUNCTION, keeps_zeros=False))
_SAME = replace(_FUNCTION, keeps_zeros=True, keeps_range=True, keeps_probabilities=True)
_add("Copy SaturateCast", _SAME)

_MERGE = Rule(flow.merged, elementwise=True, macs=counters.free)
_add("DivideNoNan FloorDivide Mod Logaddexp Hypot Arctan2 Fmax Fmin", replace(_MERGE, in_place=True))
_add("Where Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr", _MERGE)

# === Functions of several elements ===

_REDUCTION = Rule(flow.reduced, pools=True, keeps_zeros=True, macs=counters.free)
_add("Amax Median", replace(_REDUCTION, keeps_range=True))
_add("Amin Min Sum Prod Std Var", _REDUCTION)
_add("Normalize", pointwise(keeps_zeros=True, macs=counters.free))
_add("Sparsemax", Rule(flow.mixing, keeps_zeros=False, elementwise=False, macs=counters.free, activation="sparsemax"))
_add("GaussianBlur SobelEdges Kron CDist Cross", Rule(macs=counters.unknown))

# === Positions and shapes ===

_POSITIONS = Rule(along_positions, keeps_zeros=True, keeps_range=True, macs=counters.free)
_add("Flip Roll Take", _POSITIONS)
_add("Repeat", replace(_POSITIONS, channels=repeated))
_add("Tile", replace(_POSITIONS, channels=tiled))
_add("GetItem", replace(_POSITIONS, channels=indexed))
_add("Slice", replace(_POSITIONS, channels=cut_out, narrow=flow.narrow_shape))
_add("Swapaxes Moveaxis Transpose", replace(_POSITIONS, channels=moved))
_add("Stack", replace(_POSITIONS, channels=stacked))
_add("DepthToSpace SpaceToDepth", replace(_POSITIONS, channels=flow.opaque))

# === Layers of keras.applications ===

_SCALED: dict[str, Any] = {"elementwise": True, "in_place": True, "keeps_zeros": True, "macs": counters.free}
_add("LayerScale", pointwise({"gamma": (IN,)}, narrow=narrow_scale, **_SCALED))
_add("StochasticDepth", pointwise(keeps_range=True, keeps_probabilities=True, **_SCALED))
