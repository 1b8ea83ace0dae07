"""Residual Distillation: a plain network learns through the later stages of itself and of its ResNet."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.surgery.shortcuts import shortcuts
from tfjointrd.training import schedules
from tfjointrd.training.frozen import warn_of_frozen_student
from tfjointrd.training.methods import routing
from tfjointrd.training.methods.distillation import FEATURES, Distillation
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER
from tfjointrd.training.objective import Divergence
from tfjointrd.training.optimizers import OptimizerPair, like

FROZEN, JOINT = "frozen", "joint"


@keras.saving.register_keras_serializable(package="tfjointrd")
class JointRD(Distillation):
    """Trains a plain student by passing its early stages' features through a ResNet teacher's later stages.

    In training, the student's feature at the end of each stage goes on through the student itself and through the
    teacher's remaining stages; all of these paths are classified against the label. With w > 0 the last feature map of
    each path is also drawn to the teacher's own, D. The loss is

        (1 - alpha) CE(student) + alpha T² KL(teacher, student) + w D_student + m(t) sum_k [CE(tail k) + w D_tail k],

    by default CE(student) + m(t) sum_k CE(tail k). Gradients pass through the teacher to the student, and m(t) fades.
    In the tails the teacher's batch normalisation uses its running statistics. An `Adjoined` student adds its
    lambda(t) KL(full, small). For inference it is the student alone. CE and KL are those of classes; outputs of other
    kinds, and several outputs, are as for `Distillation`.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual
    (these are loaded after `import tfjointrd`).
    `student` is trained in place, so afterwards it is the result.

    Args:
        student: The network without shortcuts, e.g. `tfjointrd.dirac(tfjointrd.remove_shortcuts(teacher))`; or an
            `Adjoined` one, which is then trained by both papers at once: its full network goes through the teacher,
            its small one learns from the full one.
        teacher: The network with shortcuts. A frozen one should be trained; it is copied, and not changed. A joint one
            is trained in place.
        boundaries: Names of the layers that end stages 1 to k, in network order. Where the two networks name them
            differently, a pair `(student_name, teacher_name)`. By default the ends of the teacher's stages, all but
            the last. Where the shapes differ, a learned 1x1 convolution connects them, followed by the ReLU of the
            teacher's layer if that is one, and a warning says so.
        tail_weight: m(t), from 0: a `tfjointrd.training.Schedule` or a number; `CosineFade()` by default.
        feature_weight: w. The authors take 1e-3 at 32 pixels and 1e-4 at 224, or 0.
        alpha: Weight of the teacher's outputs as targets, from 0 to 1; 0.9 for Hinton's distillation on top.
        temperature: T, for these targets.
        teacher_mode: `"frozen"`, or `"joint"`: the teacher is trained beside the student, on its own cross-entropy
            only and with an optimizer of its own; the tails use its weights as they are, and give it no gradient. Its
            outputs and feature map as targets are those of its pass in training.
        path_scale: `"sum"`, or `"mean"`, which divides the student's loss by the number of paths, as the authors do for
            a joint teacher.
        strict: Whether shortcuts left in the student are an error.
        name: The model's name.
        divergence: As for `Distillation`, for the teacher's outputs as targets.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        The student's output, `(batch, classes)` for one; several as a dict by their names. In training a dict with that
        under `"student"`, the output of each teacher tail under its boundary's name, and what the loss needs besides.

    Raises:
        ValueError: As for `Distillation`; or if no boundary is found, a named boundary does not exist, cannot be cut at
            or, with a `feature_weight`, does not lie ahead of the teacher's last feature map, an option is not one of
            those described, or a batch normalisation is not synchronised where several devices train.

    Example:

    >>> teacher = tfjointrd.models.resnet20()
    >>> joint = JointRD(tfjointrd.remove_shortcuts(teacher), teacher)
    >>> joint.boundaries
    [('stage1_block3_relu', 'stage1_block3_relu'), ('stage2_block3_relu', 'stage2_block3_relu')]

    Reference:
        Residual Distillation (NeurIPS 2020), Figure 1 and section 1.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        boundaries: routing.Boundaries | None = None,
        tail_weight: schedules.Schedule | float | None = None,
        feature_weight: float = 0.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        teacher_mode: str = FROZEN,
        path_scale: str = "sum",
        strict: bool = False,
        name: str | None = None,
        *,
        divergence: Divergence = None,
    ):
        options = {
            "boundaries": boundaries,
            "tail_weight": tail_weight,
            "teacher_mode": teacher_mode,
            "path_scale": path_scale,
            "strict": strict,
        }
        super().__init__(student, teacher, alpha, temperature, feature_weight, name, divergence=divergence, **options)

    def _configure(self, boundaries, tail_weight, teacher_mode, path_scale, strict):
        for argument, value, known in (
            ("teacher_mode", teacher_mode, (FROZEN, JOINT)),
            ("path_scale", path_scale, ("sum", "mean")),
        ):
            if value not in known:
                raise ValueError(f"Expected `{argument}` to be '{known[0]}' or '{known[1]}'. Received: {value!r}.")
        graphs = self.graphs[STUDENT], self.graphs[TEACHER]
        left = shortcuts(graphs[0])
        if strict and left:
            raise ValueError(
                "Expected a `student` without shortcuts, since strict=True. Received: "
                f"'{graphs[0].name}' with {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}."
            )
        warn_of_frozen_student(graphs[0])
        self.boundaries = routing.resolve(boundaries, *graphs)
        taken = {STUDENT, TEACHER, FEATURES} & {name for name, _ in self.boundaries}
        if taken:
            raise ValueError(
                f"Expected `boundaries` whose layers have other names than the model's own outputs. Received: {taken}."
            )
        if self.feature_weight:
            routing.check_ahead_of(self._maps[TEACHER], self.boundaries, graphs[1])
        self.boundary_connectors = routing.connectors(self.boundaries, *graphs)
        self.tail_weight = (
            schedules.CosineFade() if tail_weight is None else schedules.not_negative(tail_weight, "tail_weight")
        )
        self.teacher_mode, self.path_scale, self.strict = teacher_mode, path_scale, strict

    @property
    def joint(self) -> bool:
        """Whether the teacher is trained too."""
        return self.teacher_mode == JOINT

    def _prepare(self, teacher):
        """A frozen copy, or the teacher itself where it is trained too."""
        if not self.joint:
            return super()._prepare(teacher)
        check_synchronized(teacher)
        if not teacher.trainable_variables:
            raise ValueError(
                f"Expected a trainable `teacher`, since teacher_mode='{JOINT}'. Received: '{teacher.name}' with "
                f"trainable={teacher.trainable} and no trainable weights."
            )
        return teacher

    def paths(self):
        """Names of the paths: the student's own, and the tails' by the student's layer that they begin at."""
        return [STUDENT, *(name for name, _ in self.boundaries)]

    def _make_networks(self):
        """The student, the teacher, and the teacher in segments from one boundary to the next."""
        starts = [self._taps[TEACHER](name) for _, name in self.boundaries]
        segments = [keras.Model(start, {"tail": end}) for start, end in zip(starts[:-1], starts[1:], strict=True)]
        return {
            **super()._make_networks(),
            "student": self._student_paths([name for name, _ in self.boundaries]),
            "segments": [*segments, self._teacher_part(starts[-1])],
        }

    # === compile ===

    def compile(self, optimizer="rmsprop", loss=None, *args, teacher_optimizer=None, **kwargs):
        """As for `ScheduledModel`.

        Args:
            optimizer: The student's and the connectors'.
            loss: The loss of student, tails and teacher.
            *args: As for `ScheduledModel`.
            teacher_optimizer: That of a joint teacher; by default one like the student's. `LearningRateScheduler` and
                `ReduceLROnPlateau` set the learning rate of both, each from its own; with mixed_float16, where Keras
                scales the loss, they see the student's alone.
            **kwargs: As for `ScheduledModel`.

        Raises:
            ValueError: As for `ScheduledModel`; if a frozen teacher is given an optimizer, or a joint one that of the
                student; or if `loss` is given for a student and a teacher that do not end in the same.
        """
        if self.joint:
            student = keras.optimizers.get(optimizer)
            teacher = like(student) if teacher_optimizer is None else keras.optimizers.get(teacher_optimizer)
            optimizer = OptimizerPair(student, teacher, self.teacher.variables)
        elif teacher_optimizer is not None:
            raise ValueError(
                "Expected no `teacher_optimizer` for a frozen teacher. Received: "
                f"teacher_optimizer={teacher_optimizer!r}."
            )
        if loss is not None and not self.pairing.alike:
            endings = [self.pairing.ending(key) for key in (STUDENT, TEACHER)]
            raise ValueError(
                "Expected student and teacher to return the same, logits or probabilities, for one `loss` to fit both. "
                f"Received: loss={loss} for a student that ends in {endings[0]} and a teacher that ends in "
                f"{endings[1]}. Leave `loss` out."
            )
        super().compile(optimizer, loss, *args, **kwargs)

    def _loss_givers(self, student, teacher):
        return (student, teacher) if self.pairing.alike else ()

    def objectives(self):
        """The losses of the student, and those of tails and teacher."""
        return [*super().objectives(), self.pairing.teacher]

    # === Steps ===

    def call(self, inputs, training=None):
        """The student's output; in training those of all paths."""
        if not training:
            return self.deployed(inputs)
        student = self._networks.student(inputs, training=True)
        # The teacher's own pass comes first, so that the tails see its statistics as they are after it.
        teacher = self.teacher_pass(inputs) if self._needs_teacher() else None
        names = self.paths()[1:]
        features = [
            self.boundary_connectors[name](feature, training=True) if name in self.boundary_connectors else feature
            for name, feature in zip(names, student["tapped"], strict=True)
        ]
        paths = {STUDENT: student, **dict(zip(names, self._tails(features), strict=True))}
        return {**{path: outputs["output"] for path, outputs in paths.items()}, **self._compared(teacher, paths)}

    def _tails(self, features: list) -> list[dict]:
        """What the teacher makes of each feature.

        Tails are nested: what follows a boundary follows all earlier ones. Features therefore join one growing batch,
        which is exact because the teacher's batch normalisation uses its running statistics.
        """
        outputs = {"tail": features[0]}
        for feature, segment in zip([None, *features[1:]], self._networks.segments, strict=True):
            batch = outputs["tail"] if feature is None else ops.concatenate([outputs["tail"], feature], axis=0)
            outputs = self._through(segment, batch)
        parts = [ops.split(value, len(features), axis=0) for value in keras.tree.flatten(outputs)]
        return [keras.tree.pack_sequence_as(outputs, [part[i] for part in parts]) for i in range(len(features))]

    def _through(self, segment: keras.Model, batch):
        """A part of the teacher, in inference, and without gradients for its weights."""
        if not self.joint:
            return segment(batch, training=False)
        # The statistics too: on JAX they are functions of the teacher's weights, through its own pass just before.
        weights, statistics = (
            [ops.stop_gradient(variable.value) for variable in variables]
            for variables in (segment.trainable_variables, segment.non_trainable_variables)
        )
        return segment.stateless_call(weights, statistics, batch, training=False)[0]

    def teacher_pass(self, inputs):
        """The teacher's outputs for the images; a joint one is in training."""
        return self._networks.teacher(inputs, training=self.joint)

    def _needs_teacher(self):
        return self.joint or super()._needs_teacher()

    def training_loss(self, y, outputs, sample_weight=None):
        """The student's loss described above, and a joint teacher's own cross-entropy."""
        losses = self.path_losses(y, outputs, sample_weight)
        loss = losses.pop(STUDENT) + self.tail_weight(self.step, self.total_steps) * sum(losses.values())
        if self.path_scale == "mean":
            loss = loss / len(self.paths())
        if self.joint:
            own = self.pairing.flat(outputs[TEACHER]["output"])
            loss = loss + self.pairing.teacher.loss(y, own, sample_weight)
        return loss

    def path_losses(self, y, outputs, sample_weight=None):
        """The loss of each path, as yet without m(t): CE + w D for the tails."""
        losses = super().path_losses(y, outputs, sample_weight)
        for path in self.paths()[1:]:
            cross_entropy = self.pairing.teacher.loss(y, self.pairing.flat(outputs[path]), sample_weight)
            losses[path] = cross_entropy + self._feature_loss(outputs, path, sample_weight)
        return losses

    # === Saving ===

    def get_compile_config(self):
        """The arguments of `compile`, serialised."""
        config = super().get_compile_config()
        if config and self.joint:
            pair = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            own = pair.get_config()
            config = {**config, "optimizer": own["first"], "teacher_optimizer": own["second"]}
        return config

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            **super().get_config(),
            "boundaries": [list(pair) for pair in self.boundaries],
            "tail_weight": keras.saving.serialize_keras_object(self.tail_weight),
            "teacher_mode": self.teacher_mode,
            "path_scale": self.path_scale,
            "strict": self.strict,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        pairs = [tuple(pair) for pair in config["boundaries"]]
        return super().from_config({**config, "boundaries": pairs}, custom_objects)
