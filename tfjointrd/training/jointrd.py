"""Residual Distillation: a plain network learns through the later stages of itself and of its ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.surgery.boundaries import cuts, stage_boundaries
from tfjointrd.surgery.graph import Graph, functional, refs_in
from tfjointrd.training import schedules
from tfjointrd.training.base import ScheduledModel
from tfjointrd.training.losses import default_loss, ends_in_softmax, per_replica

STUDENT = "student"


@keras.saving.register_keras_serializable(package="tfjointrd")
class JointRD(ScheduledModel):
    """Trains a plain student by passing its early stages' features through a ResNet teacher's later stages.

    In training, the student's feature at the end of each stage goes on through the student itself and through the
    teacher's remaining stages; all of these paths are classified against the label:
    CE(student) + m(t) * sum_k CE(teacher tail k). The teacher is a frozen copy, with batch normalisation on its running
    statistics; gradients pass through it to the student. The weight m(t) fades. For inference it is the student
    alone.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual.
    `student` is trained in place, so afterwards it is the result.

    Args:
        student: The network without shortcuts, e.g. from `tfjointrd.remove_shortcuts`.
        teacher: The trained network with shortcuts. It is copied, and not changed.
        boundaries: Names of the layers that end stages 1 to k, in network order. Where the two networks name them
            differently, a pair `(student_name, teacher_name)`. By default the ends of the teacher's stages, all but
            the last.
        tail_weight: m(t): a `tfjointrd.training.Schedule` or a number; `CosineFade()` by default.
        name: The model's name.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        The student's output `(batch, classes)`; in training a dict with that under `"student"` and the output of
        each teacher tail under its boundary's name.

    Raises:
        ValueError: If a network is not functional or has several outputs, no boundary is found, a named boundary does
            not exist or cannot be cut at, the shapes at a boundary differ, or the numbers of classes differ; if a batch
            normalisation of the student is not synchronised where several devices train.

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
        boundaries: Sequence[str | tuple[str, str]] | None = None,
        tail_weight: schedules.Schedule | float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        student, teacher = functional(student, "student"), functional(teacher, "teacher")
        check_synchronized(student)
        student_graph, teacher_graph = Graph.of(student), Graph.of(teacher)
        _check_outputs(student_graph, teacher_graph)
        self.boundaries = _resolve(boundaries, student_graph, teacher_graph)
        self.tail_weight = schedules.CosineFade() if tail_weight is None else schedules.get(tail_weight)
        self.student = student
        self.teacher = teacher_graph.build()
        self.teacher.trainable = False
        self._paths = _paths(self.student, self.teacher, self.boundaries)
        self._defaults = SimpleNamespace(student=default_loss(student), tail=default_loss(teacher))
        self._comparable = ends_in_softmax(student) == ends_in_softmax(teacher)
        self.set_loss(None)
        self.built = True

    def compile(self, *args, **kwargs):
        """As for `ScheduledModel`; the teacher stays frozen, whatever was done to `trainable` in between."""
        self.teacher.trainable = False
        super().compile(*args, **kwargs)

    def num_classes(self) -> int:
        """Number of classes."""
        return self.student.output_shape[-1]

    def call(self, inputs, training=None):
        """The student's output; in training those of all paths."""
        if not training:
            return self.student(inputs, training=False)
        *features, output = self._paths.features(inputs, training=True)
        tails = self._tails(features)
        return {STUDENT: output, **dict(zip((name for name, _ in self.boundaries), tails, strict=True))}

    def _tails(self, features: list) -> list:
        """The teacher's output for each feature.

        Tails are nested: what follows a boundary follows all earlier ones. Features therefore join one growing batch,
        which is exact because the teacher's batch normalisation uses its running statistics.
        """
        batch = features[0]
        for feature, segment in zip([None, *features[1:]], self._paths.segments, strict=True):
            batch = batch if feature is None else ops.concatenate([batch, feature], axis=0)
            batch = segment(batch, training=False)
        return ops.split(batch, len(features), axis=0)

    def set_loss(self, loss):
        """Takes the cross-entropy of student and tails."""
        if loss is not None and not self._comparable:
            raise ValueError(
                "Expected student and teacher to return the same, logits or probabilities, for one `loss` to fit both. "
                f"Received: loss={loss} for a pair of which one ends in a softmax. Leave `loss` out."
            )
        self._losses_of = self._defaults if loss is None else SimpleNamespace(student=loss, tail=loss)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """CE(student) + m(t) * sum_k CE(tail k), plus the layers' own losses."""
        if not isinstance(y_pred, dict):
            loss = self._losses_of.student(y, y_pred, sample_weight)
        else:
            tails = [self._losses_of.tail(y, y_pred[name], sample_weight) for name, _ in self.boundaries]
            loss = self._losses_of.student(y, y_pred[STUDENT], sample_weight)
            loss = loss + self.tail_weight(self.step, self.total_steps) * sum(tails)
        if training:
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the student alone."""
        return super().compute_metrics(x, y, y_pred[STUDENT] if isinstance(y_pred, dict) else y_pred, sample_weight)

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            "student": keras.saving.serialize_keras_object(self.student),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "boundaries": [list(pair) for pair in self.boundaries],
            "tail_weight": keras.saving.serialize_keras_object(self.tail_weight),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        networks = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in ("student", "teacher")
        }
        return cls(**{**config, **networks, "boundaries": [tuple(pair) for pair in config["boundaries"]]})


def _check_outputs(student: Graph, teacher: Graph) -> None:
    classes = {}
    for argument, graph in (("student", student), ("teacher", teacher)):
        if len(list(refs_in(graph.inputs))) != 1:
            raise ValueError(f"Expected `{argument}` to have one input. Received: '{graph.name}' with several.")
        classes[argument] = graph.shapes[graph.single_output()][-1]
    if classes["student"] != classes["teacher"]:
        raise ValueError(
            f"Expected `student` and `teacher` to have the same classes. Received: a student with "
            f"{classes['student']} and a teacher with {classes['teacher']}."
        )


def _resolve(boundaries, student: Graph, teacher: Graph) -> list[tuple[str, str]]:
    """Boundaries as pairs of layer names, checked."""
    if boundaries is None:
        pairs = [(name, name) for name in stage_boundaries(teacher, student)]
        if not pairs:
            raise ValueError(
                "Found no stage that ends in a layer of the same name and shape in both networks. Pass `boundaries`, "
                f"names of layers that end a stage. Received: student '{student.name}', teacher '{teacher.name}'."
            )
        return pairs
    pairs = [(entry, entry) if isinstance(entry, str) else tuple(entry) for entry in boundaries]
    if not pairs:
        raise ValueError(f"Expected `boundaries` to name at least one layer. Received: boundaries={boundaries}.")
    for argument, graph, names in zip(
        ("student", "teacher"), (student, teacher), zip(*pairs, strict=True), strict=True
    ):
        _check_cuts(argument, graph, names)
    for student_name, teacher_name in pairs:
        shapes = [_shape(student, student_name), _shape(teacher, teacher_name)]
        if shapes[0][1:] != shapes[1][1:]:
            raise ValueError(
                f"Expected the same shape at boundary '{student_name}' of the student and '{teacher_name}' of the "
                f"teacher. Received: {shapes[0]} and {shapes[1]}."
            )
    return pairs


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


def _paths(student: keras.Model, teacher: keras.Model, boundaries: Sequence[tuple[str, str]]) -> SimpleNamespace:
    """The student's features, and the teacher in segments from one boundary to the next.

    Both share the layers of the networks; in a plain namespace Keras does not take them for layers of their own.
    """
    features = [student.get_layer(name).output for name, _ in boundaries]
    ends = [teacher.get_layer(name).output for _, name in boundaries] + [keras.tree.flatten(teacher.outputs)[0]]
    return SimpleNamespace(
        features=keras.Model(student.inputs, [*features, keras.tree.flatten(student.outputs)[0]]),
        segments=[keras.Model(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)],
    )
