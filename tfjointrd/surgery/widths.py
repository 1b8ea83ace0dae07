"""How wide each layer of a small network is: the mask of Eqn 2, and what stays full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite

import keras

from tfjointrd.surgery.boundaries import merges
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Call, Graph
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.read_graph import read_graph

# How many times narrower: everywhere, by layer name or pattern, or `(layer name, width) -> alpha`.
Alpha = float | Mapping[str, float] | Callable[[str, int], float]


def first_filters(
    channels: Channels, alpha: Alpha, keep_full: Mapping[str, str] | None = None, round_to: int = 1
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """The mask a_alpha of Eqn 2 for every layer: the first `filters / alpha` filters.

    Args:
        channels: The network's channels.
        alpha: How many times narrower: a number from 1 on, by layer name or pattern (others stay full), or
            `(layer name, width) -> alpha`.
        keep_full: Names of layers that keep all their filters, and why.
        round_to: Widths are rounded to the nearest multiple of this, at least one of it; with 1 they are rounded down,
            as in the paper.

    Returns:
        Layer name -> positions to keep, for every convolution and dense layer but those that follow others; and why
        layers stay full, by layer name.

    Raises:
        ValueError: If `alpha` is not a number from 1 on, or leaves a layer no filter; the message names the layer.
            If a pattern matches no convolution or dense layer, or `round_to` is not a whole number from 1 on.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"Expected `round_to` to be a whole number from 1 on. Received: round_to={round_to!r}.")
    alphas = _by_layer(channels, alpha)
    keep_full, wanted, reasons, followers = keep_full or {}, {}, {}, channels.followers()
    for layer in channels.producers():
        if layer in followers and layer not in keep_full:
            continue
        width, why = channels.width(layer), channels.fixed(layer)
        if layer in keep_full:
            reasons[layer] = keep_full[layer]
        elif why is not None:
            reasons[layer] = why
        else:
            wanted[layer] = _first(channels, layer, _rounded(width, alphas[layer], round_to, layer))
            if len(wanted[layer]) == width:
                unnamed = isinstance(alpha, Mapping) and alphas[layer] == 1
                rounded = f"{width} channels, alpha={alphas[layer]:g}, round_to={round_to}"
                reasons[layer] = "not in `alpha`" if unnamed else rounded
        wanted.setdefault(layer, list(range(width)))
    return wanted, reasons


def _first(channels: Channels, layer: str, count: int) -> list[int]:
    """The first channels of a layer; of one whose channels a split hands out, the first of each part."""
    sections, width = channels.sections(layer), channels.width(layer)
    counts = [-(-count * len(section) // width) for section in sections]  # rounded up, so that none is empty
    return sorted(int(p) for section, n in zip(sections, counts, strict=True) for p in section[:n])


def tied_to(channels: Channels, stays: set[str]) -> dict[str, str]:
    """Layers that are not named to stay but are tied to one that does, and to which."""
    found = {}
    for group in channels.groups():
        full = [layer for layer in group if layer in stays]
        if full:
            found.update({layer: full[0] for layer in group if layer not in stays})
    return found


def with_ties(channels: Channels, wanted: Mapping[str, Iterable[int]], reasons: Mapping[str, str]) -> dict[str, str]:
    """Why layers stay full, with those that do because another one does to which they are tied.

    Args:
        channels: The network's channels.
        wanted: As `first_filters` returns it.
        reasons: Likewise.
    """
    kept, layers = channels.keep(wanted), set(channels.producers())
    full = {
        call.layer
        for call in channels.graph.calls
        if call.layer in layers and len(kept[call.output]) == channels.width(call.layer)
    }
    tied = tied_to(channels, set(reasons))
    return {**reasons, **{layer: f"tied to '{other}'" for layer, other in tied.items() if layer in full}}


def _by_layer(channels: Channels, alpha: Alpha) -> dict[str, float]:
    """alpha of every layer."""
    layers = channels.producers()
    if callable(alpha):
        alphas = {layer: alpha(layer, channels.width(layer)) for layer in layers}
    elif isinstance(alpha, Mapping):
        alphas = dict.fromkeys(layers, 1)
        for pattern, value in alpha.items():
            alphas.update(dict.fromkeys(matching(layers, [pattern], "alpha"), value))
    else:
        alphas = dict.fromkeys(layers, alpha)
    for layer, value in alphas.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 1:
            place = "" if alpha is value else f" for layer '{layer}'"
            raise ValueError(f"Expected `alpha` to be a number from 1 on. Received: alpha={value!r}{place}.")
    return alphas


def _rounded(width: int, alpha: float, round_to: int, layer: str) -> int:
    if alpha == 1:
        return width
    if round_to > 1:
        return min(width, max(round_to, round_to * int(width / alpha / round_to + 0.5)))
    narrow = int(width / alpha + 1e-9)  # 64 / 1.6 is 40
    if narrow < 1:
        raise ValueError(
            f"Expected `alpha` to leave every layer at least one channel. Received: alpha={alpha}, and layer "
            f"'{layer}' has {width}. Name it in `keep` to leave it as it is, or set `round_to`."
        )
    return narrow


def wanted_of(
    channels: Channels, widths: Mapping[str, int | Iterable[int]], keep_full: Mapping[str, str]
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """As `first_filters`, for layers of these widths, or that keep the channels at these positions.

    Raises:
        ValueError: If a name is no convolution or dense layer, a width is not a whole number up to the layer's, or
            positions are not different ones of its channels.
    """
    positions = {
        layer: list(kept) for layer, kept in widths.items() if isinstance(kept, Iterable) and not isinstance(kept, str)
    }
    for layer, kept in positions.items():
        full = channels.width(layer) if layer in channels.producers() else 0
        if full and not (kept and len(set(kept)) == len(kept) and set(kept) <= set(range(full))):
            raise ValueError(
                f"Expected `widths['{layer}']` to be different positions below {full}, at least one. Received: "
                f"{kept!r:.200}."
            )
    counts = {layer: len(positions.get(layer, [])) or width for layer, width in widths.items()}
    wanted, reasons = first_filters(channels, alphas_of(channels, counts), keep_full)
    chosen = {layer: sorted(kept) for layer, kept in positions.items() if layer not in reasons}
    return {**wanted, **chosen}, reasons


def alphas_of(channels: Channels, widths: Mapping[str, int | Iterable[int]]) -> dict[str, float]:
    """alpha by layer name, for layers of these widths; with `round_to=1` they come out as they are.

    Raises:
        ValueError: If a name is no convolution or dense layer, or a width is not a whole number up to the layer's.
    """
    found = {}
    for layer, width in widths.items():
        full = channels.width(layer) if layer in channels.producers() else 0
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= full:
            expected = f"a whole number from 1 to {full}" if full else "a convolution or dense layer"
            raise ValueError(f"Expected `widths['{layer}']` to be {expected}. Received: {width!r}.")
        found[layer] = full / width
    return found


def widths_of(model: keras.Model, small: keras.Model) -> dict[str, int]:
    """Layer name -> width, for the convolutions and dense layers of `model` that are narrower in `small`.

    Args:
        model: The full network.
        small: A narrow network whose layers have the same names, such as `Adjoined.small()`.

    Raises:
        ValueError: If `small` lacks one of the layers.
    """
    channels, graph, found = Channels(read_graph(model)), read_graph(small), {}
    widths = {call.layer: graph.shapes[call.output][-1] for call in graph.calls}
    for layer in channels.producers():
        if layer not in widths:
            raise ValueError(
                f"Expected a narrow form of '{model.name}', with its layers' names. Received: '{small.name}', which "
                f"has no '{layer}'."
            )
        if widths[layer] < channels.width(layer) and channels.fixed(layer) is None:
            found[layer] = widths[layer]
    return found


def staying(graph: Graph, keep: Iterable[str] | str | None, by_default: bool = True) -> dict[str, str]:
    """Names of the layers that are to stay full, and why.

    Args:
        graph: The network.
        keep: Names or patterns, or `None` for the stem and the first stage.
        by_default: Whether `None` means these; else it means no layer.

    Raises:
        ValueError: If a pattern matches no layer.
    """
    if keep is None:
        return dict.fromkeys(stem_and_first_stage(graph) if by_default else (), "stem or first stage")
    return dict.fromkeys(matching(graph.layers, [keep] if isinstance(keep, str) else keep), "named in `keep`")


def stem_and_first_stage(graph: Graph) -> list[str]:
    """Names of the layers in the stem and the first stage, which Adjoined Networks leave at full width.

    The first stage ends with the last merge (an addition or concatenation) at the resolution of the first one. In a
    network without merges that names its layers `stage2_...`, it ends before these; else it is all up to the last
    convolution at the first resolution that holds two, and nothing where none does.

    Raises:
        ValueError: If it depends on sizes that the network does not know.

    Reference:
        Adjoined Networks, section 6; that stage 1 belongs to what stays full follows from the paper's parameter counts.
    """
    joints = merges(graph)
    if joints and None in _positions(graph, joints[0]):
        graph.check_sizes("or `keep`, names of layers that stay at full width: the stem and the first stage by default")
    if joints:
        last = [c for c in joints if _positions(graph, c) == _positions(graph, joints[0])][-1]
        return [ref.layer for ref in graph.ancestors()[last.output]]
    named = next((i for i, call in enumerate(graph.calls) if call.layer.startswith("stage2_")), None)
    if named is not None:
        return [call.layer for call in graph.calls[:named]]
    kernels = graph.kernel_layers()
    maps = [c for c in graph.calls if c.layer in kernels and len(graph.shapes[c.output]) > 3]
    resolutions = [_positions(graph, call) for call in maps]
    first = next((r for i, r in enumerate(resolutions) if r in resolutions[:i]), None)
    if first is None:
        return []
    last = [call for call in maps if _positions(graph, call) == first][-1]
    return [call.layer for call in graph.calls[: graph.calls.index(last) + 1]]


def _positions(graph: Graph, call: Call) -> tuple:
    """Height and width of a call's output; empty behind a global pooling."""
    return graph.shapes[call.output][1:-1]
