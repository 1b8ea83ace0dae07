"""Where a student's features enter its teacher: boundaries as pairs of layers, found or checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras

from tfjointrd.surgery.boundaries import cuts, stage_boundaries
from tfjointrd.surgery.graph import Graph
from tfjointrd.training.features import connector

Boundaries = Sequence["str | tuple[str, str]"]


def resolve(boundaries: Boundaries | None, student: Graph, teacher: Graph) -> list[tuple[str, str]]:
    """Boundaries as pairs `(student_name, teacher_name)` of layer names.

    Args:
        boundaries: Names or pairs of names in network order; found if `None`.
        student: The plain network.
        teacher: The network with shortcuts.

    Raises:
        ValueError: If none is found, or one that is named does not exist, cannot be cut at, or stands out of order.
    """
    if boundaries is None:
        pairs = stage_boundaries(teacher, student)
        if not pairs:
            raise ValueError(
                "Found no stage that ends in a layer of the same name and resolution in both networks. Pass "
                "`boundaries`, names of layers that end a stage, or pairs of names (of student, of teacher). Received: "
                f"student '{student.name}', teacher '{teacher.name}'."
            )
        return pairs
    pairs = [(entry, entry) if isinstance(entry, str) else tuple(entry) for entry in boundaries]
    if not pairs:
        raise ValueError(f"Expected `boundaries` to name at least one layer. Received: boundaries={boundaries}.")
    for argument, graph, names in zip(
        ("student", "teacher"), (student, teacher), zip(*pairs, strict=True), strict=True
    ):
        _check_cuts(argument, graph, names)
    return pairs


def connectors(pairs: list[tuple[str, str]], student: Graph, teacher: Graph) -> dict[str, keras.Model]:
    """A learned 1x1 convolution for each boundary at which the shapes differ, by the student's layer; says so.

    Raises:
        ValueError: If the student's resolution is not a whole multiple of the teacher's.
    """
    found = {}
    for name, teacher_name in pairs:
        shapes = _shape(student, name)[1:], _shape(teacher, teacher_name)[1:]
        if shapes[0] != shapes[1]:
            if len(shapes[0]) != 3 or len(shapes[1]) != 3:
                raise ValueError(
                    f"Expected feature maps at boundary '{name}' of the student and '{teacher_name}' of the teacher. "
                    f"Received: shapes {shapes[0]} and {shapes[1]}."
                )
            found[name] = connector(*shapes, f"{name}_boundary")
            warnings.warn(
                f"Boundary '{name}' of the student has shape {shapes[0]}, '{teacher_name}' of the teacher {shapes[1]}: "
                "a learned 1x1 convolution, which is trained with the student and not deployed, leads from one to "
                "the other.",
                stacklevel=4,
            )
    return found


def _check_cuts(argument: str, graph: Graph, names: Sequence[str]) -> None:
    possible = cuts(graph)
    for name in names:
        if name not in graph.layers:
            raise ValueError(f"Expected `boundaries` to name layers of the {argument}. Received: '{name}'.")
        if argument == "teacher" and name not in possible:
            raise ValueError(
                f"Expected `boundaries` to lie between the teacher's blocks. Received: '{name}', which a shortcut "
                "bypasses."
            )
    order = [list(graph.layers).index(name) for name in names]
    if order != sorted(set(order)):
        raise ValueError(f"Expected `boundaries` in network order, each once. Received: {list(names)}.")


def _shape(graph: Graph, layer: str) -> tuple:
    return next(graph.shapes[call.output] for call in graph.calls if call.layer == layer)
