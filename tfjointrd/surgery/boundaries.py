"""Where a network's stages end: tensors through which everything flows, one for each resolution."""

from __future__ import annotations

from tfjointrd.surgery.graph import Graph, Ref


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
    stages = list(dict.fromkeys(teacher.shapes[call.output][1:-1] for call in teacher.merges()))[:-1]
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
