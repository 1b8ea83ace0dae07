"""Where a network's stages end: tensors through which everything flows, one for each resolution."""

from __future__ import annotations

from tfjointrd.surgery.graph import Graph


def cuts(graph: Graph) -> list[str]:
    """Names of the layers after which the network can be cut in two.

    All later layers depend on earlier ones only through such a layer's output, so that what follows is a network of
    its own. In a residual network these are the layers between blocks, not those within.
    """
    last_use = {ref: max(map(graph.calls.index, calls)) for ref, calls in graph.consumers().items()}
    outputs = set(graph.output_refs())
    found, farthest = [], -1
    for index, call in enumerate(graph.calls):
        if farthest <= index and call.output not in outputs:
            found.append(call.layer)
        farthest = max(farthest, last_use.get(call.output, -1))
    repeated = {call.layer for call in graph.calls if call.number}
    return [name for name in found if name not in repeated]


def stage_boundaries(teacher: Graph, student: Graph) -> list[tuple[str, str]]:
    """Names of the layers that end the teacher's stages, all but the last stage, and exist in the student too.

    A stage is all layers of one resolution that hold a merge (addition or concatenation) between them; its boundary
    is the last cut of the teacher at that resolution that is a cut of the student as well. For residual networks that
    is the ReLU that ends the stage.

    Args:
        teacher: The network with shortcuts.
        student: The plain network.

    Returns:
        Pairs of layer names (of student, of teacher) in network order; empty where there is none.

    Reference:
        Residual Distillation (NeurIPS 2020), Figure 1.
    """
    stages = list(dict.fromkeys(teacher.shapes[call.output][1:-1] for call in teacher.merges()))[:-1]
    shared = set(cuts(student)) & set(student.layers)
    shapes = {call.layer: teacher.shapes[call.output] for call in teacher.calls}
    found = {}
    for name in cuts(teacher):
        if name in shared and shapes[name][1:-1] in stages and _same_resolution(student, name, shapes[name]):
            found[shapes[name][1:-1]] = (name, name)
    return list(found.values())


def _same_resolution(graph: Graph, name: str, shape: tuple) -> bool:
    return any(graph.shapes[call.output][1:-1] == shape[1:-1] for call in graph.calls if call.layer == name)
