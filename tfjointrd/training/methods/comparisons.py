"""What the distillers of a training look at, and their losses, on each of its paths."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from tfjointrd.surgery.channels import check_channels_last
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.rules import describe
from tfjointrd.training.distillers.distiller import Distiller
from tfjointrd.training.losses import per_replica, weighted_mean
from tfjointrd.training.methods.layer_outputs import LayerOutputs
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER, PairedOutputs
from tfjointrd.training.objective import Objective
from tfjointrd.training.precision import loss_dtype

OUTPUT, TAPS = "output", "taps"  # what the networks of a training return


class Comparisons:
    """The tensors that methods want of a student and its teacher, each once, and what the methods make of them.

    Args:
        methods: The methods.
        student: The student's graph.
        teacher: The teacher's.
        tails: Names of the teacher's tails, whose ends some methods compare too, each by a copy of itself.

    Attributes:
        methods: The methods of each path: `"student"`, and the tails.
        refs: The tensors that are wanted of `"student"` and `"teacher"`.
        tail_refs: Those of the teacher that its tails are compared by.

    Raises:
        ValueError: If a network does not have what a method wants, or maps are not of the same image or not with their
            channels last.
    """

    def __init__(self, methods: Sequence[Distiller], student: Graph, teacher: Graph, tails: Sequence[str] = ()):
        self._graphs = {STUDENT: student, TEACHER: teacher}
        on_tails = [method for method in methods if method.on_tails]
        self.methods = {STUDENT: list(methods)} | {tail: [one.for_path(tail) for one in on_tails] for tail in tails}
        self._wanted = {
            path: [tuple(map(list, method.taps(student, teacher))) for method in own]
            for path, own in self.methods.items()
        }
        own = self._wanted[STUDENT]
        self.refs = {side: list(dict.fromkeys(ref for wanted in own for ref in wanted[i])) for i, side in _SIDES}
        self.tail_refs = list(dict.fromkeys(ref for tail in tails for _, refs in self._wanted[tail] for ref in refs))
        for method, wanted in zip(methods, own, strict=True):
            if any(len(self._graphs[side].shapes[ref]) == 4 for i, side in _SIDES for ref in wanted[i]):
                self._check_maps(method)

    def _check_maps(self, method: Distiller) -> None:
        """Position by position, maps are compared of the same image, and channels are their last axis."""
        for graph in self._graphs.values():
            check_channels_last(graph)
        for name, spec in self._graphs[STUDENT].layers.items():
            if describe(spec).augments:
                raise ValueError(
                    f"Expected `student` without random augmentation, since {type(method).__name__} compares its "
                    "feature maps with the teacher's, who sees the image as it is. Augment the data instead. Received: "
                    f"'{self._graphs[STUDENT].name}' with the {spec.cls.__name__} '{name}'."
                )

    @property
    def relational(self) -> list[Distiller]:
        """The methods that compare images of a batch with each other."""
        return [method for method in self.methods[STUDENT] if method.relational]

    def check_batch(self, images: int) -> None:
        """Looks at whether a step has as many images as the methods need.

        Raises:
            ValueError: If it has not.
        """
        if self.relational and images < 2:
            raise ValueError(
                f"Expected at least two images a step, since {type(self.relational[0]).__name__} compares images with "
                f"each other. Received: {images}."
            )

    def build(self, outputs: PairedOutputs, teacher: LayerOutputs) -> None:
        """Makes the layers that the methods train.

        Args:
            outputs: The networks' outputs.
            teacher: The teacher's tensors.

        Raises:
            ValueError: If tensors do not fit each other.
        """
        for path, methods in self.methods.items():
            for method, wanted in zip(methods, self._wanted[path], strict=True):
                own = (STUDENT, wanted[0]) if path == STUDENT else (TEACHER, wanted[1])
                sides = own, (TEACHER, wanted[1])
                shapes = [[self._graphs[side].shapes[ref] for ref in refs] for side, refs in sides]
                method.attach(outputs, teacher.layer)
                method.build(*shapes)

    def label_weight(self, given: float | None, step, total_steps):
        """How much the loss on the labels counts at a step: as given, or what is left of 1 by the weights of shares."""
        if given is not None:
            return given
        shares = [method for method in self.methods[STUDENT] if method.takes_from_labels]
        return 1.0 - sum(method.loss_weight(step, total_steps) for method in shares)

    def loss(self, objective: Objective, path: str, student, teacher, y, sample_weight, step, total_steps):
        """What the methods of a path add to its loss, a scalar.

        Args:
            objective: The student's losses, which weigh its outputs.
            path: The path.
            student: Its `"output"`, a list, and its `"taps"`: the wanted tensors, in the order of `refs` or of
                `tail_refs`.
            teacher: The teacher's.
            y: Labels.
            sample_weight: Weights of the images, or `None`. They do not reach a loss that is a scalar.
            step: Number of finished steps.
            total_steps: That of the whole training.
        """
        first = self.refs[STUDENT] if path == STUDENT else self.tail_refs
        tensors = dict(zip(first, student.get(TAPS, ()), strict=True))
        targets = dict(zip(self.refs[TEACHER], map(ops.stop_gradient, teacher.get(TAPS, ())), strict=True))
        outputs = student[OUTPUT], list(map(ops.stop_gradient, teacher[OUTPUT]))
        labels = objective.by_output(y, "y", same=False)
        done = ops.cast(step, loss_dtype()) / ops.maximum(ops.cast(total_steps, loss_dtype()), 1.0)
        total = 0.0
        for method, (own, theirs) in zip(self.methods[path], self._wanted[path], strict=True):
            own = own if path == STUDENT else theirs
            compared = ([tensors[ref] for ref in own], [targets[ref] for ref in theirs]) if theirs else outputs
            values = method.losses_of(compared[0], compared[1], labels, ops.minimum(done, 1.0))
            total = total + method.loss_weight(step, total_steps) * per_replica(_mean(values, objective, sample_weight))
        return total


def check_label_weight(given: float | None, methods: Sequence[Distiller]) -> None:
    """Checks the weight of the loss on the labels, and that methods leave something for it where it is not given.

    Raises:
        ValueError: If it falls below 0.
    """
    if given is not None:
        if isinstance(given, bool) or not given >= 0:
            raise ValueError(f"Expected `label_weight` from 0. Received: label_weight={given!r}.")
        return
    shares = [method for method in methods if method.takes_from_labels]
    if any(float(sum(method.loss_weight(step, 10) for method in shares)) > 1 + 1e-6 for step in range(11)):
        raise ValueError(
            "Expected weights of KD up to 1 in all, since the loss on the labels has the rest, or a `label_weight`. "
            f"Received: {', '.join(f'weight={method.weight!r}' for method in shares)}."
        )


_SIDES = ((0, STUDENT), (1, TEACHER))


def _mean(values, objective: Objective, sample_weight):
    """The mean of what a method has for each image: `(batch, ...)`, a list of these by output, or the mean itself."""
    if isinstance(values, list):
        return objective.weighted(values, sample_weight)
    return weighted_mean(values, objective.weight_of_images(sample_weight)) if values.shape else values
