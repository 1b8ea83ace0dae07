"""The tensors of a network that distillers look at: by the names of their layers, or found in its graph."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

import keras

from tfjointrd.surgery.boundaries import cuts, merges
from tfjointrd.surgery.graph import Call, Graph, Ref, refs_in
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.rules.activations import LIKE_RELU, activation_layer

Layers = str | Sequence["str | tuple[str, str]"] | None


def by_name(layers: Layers, student: Graph, teacher: Graph) -> tuple[list[Ref], list[Ref]]:
    """The outputs of named layers of both networks.

    Args:
        layers: A name, or a list of names or of pairs `(student_name, teacher_name)`.
        student: The student's graph.
        teacher: The teacher's.

    Raises:
        ValueError: If it is none of these, or a network has no such layer; the message names the nearest ones.
    """
    pairs = name_pairs([layers] if isinstance(layers, str) else layers, "layers")
    sides = zip(("student", "teacher"), (student, teacher), zip(*pairs, strict=True), strict=True)
    first, second = ([_named(argument, graph, name) for name in names] for argument, graph, names in sides)
    return first, second


def name_pairs(entries: Layers, argument: str) -> list[tuple[str, str]]:
    """Names of layers as pairs `(student_name, teacher_name)`; one name is that of both.

    Args:
        entries: A list of names and pairs.
        argument: What messages call it.

    Raises:
        ValueError: If it is none, or empty.
    """
    if not isinstance(entries, (list, tuple)) or not entries:
        raise ValueError(f"Expected `{argument}` to name at least one layer. Received: {argument}={entries!r}.")
    pairs = [(entry, entry) if isinstance(entry, str) else entry for entry in entries]
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise ValueError(
                f"Expected `{argument}` to hold names of layers, or pairs of names (of student, of teacher). "
                f"Received: {pair!r}."
            )
    return [tuple(pair) for pair in pairs]


def _named(argument: str, graph: Graph, name: str) -> Ref:
    if name not in graph.layers or issubclass(graph.layers[name].cls, keras.layers.InputLayer):
        near = difflib.get_close_matches(name, graph.layers, n=3)
        raise ValueError(
            f"Expected `layers` to name layers of the {argument}. Received: '{name}', which '{graph.name}' does not "
            "have or which is its input." + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    return Ref(name)


def stage_ends(student: Graph, teacher: Graph) -> tuple[list[Ref], list[Ref]]:
    """Where the stages of both networks end: for each resolution that both have, the last cut.

    Resolutions at which the teacher has layers but no block with a shortcut, as those of its stem, do not count if it
    has any such block.

    Raises:
        ValueError: If a size is not known, or they have no resolution in common.
    """
    for graph in (student, teacher):
        graph.check_sizes("or `layers`, names of layers that are compared")
    ends = [_ends(graph) for graph in (student, teacher)]
    blocks = {teacher.shapes[call.output][1:-1] for call in merges(teacher)}
    common = [size for size in ends[1] if size in ends[0] and (size in blocks or not blocks)]
    if not common:
        raise ValueError(
            "Expected networks with feature maps of the same height and width, or `layers`, pairs of names (of "
            f"student, of teacher). Received: '{student.name}' with {list(ends[0])} and '{teacher.name}' with "
            f"{list(ends[1])}."
        )
    return [ends[0][size] for size in common], [ends[1][size] for size in common]


def _ends(graph: Graph) -> dict[tuple, Ref]:
    """For each resolution, the last map that all of the network's path goes through."""
    inputs = set(refs_in(graph.inputs))
    return {graph.shapes[call.output][1:-1]: call.output for call in _maps(graph) if call.output not in inputs}


def embedding(graph: Graph) -> Ref:
    """What the last `Dense` layer of a classifier takes.

    Raises:
        ValueError: If the network does not end in one, or its outputs end in several that take different tensors.
    """
    kernels, ancestors, taken = graph.kernel_layers(), graph.ancestors(), set()
    for output in graph.output_refs():
        behind = [call for call in graph.calls if call.output in ancestors[replace(output, index=0)]]
        heads = [call for call in behind if call.layer in kernels]
        if not heads or not issubclass(graph.layers[heads[-1].layer].cls, keras.layers.Dense):
            raise ValueError(
                f"Expected a network that ends in a Dense layer, whose input is the embedding, or `layers`. Received: "
                f"'{graph.name}', which ends in '{heads[-1].layer if heads else behind[-1].layer}'."
            )
        taken.update(heads[-1].inputs)
    if len(taken) != 1:
        raise ValueError(
            "Expected one embedding from which all outputs come, or `layers`. Received: "
            f"'{graph.name}' with {len(taken)}."
        )
    return taken.pop()


def last_map(graph: Graph) -> Ref:
    """The last feature map that all of a classifier's path goes through; ahead of its ReLU, if it has one.

    It is looked for ahead of the global pooling, and ahead of other pooling, dropout and functions of single elements
    that follow the ReLU. Relatives of the ReLU (ReLU6, leaky ReLU, SiLU, GELU and their like) count as one.

    Raises:
        ValueError: If the network has none, as one without convolutions.
    """
    maps = _maps(graph)
    if not maps:
        raise ValueError(f"Expected a network with feature maps to distil from. Received: '{graph.name}'.")
    last: Call | None = maps[-1]
    while last is not None and _hands_on(graph, last):
        previous = _producer(graph, last)
        if previous is not None and _is_relu(graph, last):
            return previous.output
        last = previous
    return maps[-1].output


def _maps(graph: Graph) -> list[Call]:
    """The calls between blocks that return feature maps, up to the head."""
    whole, maps = set(cuts(graph)), []
    for call in graph.calls:
        shape = graph.shapes[call.output]
        if _pools(graph, call) and (len(shape) != 4 or shape[1:3] == (1, 1)) and call.layer in whole:
            break
        if call.layer in whole and len(shape) == 4:
            maps.append(call)
    return maps


def _pools(graph: Graph, call: Call) -> bool:
    spec = graph.layers[call.layer]
    pools = describe(spec).pools
    return "Pool" in spec.cls.__name__ if pools is None else bool(pools)  # a layer of the user's own, by its name


def _hands_on(graph: Graph, call: Call) -> bool:
    """Whether a layer looks at each channel alone and without weights, so that a ReLU may be found ahead of it."""
    spec = graph.layers[call.layer]
    rule = describe(spec)
    alone = rule.elementwise and len(call.inputs) == 1 and not rule.weight_axes(spec.config)
    return bool(_is_relu(graph, call) or _pools(graph, call) or alone)


def _is_relu(graph: Graph, call: Call) -> bool:
    return describe(graph.layers[call.layer]).activation in LIKE_RELU


def relu_of(graph: Graph, layer: str) -> keras.Layer | None:
    """A new layer that does what the named one does if that is a ReLU or one of its relatives, else `None`."""
    call, spec = next(call for call in graph.calls if call.layer == layer), graph.layers[layer]
    return activation_layer(spec) if _is_relu(graph, call) else None


def _producer(graph: Graph, call: Call) -> Call | None:
    return graph.producer(call.inputs[0]) if call.inputs else None
