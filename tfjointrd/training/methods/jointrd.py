"""Residual Distillation: a plain network learns through the later stages of itself and of its ResNet."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfjointrd.surgery.frozen import warn_of_frozen_student
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.shortcuts import shortcuts
from tfjointrd.training import schedules
from tfjointrd.training.distillers import Distiller
from tfjointrd.training.methods import routing
from tfjointrd.training.methods.comparisons import TAPS
from tfjointrd.training.methods.distillation import FROZEN, Distillation
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER
from tfjointrd.training.methods.tails import Tails


@keras.saving.register_keras_serializable(package="tfjointrd")
class JointRD(Distillation):
    """Trains a plain student by passing its early stages' features through a ResNet teacher's later stages.

    In training, the student's feature at the end of each stage passes through the rest of the student, and also through
    the remaining stages of the teacher. The outputs of all these paths are compared with the labels. The loss is

        CE(student) + m(t) sum_k CE(tail k).

    Gradients pass through the teacher to the student, and m(t) falls over the training. In the tails the teacher's
    batch normalisation uses its running statistics. Methods of `tfjointrd.distillers` add their losses and replace
    their share of CE(student), as in `Distillation`. `Overhaul` also pulls the last feature map of each tail towards
    the teacher's own, with the weight m(t). An `Adjoined` student adds its lambda(t) KL(full, small). In inference the
    model is the student alone. CE is for classes. Outputs of other kinds, and several outputs, are as for
    `Distillation`.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual
    (these are loaded after `import tfjointrd`). `student` is trained in place, so it is the result.

    Args:
        student: The network without shortcuts, e.g. `tfjointrd.dirac(tfjointrd.remove_shortcuts(teacher))`; or an
            `Adjoined` network, which is then trained by the methods of both papers: its full network goes through the
            teacher, and its small network learns from the full one.
        teacher: The network with shortcuts. A frozen teacher should be a trained network. It is copied, and not
            changed. A joint teacher is trained in place.
        boundaries: Names of the layers that end stages 1 to k, in network order. Where the two networks name them
            differently, a pair `(student_name, teacher_name)`. By default the ends of the teacher's stages, all but
            the last. Where the shapes differ, a learned 1x1 convolution connects them, followed by the ReLU of the
            teacher's layer if that is one, and a warning says so.
        tail_weight: m(t), from 0: a `tfjointrd.training.Schedule` or a number; `CosineFade()` by default.
        methods: As for `Distillation`; none by default. The authors take `Overhaul(weight=1e-3)` at 32 pixels and
            `Overhaul(weight=1e-4)` at 224, or none.
        teacher_mode: `"frozen"`, or `"joint"`: the teacher is trained beside the student, on its own cross-entropy only
            and with its own optimizer. The tails use its current weights, and give it no gradient. Methods compare the
            outputs of its training pass.
        path_scale: `"sum"`, or `"mean"`, which divides the student's loss by the number of paths, as the authors do for
            a joint teacher.
        strict: Whether shortcuts left in the student are an error.
        label_weight: As for `Distillation`.
        name: The model's name.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        The student's output, `(batch, classes)` for one; several as a dict by their names. In training a dict with that
        under `"student"`, the output of each teacher tail under its boundary's name, and what else the loss needs.

    Raises:
        ValueError: As for `Distillation`; or if no boundary is found, a named boundary does not exist, cannot be cut at
            or does not lie ahead of what a method compares the tails by, an option is not one of those described, or a
            batch normalisation is not synchronised where several devices train.

    Example:

    >>> teacher = tfjointrd.models.resnet20()
    >>> joint = JointRD(tfjointrd.remove_shortcuts(teacher), teacher)
    >>> joint.boundaries
    [('stage1_block3_relu', 'stage1_block3_relu'), ('stage2_block3_relu', 'stage2_block3_relu')]

    Reference:
        Residual Distillation (NeurIPS 2020), Figure 1 and section 1.
    """

    alpha_before = 0.0

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        boundaries: routing.Boundaries | None = None,
        tail_weight: schedules.Schedule | float | None = None,
        methods: Sequence[Distiller | str] | Distiller | str | None = None,
        teacher_mode: str = FROZEN,
        path_scale: str = "sum",
        strict: bool = False,
        label_weight: float | None = None,
        name: str | None = None,
        **earlier,
    ):
        if path_scale not in ("sum", "mean"):
            raise ValueError(f"Expected `path_scale` to be 'sum' or 'mean'. Received: {path_scale!r}.")

        def tails(student: Graph, teacher: Graph) -> Tails:
            _check_plain(student, strict)
            return Tails(boundaries, student, teacher, {STUDENT, TEACHER, TAPS})

        super().__init__(student, teacher, methods, teacher_mode, label_weight, name, tails=tails, **earlier)
        self.boundaries = self.tails.boundaries
        self.tail_weight = (
            schedules.CosineFade() if tail_weight is None else schedules.not_negative(tail_weight, "tail_weight")
        )
        self.path_scale, self.strict = path_scale, strict

    # === Steps ===

    def student_loss(self, losses):
        """The student's loss described above."""
        losses = dict(losses)
        loss = losses.pop(STUDENT) + self.tail_weight(self.step, self.total_steps) * sum(losses.values())
        return loss / len(self.paths()) if self.path_scale == "mean" else loss

    def path_losses(self, y, outputs, sample_weight=None):
        """The loss of each path, as yet without m(t): for the tails cross-entropy and what methods add."""
        losses = super().path_losses(y, outputs, sample_weight)
        for path in self.paths()[1:]:
            cross_entropy = self.pairing.teacher.loss(y, self.pairing.flat(outputs[path]), sample_weight)
            losses[path] = cross_entropy + self._method_losses(path, y, outputs, sample_weight)
        return losses

    # === Saving ===

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            **super().get_config(),
            "boundaries": [list(pair) for pair in self.boundaries],
            "tail_weight": keras.saving.serialize_keras_object(self.tail_weight),
            "path_scale": self.path_scale,
            "strict": self.strict,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        pairs = [tuple(pair) for pair in config["boundaries"]]
        return super().from_config({**config, "boundaries": pairs}, custom_objects)


def _check_plain(student: Graph, strict: bool) -> None:
    """Looks for shortcuts and for frozen layers in a student."""
    left = shortcuts(student)
    if strict and left:
        raise ValueError(
            "Expected a `student` without shortcuts, since strict=True. Received: "
            f"'{student.name}' with {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}."
        )
    warn_of_frozen_student(student)
