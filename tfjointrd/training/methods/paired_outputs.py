"""The outputs of a student and its teacher: which belong together, and the losses of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfjointrd.surgery.output_activation import SIGMOID, SOFTMAX, named_outputs
from tfjointrd.surgery.tasks import Task
from tfjointrd.training.distillers.distiller import Distiller, OutputDistiller
from tfjointrd.training.objective import Objective

STUDENT, TEACHER = "student", "teacher"


class PairedOutputs:
    """Outputs are matched by their names if both networks have the same names, and else by their order.

    Args:
        student: The tasks of the student's outputs.
        teacher: Those of the teacher's.
        methods: What compares them. A `divergence` of one of these tells, as for `Objective`, what the outputs are for.

    Attributes:
        student: The student's losses.
        teacher: The teacher's, by the student's names and in the order of its outputs.
        names: The names of the student's outputs.
        endings: What the teacher's outputs end in, in that order.

    Raises:
        ValueError: If the networks have not the same outputs with the same number of channels, or are compared and one
            ends in a softmax and the other in a sigmoid.
    """

    def __init__(self, student: Sequence[Task], teacher: Sequence[Task], methods: Sequence[Distiller]):
        if len(student) != len(teacher):
            raise ValueError(
                "Expected `student` and `teacher` to have the same outputs. Received: a student with "
                f"{len(student)} and a teacher with {len(teacher)}."
            )
        self.names = [task.name for task in student]
        if len(self.names) > 1 and STUDENT in self.names:
            raise ValueError(f"Expected outputs of other names than '{STUDENT}'. Received: {self.names}.")
        self._own = {STUDENT: self.names, TEACHER: [task.name for task in teacher]}
        by_name = {task.name: task for task in teacher}
        if by_name.keys() == set(self.names):
            teacher = [by_name[name] for name in self.names]
        self._matched = {STUDENT: self.names, TEACHER: [task.name for task in teacher]}
        pairs = list(zip(student, teacher, strict=True))
        for ours, theirs in pairs:
            _check_pair(ours, theirs, [method for method in methods if isinstance(method, OutputDistiller)])
        self.endings = {STUDENT: [task.ending for task in student], TEACHER: [task.ending for task in teacher]}
        given = (getattr(method, "divergence", None) for method in methods)
        divergence = next((one for one in given if one is not None), None)
        self.student = Objective([ours.beside(theirs) for ours, theirs in pairs], divergence)
        self.teacher = Objective([replace(theirs.beside(ours), name=ours.name) for ours, theirs in pairs])

    @property
    def alike(self) -> bool:
        """Whether both networks end in the same."""
        return self.endings[STUDENT] == self.endings[TEACHER]

    def ending(self, key: str) -> str:
        """What the outputs of student or teacher end in, in words."""
        return " and ".join(ending or "logits" for ending in self.endings[key])

    def named(self, key: str, output: Any) -> Any:
        """The output of student or teacher; several as a dict by the student's names."""
        found = named_outputs(self._own[key], output)
        if len(found) == 1:
            return next(iter(found.values()))
        return {name: found[own] for name, own in zip(self.names, self._matched[key], strict=True)}

    def flat(self, output: Any) -> list:
        """What `named` returned, as a list in the order of the student's outputs."""
        return [output[name] for name in self.names] if isinstance(output, Mapping) else [output]


def _check_pair(student: Task, teacher: Task, methods: Sequence[Distiller]) -> None:
    if student.channels != teacher.channels:
        raise ValueError(
            f"Expected `student` and `teacher` to have the same classes. Received: a student with "
            f"{student.channels} and a teacher with {teacher.channels}."
        )
    if methods and {student.ending, teacher.ending} == {SOFTMAX, SIGMOID}:
        raise ValueError(
            "Expected two softmaxes, two sigmoids, or logits for one of them, since "
            f"{type(methods[0]).__name__} compares outputs. Received: a student that ends in a {student.ending}, and "
            f"a teacher that ends in a {teacher.ending}."
        )
