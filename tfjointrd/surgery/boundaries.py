"""Where a network's stages end: tensors through which everything flows, one for each resolution."""

from __future__ import annotations

from tfjointrd.surgery.graph import Call, Graph, Ref, refs_in
from tfjointrd.surgery.rules import describe


def merges(graph: Graph) -> list[Call]:
    """Additions and concatenations of several tensors of the output's resolution: where paths meet."""
    return [
        call
        for call in graph.calls
        if describe(graph.layers[call.layer]).joins is not None
        and len(call.inputs) > 1
        and len(graph.shapes[call.output]) > 3
        and all(graph.shapes[ref][1:-1] == graph.shapes[call.output][1:-1] for ref in call.inputs)
    ]


def cuts(graph: Graph) -> list[str]:
    """Names of the layers after which the network can be cut in two.

    All later layers, and all of the network's outputs, depend on earlier ones only through such a layer's (first)
    output, so that what follows is a network of its own. In a residual network these are the layers between blocks, not
    those within.
    """
    taken: dict[tuple[str, int], set[Ref]] = {}  # by the call that returns it
    last_use: dict[tuple[str, int], int] = {}
    for index, refs in enumerate([*(call.inputs for call in graph.calls), graph.output_refs()]):
        for ref in refs:
            taken.setdefault((ref.layer, ref.call), set()).add(ref)
            last_use[ref.layer, ref.call] = index
    inputs = [(ref.layer, ref.call) for ref in refs_in(graph.inputs)]
    found = []
    farthest = max(last_use.get(key, -1) for key in inputs) if len(inputs) > 1 else -1  # all are there from the start
    for index, call in enumerate(graph.calls):
        key = call.layer, call.number
        end = last_use.get(key, -1)
        if farthest <= index and end < len(graph.calls) and taken[key] == {call.output}:
            found.append(call.layer)
        farthest = max(farthest, end)
    repeated = {call.layer for call in graph.calls if call.number}
    return [name for name in found if name not in repeated]


def stage_boundaries(teacher: Graph, student: Graph) -> list[tuple[str, str]]:
    """Where the teacher's stages end, all but the last stage, and the layers of the student that stand there.

    A stage is all layers of one resolution that hold a merge (addition or concatenation) between them; its boundary
    is the last cut of the teacher at that resolution that has a partner, a cut of the student of the same resolution.
    The partner is the layer of the same name. Where the student has none, as it has none of the additions that end
    the blocks of a pre-activation network, it is what the layers behind the cut take in the student instead.

    Args:
        teacher: The network with shortcuts.
        student: The plain network.

    Returns:
        Pairs of layer names (of student, of teacher) in network order; empty where there is none.

    Reference:
        Residual Distillation (NeurIPS 2020), Figure 1.
    """
    stages = list(dict.fromkeys(teacher.shapes[call.output][1:-1] for call in merges(teacher)))[:-1]
    partners, found = _Partners(teacher, student), {}
    for name in cuts(teacher):
        resolution = teacher.shapes[Ref(name)][1:-1]
        partner = partners.of(name) if resolution in stages else None
        if partner is not None:
            found.pop(resolution, None)  # so that pairs stand in network order even where a resolution returns
            found[resolution] = (partner, name)
    return list(found.values())


class _Partners:
    """The student's layers that stand where the teacher's do."""

    def __init__(self, teacher: Graph, student: Graph):
        self.teacher, self.student = teacher, student
        self.cuts = set(cuts(student))
        self.consumers = teacher.consumers()
        self.calls = {(call.layer, call.number): call for call in student.calls}

    def of(self, name: str) -> str | None:
        """The student's layer for layer `name` of the teacher, if there is one at which the student can be cut."""
        refs = {Ref(name)} if name in self.student.layers else self._taken_instead(Ref(name))
        if len(refs) != 1:
            return None
        (ref,) = refs
        if ref != Ref(ref.layer) or ref.layer not in self.cuts:
            return None
        fits = self.student.shapes[ref][1:-1] == self.teacher.shapes[Ref(name)][1:-1]
        return ref.layer if fits else None

    def _taken_instead(self, ref: Ref) -> set[Ref]:
        """What the layers that take the teacher's tensor `ref` take in the student, at the same argument."""
        taken = set()
        for call in self.consumers.get(ref, ()):
            twin = self.calls.get((call.layer, call.number))
            if twin is not None:
                pairs = zip(call.inputs, twin.inputs, strict=False)  # an operator may take fewer tensors there
                taken.update(own for theirs, own in pairs if theirs == ref)
        return taken
