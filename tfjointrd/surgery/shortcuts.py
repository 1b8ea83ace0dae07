"""Plain networks: the same layers without their shortcuts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.branches import Addition, BranchAnalysis, Branches
from tfjointrd.surgery.channels import check_channels_last
from tfjointrd.surgery.graph import Graph, Ref, sizes_error, substitute
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import describe

DOWNSAMPLING = "downsampling"
_STOCHASTIC_DEPTH = ("StochasticDepth", "DropPath")
_SCALES = ("LayerScale", "SkipInit")  # layers that let next to nothing pass at first


@dataclass(frozen=True)
class RemovedShortcut:
    """What `remove_shortcuts` removed at one addition.

    Attributes:
        addition: The addition's name.
        main: Names of the last layers of the branches that stay.
        shortcuts: Names of the last layers of the removed branches.
        layers: Names of the layers that were removed with them, in network order.
    """

    addition: str
    main: tuple[str, ...]
    shortcuts: tuple[str, ...]
    layers: tuple[str, ...]


def remove_shortcuts(
    model: keras.Model,
    keep_projections: bool | str = False,
    name: str | None = None,
    branches: Branches | None = None,
) -> keras.Model:
    """Builds the plain network: every addition is replaced by its main branch.

    The main branch of an addition is the branch with the most convolutions and dense layers of its own. Only layers on
    maps of more than one pixel count, so a squeeze-and-excitation gate does not count. A shortcut is a branch that
    starts where the main branch starts. It holds at most one such layer, for example a projection, and fewer than the
    main branch. Layers that only served a shortcut are removed. Stochastic depth at the end of a main branch is removed
    too: a dropout of whole images, or a layer of a class `StochasticDepth` or `DropPath`.

    Concatenations stay, and so do additions without a shortcut. Such an addition has two branches with one convolution
    each, or with several each, as in an Inception block or between the resolutions of an HRNet. (A third, empty branch
    beside them is removed.) The lateral connections of a feature pyramid stay too, and the additions of a U-Net, whose
    deep branch goes to another resolution and back. `branches` overrides all of this. Factors stay: `x + 0.2 * f(x)`
    becomes `0.2 * f(x)`.

    Args:
        model: A functional or Sequential network with shortcuts, from `tfjointrd.models`, `keras.applications` or
            your own. It is not changed.
        keep_projections: `True` keeps the shortcuts that hold weights or change the shape, and removes only identities.
            `"downsampling"` keeps only the shortcuts that change the resolution, as the authors do (their
            `keepdownsampling`). It keeps none in the first stage of a bottleneck network, since that projection only
            adds channels.
        name: The new network's name; `plain_` and the old one's by default.
        branches: What to do at additions, by name or pattern (`{"fuse_*": None, "add_3": "conv_7"}`): the name of a
            layer of the branch that stays, whatever the other branches are, or `None` for an addition that stays.

    Returns:
        A functional `keras.Model`. Its `removed` lists a `RemovedShortcut` for each addition, as long as the model is
        not saved and loaded; `shortcut_report` also says what stays, and why. Remaining layers keep their names and
        weights. Some weights would let no signal pass without a shortcut. These are set to one: the gamma of a batch
        normalisation that is zero throughout, as some networks initialise the last one of a block, and the weights of a
        layer of a class `LayerScale` (ConvNeXt) or `SkipInit` that are all below 0.001.

    Raises:
        ValueError: If `model` is not functional, no shortcut is found, or `keep_projections` is none of these values;
            with `"downsampling"`, if the network's input size is not known or its channels are not the last axis; if
            `branches` names what is no addition, or a layer that does not belong to one of its branches.

    Example:

    >>> plain = remove_shortcuts(tfjointrd.models.resnet20())
    >>> any(isinstance(layer, keras.layers.Add) for layer in plain.layers)
    False
    >>> plain.removed[0]
    RemovedShortcut(addition='stage1_block1_add', main=('stage1_block1_bn2',), shortcuts=('stem_relu',), layers=())

    Reference:
        Residual Distillation (NeurIPS 2020), section 1.
    """
    graph = read_graph(model)
    graph.check_tied()
    skipped = _skipped(graph, keep_projections, branches)
    if not any(shortcuts for _, shortcuts in skipped):
        kinds = {False: "a shortcut", True: "an identity shortcut", DOWNSAMPLING: "a shortcut within a resolution"}
        reasons = [f"'{addition.call.layer}' stays: {addition.why}" for addition, _ in skipped if addition.why]
        raise ValueError(
            f"Expected `model` to have {kinds[keep_projections]} (an addition to skip). "
            f"Received: '{model.name}', with none. {'; '.join(reasons[:3])}".rstrip()
        )
    plain = _without(graph, skipped).pruned()
    network = plain.build(name or f"plain_{model.name}", _weights(plain))
    network.removed = tuple(_removed(graph, plain, skipped))
    return network


def shortcut_report(
    model: keras.Model, keep_projections: bool | str = False, branches: Branches | None = None
) -> dict[str, Any]:
    """What `remove_shortcuts` does at each addition, without doing it.

    Args:
        model: See `remove_shortcuts`.
        keep_projections: Which shortcuts stay.
        branches: What to do at additions by name.

    Returns:
        Addition -> a `RemovedShortcut`, or the reason why the addition stays, a string; in network order.

    Raises:
        ValueError: As `remove_shortcuts`, but not where nothing is found.

    Example:

    >>> report = shortcut_report(tfjointrd.models.resnet20(), keep_projections=True)
    >>> report["stage2_block1_add"]
    'keep_projections'
    """
    graph = read_graph(model)
    skipped = _skipped(graph, keep_projections, branches)
    removed = {one.addition: one for one in _removed(graph, _without(graph, skipped).pruned(), skipped)}
    return {
        addition.call.layer: removed.get(addition.call.layer) or addition.why or "keep_projections"
        for addition, _ in skipped
    }


def shortcuts(graph: Graph) -> list[str]:
    """Names of the additions that have a shortcut, in network order."""
    return [addition.call.layer for addition in BranchAnalysis(graph).additions if addition.shortcuts]


def _skipped(graph: Graph, keep_projections: bool | str, branches: Branches | None) -> list[tuple[Addition, list[Ref]]]:
    """Every addition with the shortcuts that go."""
    if not isinstance(keep_projections, bool) and keep_projections != DOWNSAMPLING:
        raise ValueError(
            f"Expected `keep_projections` to be True, False or '{DOWNSAMPLING}'. "
            f"Received: keep_projections={keep_projections!r}."
        )
    if keep_projections == DOWNSAMPLING:
        check_channels_last(graph)
    analysis = BranchAnalysis(graph, branches)
    return [
        (
            addition,
            [
                ref
                for ref in addition.shortcuts
                if addition.named or not _stays(analysis, addition, ref, keep_projections)
            ],
        )
        for addition in analysis.additions
    ]


def _without(graph: Graph, skipped: Iterable[tuple[Addition, list[Ref]]]) -> Graph:
    """The graph without these shortcuts; an addition of which one tensor is left is that tensor."""
    instead: dict[Ref, Ref] = {}
    fewer: dict[Ref, dict[Ref, Ref | None]] = {}
    for addition, gone in skipped:
        if not gone:
            continue
        left = {ref: _without_drop_path(graph, ref) for ref in addition.call.inputs if ref not in gone}
        if len(left) == 1:
            instead[addition.call.output] = next(iter(left.values()))
        else:
            fewer[addition.call.output] = {**left, **dict.fromkeys(gone)}

    def resolve(ref: Ref) -> Ref:
        while ref in instead:
            ref = instead[ref]
        return ref

    calls = []
    for call in graph.calls:
        args, kwargs = call.args, call.kwargs
        if call.output in fewer:
            args, kwargs = (_replaced(part, fewer[call.output]) for part in (args, kwargs))
        calls.append(replace(call, args=substitute(args, resolve), kwargs=substitute(kwargs, resolve)))
    return replace(graph, calls=calls, outputs=substitute(graph.outputs, resolve))


def _replaced(structure: Any, instead: dict[Ref, Ref | None]) -> Any:
    """A call's arguments with other tensors in place of some, and none in place of those that go."""
    if isinstance(structure, (list, tuple)):
        kept = (item for item in structure if not (isinstance(item, Ref) and instead.get(item, item) is None))
        return type(structure)(_replaced(item, instead) for item in kept)
    if isinstance(structure, dict):
        return {key: _replaced(item, instead) for key, item in structure.items()}
    return instead.get(structure, structure) if isinstance(structure, Ref) else structure


def _removed(graph: Graph, plain: Graph, skipped: Iterable[tuple[Addition, list[Ref]]]) -> list[RemovedShortcut]:
    ancestors, found = graph.ancestors(), []
    for addition, gone in skipped:
        if gone:
            left = [ref for ref in dict.fromkeys(addition.call.inputs) if ref not in gone]
            served = {one.layer for ref in gone for one in ancestors[ref]} - plain.layers.keys()
            others = {layer for one in found for layer in one.layers}
            layers = (call.layer for call in graph.calls if call.layer in served - others)
            main, shortcuts = (tuple(ref.layer for ref in refs) for refs in (left, gone))
            found.append(RemovedShortcut(addition.call.layer, main, shortcuts, tuple(dict.fromkeys(layers))))
    return found


def _weights(plain: Graph) -> dict[str, dict[str, np.ndarray]]:
    """Ones for what lets nothing pass at first.

    Some networks start each block's last batch normalisation at gamma = 0, or a scale near zero, so that the block
    begins as its shortcut. Without the shortcut nothing would ever pass.
    """
    weights = {}
    for name, spec in plain.layers.items():
        if describe(spec).normalizes == "batch" and spec.config.get("scale", True):
            values = plain.weights(name)
            if not values["gamma"].any():
                weights[name] = {**values, "gamma": np.ones_like(values["gamma"])}
        elif spec.cls.__name__ in _SCALES:
            values = plain.weights(name)
            if all(np.abs(value).max() < 1e-3 for value in values.values()):
                weights[name] = {key: np.ones_like(value) for key, value in values.items()}
    return weights


def _without_drop_path(graph: Graph, main: Ref) -> Ref:
    """The main branch in front of a dropout of whole images (stochastic depth), which needs a shortcut beside it."""
    spec = graph.layers[main.layer]
    noise_shape = spec.config.get("noise_shape") if issubclass(spec.cls, keras.layers.Dropout) else None
    whole_images = noise_shape is not None and all(size == 1 for size in noise_shape[1:])
    if not whole_images and spec.cls.__name__ not in _STOCHASTIC_DEPTH:
        return main
    return graph.producer(main).inputs[0]


def _stays(analysis: BranchAnalysis, addition: Addition, shortcut: Ref, keep_projections: bool | str) -> bool:
    """Whether a shortcut is one of those to keep."""
    graph, ancestors = analysis.graph, analysis.ancestors
    main = frozenset().union(*(ancestors[ref] for ref in addition.mains))
    own = ancestors[shortcut] - main  # nothing for an identity
    if keep_projections == DOWNSAMPLING:
        forks = {ref for call in graph.calls if call.output in own for ref in call.inputs} & main
        return any(_resolution(graph, fork) != _resolution(graph, shortcut) for fork in forks)
    return bool(keep_projections) and bool(own)


def _resolution(graph: Graph, ref: Ref) -> tuple:
    resolution = graph.shapes[ref][1:-1]
    if None in resolution:
        raise sizes_error(graph.name, graph.shapes[ref], f"since keep_projections='{DOWNSAMPLING}'", ref.layer)
    return resolution
