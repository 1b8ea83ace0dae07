"""Where a student's features enter its teacher: boundaries as pairs of layers, found or checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import keras

from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery.boundaries import cuts, stage_boundaries
from tfjointrd.surgery.channels import check_channels_last
from tfjointrd.surgery.graph import Graph, Ref
from tfjointrd.training.distillers.adapters import connector, connector_strides
from tfjointrd.training.distillers.taps import name_pairs, relu_of

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
        for graph in (student, teacher):
            graph.check_sizes("or `boundaries`, names of layers that end a stage")
        return _found(student, teacher)
    pairs = name_pairs(boundaries, "boundaries")
    names, teacher_names = zip(*pairs, strict=True)
    _check_names("student", student, names)
    _check_names("teacher", teacher, teacher_names, possible=cuts(teacher))
    return pairs


def check_ahead_of(feature: Ref, pairs: list[tuple[str, str]], teacher: Graph) -> None:
    """Looks at whether all of the teacher's boundaries lie ahead of a tensor, to which tails lead.

    Raises:
        ValueError: If one does not.
    """
    ahead = {ref.layer for ref in teacher.ancestors()[feature]} - {feature.layer}
    for name, teacher_name in pairs:
        if teacher_name not in ahead:
            raise ValueError(
                f"Expected `boundaries` ahead of the teacher's '{feature.layer}', by which a method compares the tails."
                f" Received: {(name, teacher_name)}."
            )


def connectors(pairs: list[tuple[str, str]], student: Graph, teacher: Graph) -> dict[str, keras.Model]:
    """A learned 1x1 convolution for each boundary at which the shapes differ, by the student's layer; says so.

    Raises:
        ValueError: If the student's resolution is not a whole multiple of the teacher's.
    """
    found = {}
    for name, teacher_name in pairs:
        shapes = _shape(student, name)[1:], _shape(teacher, teacher_name)[1:]
        if shapes[0] == shapes[1]:
            continue
        for graph in (student, teacher):
            check_channels_last(graph)
        _check_shapes((name, teacher_name), shapes)
        found[name] = connector(*shapes, f"{name}_boundary", relu_of(teacher, teacher_name))
        warnings.warn(
            f"Boundary '{name}' of the student has shape {shapes[0]}, '{teacher_name}' of the teacher {shapes[1]}: "
            "a learned 1x1 convolution, which is trained with the student and not deployed, leads from one to "
            "the other.",
            stacklevel=stacklevel_outside_the_package(),
        )
    return found


def _found(student: Graph, teacher: Graph) -> list[tuple[str, str]]:
    pairs = stage_boundaries(teacher, student)
    if not pairs:
        raise ValueError(
            "Found no stage of the teacher that ends in a layer which the student has too, or whose followers it has, "
            "at the same, known resolution. Pass `boundaries`, names of layers that end a stage, or pairs of names (of "
            f"student, of teacher). Received: student '{student.name}', teacher '{teacher.name}'."
        )
    return pairs


def _check_shapes(names: tuple[str, str], shapes: tuple[tuple, tuple]) -> None:
    if len(shapes[0]) != 3 or len(shapes[1]) != 3:
        raise ValueError(
            f"Expected feature maps at boundary '{names[0]}' of the student and '{names[1]}' of the teacher. "
            f"Received: shapes {shapes[0]} and {shapes[1]}."
        )
    if connector_strides(*shapes) is None:
        raise ValueError(
            f"Expected the resolution at boundary '{names[0]}' of the student to be that at '{names[1]}' of the "
            f"teacher, or a whole multiple of it. Received: shapes {shapes[0]} and {shapes[1]}."
        )


def _check_names(argument: str, graph: Graph, names: Sequence[str], possible: Sequence[str] | None = None) -> None:
    for name in names:
        if name not in graph.layers:
            raise ValueError(f"Expected `boundaries` to name layers of the {argument}. Received: '{name}'.")
        if possible is not None and name not in possible:
            raise ValueError(
                f"Expected `boundaries` to lie between the teacher's blocks. Received: '{name}', which a shortcut "
                "bypasses."
            )
    order = [list(graph.layers).index(name) for name in names]
    if order != sorted(set(order)):
        raise ValueError(f"Expected `boundaries` in network order, each once. Received: {list(names)}.")


def _shape(graph: Graph, layer: str) -> tuple:
    return next(graph.shapes[call.output] for call in graph.calls if call.layer == layer)
