"""Student and teacher of a training, each as one network that returns all that the loss looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from tfjointrd.surgery.graph import Graph, Ref, refs_in
from tfjointrd.training.methods.comparisons import OUTPUT, TAPS, Comparisons
from tfjointrd.training.methods.layer_outputs import LayerOutputs
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER, PairedOutputs
from tfjointrd.training.methods.tails import Tails

BOUNDARIES = "boundaries"


class Networks:
    """Both networks, their layers shared, to `{"output": ..., "taps": [...]}`; the student's features too.

    Args:
        student: The student; of an adjoined one its network.
        teacher: The teacher as the training uses it.
        pairing: Their outputs.
        comparisons: What methods want of them. Their layers are made here.
        tails: The teacher's tails, which are cut here, or `None`.
        adjoined: Whether the student is adjoined.

    Attributes:
        student: The student to its output, to what methods want of it, and to its features at `"boundaries"`.
        teacher: The teacher to its output and to what methods want of it.

    Raises:
        ValueError: If sub-models have layers of the same name within which something is wanted, or tensors that are
            compared do not fit each other.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        pairing: PairedOutputs,
        comparisons: Comparisons,
        tails: Tails | None,
        adjoined: bool,
    ):
        refs = comparisons.refs
        ends = {STUDENT: tails.ends, TEACHER: tails.starts} if tails else {STUDENT: [], TEACHER: []}
        taps = {
            key: LayerOutputs(network, [*refs[key], *ends[key]])
            for key, network in ((STUDENT, student), (TEACHER, teacher))
        }
        comparisons.build(pairing, taps[TEACHER])
        own = taps[STUDENT].output
        outputs = {OUTPUT: own if adjoined else pairing.named(STUDENT, own)}
        if tails:
            outputs[BOUNDARIES] = [taps[STUDENT](ref) for ref in ends[STUDENT]]
        self.student = _network(taps[STUDENT], taps[STUDENT].inputs, outputs, refs[STUDENT])

        def part(start, wanted):
            outputs = {OUTPUT: pairing.named(TEACHER, taps[TEACHER].output)}
            return _network(taps[TEACHER], start, outputs, wanted)

        self.teacher = part(taps[TEACHER].inputs, refs[TEACHER])
        if tails:
            tails.connect(taps[TEACHER], part, comparisons.tail_refs)


def _network(taps: LayerOutputs, start, outputs: dict, refs: Sequence[Ref]) -> keras.Model:
    return keras.Model(start, {**outputs, **({TAPS: [taps(ref) for ref in refs]} if refs else {})})


def check_networks(graphs: Mapping[str, Graph], student: keras.Model, teacher: keras.Model) -> None:
    """Checks that both networks have one input and weights of their own.

    Args:
        graphs: The graphs of both, by what the caller calls the networks.
        student: The first network.
        teacher: The second one.

    Raises:
        ValueError: If not.
    """
    for argument, graph in graphs.items():
        if len(list(refs_in(graph.inputs))) != 1:
            raise ValueError(f"Expected `{argument}` to have one input. Received: '{graph.name}' with several.")
    own = {id(variable) for variable in student.variables}
    shared = [variable.path for variable in teacher.variables if id(variable) in own]
    if shared:
        raise ValueError(
            f"Expected {' and '.join(f'`{argument}`' for argument in graphs)} to have layers of their own; "
            "`keras.models.clone_model` or `tfjointrd.remove_shortcuts` make new ones. "
            f"Received: networks that share {shared[0]}"
            + (f" and {len(shared) - 1} other weights." if len(shared) > 1 else ".")
        )


def check_sizes(graphs: Mapping[str, Graph]) -> None:
    """Checks that both networks take the same images.

    Args:
        graphs: The graphs of both, by what the caller calls the networks.

    Raises:
        ValueError: If not.
    """
    student, teacher = (graph.shapes[next(refs_in(graph.inputs))][1:] for graph in graphs.values())
    if len(student) != len(teacher) or any(
        a is not None and b is not None and a != b for a, b in zip(student, teacher, strict=True)
    ):
        raise ValueError(
            f"Expected {' and '.join(f'`{argument}`' for argument in graphs)} to take images of the same shape. "
            f"Received: one for {student} and one for {teacher}."
        )
