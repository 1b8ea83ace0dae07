"""Knowledge distillation: a student learns from labels and from what a trained teacher makes of the images."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.surgery.channels import check_channels_last
from tfjointrd.surgery.graph import functional, refs_in
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.tasks import tasks_of
from tfjointrd.training.losses import per_replica
from tfjointrd.training.methods.adjoined import Adjoined
from tfjointrd.training.methods.dan import DAN
from tfjointrd.training.methods.feature_distance import connector, last_map, margin_distance, margin_layer, margins
from tfjointrd.training.methods.layer_outputs import LayerOutputs
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER, PairedOutputs
from tfjointrd.training.monitors import check_monitors
from tfjointrd.training.objective import Divergence, deserialize_divergence, serialize_divergence
from tfjointrd.training.scheduled_model import ScheduledModel, serialized

FEATURES = "features"


@keras.saving.register_keras_serializable(package="tfjointrd")
class Distillation(ScheduledModel):
    """Trains a student on labels, on a frozen teacher's outputs, and on its last feature map.

    The loss is (1 - alpha) CE(student) + alpha T² KL(teacher, student at temperature T) + w D, where D is the margin
    distance between the student's last feature map, ahead of its ReLU and behind a learned 1x1 connector, and the
    teacher's. `alpha=0` with a `feature_weight` is feature distillation alone; `feature_weight=0` is Hinton's.

    CE and KL are those of classes, one of which is right. Outputs that are yes or no have binary cross-entropy and the
    KL of these; numbers have the mean squared error, or the loss that is given, and the squared difference from the
    teacher's, without T. See `Adjoined` for what an output is taken for. With several outputs, it is the sum over all,
    which are matched by their names, or else by their order.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual
    (these are loaded after `import tfjointrd`).
    `student` is trained in place, so afterwards it is the result. Losses of layers are added, also those that a
    teacher's `activity_regularizer` makes of what passes through it.

    Args:
        student: The network to train: functional, Sequential or `Adjoined`, of any architecture.
        teacher: The trained network. It is copied, and not changed.
        alpha: Weight of the teacher's outputs, from 0 to 1. They are those of the images as they come: without what
            augmentation layers of the networks would do.
        temperature: T, by which logits are divided.
        feature_weight: w. The authors of Residual Distillation take 1e-3 at 32 pixels and 1e-4 at 224.
        name: The model's name.
        divergence: What takes the place of T² KL: `"kullback_leibler"`, `"bernoulli"` or `"squared_error"`, which are
            the three above, or a function `(teacher, student) -> (batch, ...)` of outputs as the networks return them;
            for several outputs also a list, or a dict by their names.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        The student's output, `(batch, classes)` for one; several as a dict by their names. In training a dict with that
        under `"student"` and what the loss needs besides.

    Raises:
        ValueError: If a network is not functional, the networks share weights, differ in their outputs or classes or
            take images of other shapes, an argument is out of its range, or neither outputs nor features have a weight;
            with an `alpha`, if one network ends in a softmax and the other in a sigmoid; with a `feature_weight`, if a
            network has no feature map, the teacher no batch normalisation ahead of its, the resolutions do not fit, or
            the student augments its images by itself.

    Example:

    >>> teacher = tfjointrd.models.resnet56()
    >>> distilled = Distillation(tfjointrd.models.resnet20(), teacher, alpha=0.9, temperature=4)

    Reference:
        Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531), section 2; A Comprehensive
        Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), Eqn 1.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        alpha: float = 0.9,
        temperature: float = 4.0,
        feature_weight: float = 0.0,
        name: str | None = None,
        *,
        divergence: Divergence = None,
        **options,
    ):
        super().__init__(name=name)
        if not 0 <= alpha <= 1:
            raise ValueError(f"Expected `alpha` in [0, 1]. Received: alpha={alpha}.")
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` above 0. Received: temperature={temperature}.")
        if not feature_weight >= 0:
            raise ValueError(f"Expected `feature_weight` from 0. Received: feature_weight={feature_weight}.")
        self.alpha, self.temperature, self.feature_weight = alpha, temperature, feature_weight
        if isinstance(student, DAN):
            raise ValueError(
                "Expected `student` to be a network or an adjoined one. Received: the search "
                f"'{student.name}'; take its `derive()`."
            )
        self.adjoined = isinstance(student, Adjoined)
        given = student, teacher
        self.student = student if self.adjoined else functional(student, "student")
        teacher = functional(teacher, "teacher")
        check_synchronized(self.student)
        self.graphs = {
            STUDENT: student.graph if self.adjoined else read_graph(self.student),
            TEACHER: read_graph(teacher),
        }
        self._maps = {key: last_map(graph) for key, graph in self.graphs.items()} if feature_weight else {}
        self._divergence = SimpleNamespace(given=divergence)
        tasks = self.student.objective.tasks if self.adjoined else tasks_of(self.graphs[STUDENT])
        self.pairing = PairedOutputs(tasks, tasks_of(self.graphs[TEACHER]), divergence, bool(alpha))
        self.take_over_loss(*self._loss_givers(*given))
        self._check_networks(teacher)
        if feature_weight:
            self._check_maps()
        self._configure(**options)
        self._check_sizes()
        self.teacher = self._prepare(teacher)
        networks = {STUDENT: self.student.network if self.adjoined else self.student, TEACHER: self.teacher}
        whole = not (feature_weight or len(self.paths()) > 1)  # no tensor within a network is asked for
        self._taps = {key: LayerOutputs(network, whole) for key, network in networks.items()}
        self.connectors = self._make_connectors()
        # They share the layers of the networks; in a plain namespace Keras does not take them for layers of their own.
        self._networks = SimpleNamespace(**self._make_networks())
        self.built = True

    def _configure(self) -> None:
        """Takes the arguments that a subclass adds, and checks what they need."""
        if not self._needs_teacher():
            raise ValueError("Expected `alpha` or `feature_weight` above 0. Received: alpha=0, feature_weight=0.")

    # === Networks ===

    def _loss_givers(self, student: keras.Model, teacher: keras.Model) -> tuple[keras.Model, ...]:
        """The networks whose loss is that of `compile` where none is given there."""
        return (student, teacher) if self.pairing.alike else (student,)

    def objectives(self):
        """The student's losses; those of an adjoined one too, which hold how far its small networks are."""
        return [self.pairing.student, *([self.student.objective] if self.adjoined else [])]

    def _check_networks(self, teacher: keras.Model) -> None:
        for argument, graph in self.graphs.items():
            if len(list(refs_in(graph.inputs))) != 1:
                raise ValueError(f"Expected `{argument}` to have one input. Received: '{graph.name}' with several.")
        own = {id(variable) for variable in self.student.variables}
        shared = [variable.path for variable in teacher.variables if id(variable) in own]
        if shared:
            raise ValueError(
                "Expected `student` and `teacher` to have layers of their own; `keras.models.clone_model` or "
                f"`tfjointrd.remove_shortcuts` make new ones. Received: networks that share {shared[0]}"
                + (f" and {len(shared) - 1} other weights." if len(shared) > 1 else ".")
            )

    def _check_maps(self) -> None:
        """Position by position, maps are compared of the same image, and channels are their last axis."""
        for graph in self.graphs.values():
            check_channels_last(graph)
        for name, spec in self.graphs[STUDENT].layers.items():
            if describe(spec).augments:
                raise ValueError(
                    "Expected `student` without random augmentation, since `feature_weight` compares its feature map "
                    "with the teacher's, who sees the image as it is. Augment the data instead. Received: "
                    f"'{self.graphs[STUDENT].name}' with the {spec.cls.__name__} '{name}'."
                )

    def _check_sizes(self) -> None:
        """Where the teacher sees the images too, both networks have to take them."""
        student, teacher = (graph.shapes[next(refs_in(graph.inputs))][1:] for graph in self.graphs.values())
        fit = len(student) == len(teacher) and not any(
            a is not None and b is not None and a != b for a, b in zip(student, teacher, strict=True)
        )
        if self._needs_teacher() and not fit:
            raise ValueError(
                "Expected `student` and `teacher` to take images of the same shape. Received: a student for "
                f"{student} and a teacher for {teacher}."
            )

    @property
    def joint(self) -> bool:
        """Whether the teacher is trained too."""
        return False

    def _prepare(self, teacher: keras.Model) -> keras.Model:
        """The teacher as the training uses it: a frozen copy."""
        copy = self.graphs[TEACHER].build()
        copy.trainable = False
        return copy

    def paths(self) -> list[str]:
        """Names of the paths whose outputs the loss looks at, the student's own first."""
        return [STUDENT]

    def _make_connectors(self) -> dict[str, keras.Model]:
        """One for each path's last feature map."""
        if not self.feature_weight:
            return {}
        shapes = {key: self.graphs[key].shapes[ref][1:] for key, ref in self._maps.items()}
        return {
            path: connector(shapes[STUDENT if path == STUDENT else TEACHER], shapes[TEACHER], f"{path}_connector")
            for path in self.paths()
        }

    def _student_paths(self, names: list[str]) -> keras.Model:
        """The student to `{"tapped": outputs of named layers, "map": last feature map, "output": ...}`."""
        taps = self._taps[STUDENT]
        outputs = {"output": taps.output if self.adjoined else self.pairing.named(STUDENT, taps.output)}
        if names:
            outputs["tapped"] = [taps(name) for name in names]
        if self.feature_weight:
            outputs["map"] = taps(self._maps[STUDENT].layer, self._maps[STUDENT].index)
        return keras.Model(taps.inputs, outputs)

    def _teacher_part(self, start) -> keras.Model:
        """The teacher from a tensor on, to `{"map": last feature map, "output": ...}`."""
        taps = self._taps[TEACHER]
        outputs = {"output": self.pairing.named(TEACHER, taps.output)}
        if self.feature_weight:
            outputs["map"] = taps(self._maps[TEACHER].layer, self._maps[TEACHER].index)
        return keras.Model(start, outputs)

    def _make_networks(self) -> dict:
        networks = {"student": self._student_paths([]), "teacher": self._teacher_part(self._taps[TEACHER].inputs)}
        if self.feature_weight:
            networks["margins"] = self._taps[TEACHER].layer(margin_layer(self.graphs[TEACHER], self._maps[TEACHER]))
        return networks

    def changing(self):
        """Names of the arguments by which the loss changes; an adjoined student's too."""
        return [*super().changing(), *(self.student.changing() if self.adjoined else [])]

    # === compile ===

    def compile(self, *args, **kwargs):
        """As for `ScheduledModel`."""
        self._freeze_teacher()
        super().compile(*args, **kwargs)

    def make_train_function(self, force=False):
        """As Keras does; a frozen teacher is frozen whatever was done to `trainable` since `compile`."""
        self._freeze_teacher()
        return super().make_train_function(force)

    def _freeze_teacher(self) -> None:
        if not self.joint:
            self.teacher.trainable = True  # Keras only passes on what changes
            self.teacher.trainable = False

    def route_metrics(self, metrics):
        """Metrics of the student."""
        if self.adjoined:
            return self.student.route_metrics(metrics)
        objective = self.pairing.student
        return metrics if len(objective.names) == 1 else objective.route(metrics, [objective.names])

    def check_callbacks(self, callbacks):
        """Where the student is adjoined, refuses those that look for a metric without saying of which network."""
        if self.adjoined:
            check_monitors(callbacks, self.student.all_output_keys(), self.metrics_given())

    # === Steps ===

    def call(self, inputs, training=None):
        """The student's output; in training with what the loss needs besides."""
        if not training:
            return self.deployed(inputs)
        student = self._networks.student(inputs, training=True)
        teacher = self.teacher_pass(inputs) if self._needs_teacher() else None
        return {STUDENT: student["output"], **self._compared(teacher, {STUDENT: student})}

    def deployed(self, inputs):
        """What the student returns when it is not trained."""
        output = self.student(inputs, training=False)
        return output if self.adjoined else self.pairing.named(STUDENT, output)

    def teacher_pass(self, inputs) -> dict:
        """The teacher's outputs for the images."""
        return self._networks.teacher(inputs, training=False)

    def _needs_teacher(self) -> bool:
        return bool(self.alpha or self.feature_weight)

    def _compared(self, teacher: dict | None, paths: dict) -> dict:
        """The teacher's outputs, and every path's feature map behind its connector."""
        found = {} if teacher is None else {TEACHER: teacher}
        if self.feature_weight:
            found[FEATURES] = {path: self.connectors[path](paths[path]["map"], training=True) for path in self.paths()}
        return found

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss described above, plus the layers' own losses. In evaluation the student's cross-entropy alone."""
        if isinstance(y_pred, dict) and STUDENT in y_pred:
            loss = self.training_loss(y, y_pred, sample_weight)
        else:
            loss = self.pairing.student.loss(y, self._main(y_pred), sample_weight)
        if training:
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def training_loss(self, y, outputs, sample_weight=None):
        """The loss of what `call` returns in training."""
        return self.path_losses(y, outputs, sample_weight)[STUDENT]

    def path_losses(self, y, outputs, sample_weight=None) -> dict:
        """The loss of each path, as yet without a weight.

        Args:
            y: Labels.
            outputs: What `call` returns in training.
            sample_weight: `(batch,)` weights, or `None`.

        Returns:
            Dict of scalars by the names of `paths()`.
        """
        main = self._main(outputs[STUDENT])
        loss = (1 - self.alpha) * self.pairing.student.loss(y, main, sample_weight)
        if self.alpha:
            targets = [ops.stop_gradient(target) for target in self.pairing.flat(outputs[TEACHER]["output"])]
            compared = targets, self.pairing.endings[TEACHER], main
            soft = self.pairing.student.soft_loss(*compared, self.temperature, sample_weight)
            loss = loss + self.alpha * per_replica(soft)
        if self.adjoined:
            progress = self.step, self.total_steps
            loss = loss + self.student.small_losses(y, outputs[STUDENT], sample_weight, *progress)
        return {STUDENT: loss + self._feature_loss(outputs, STUDENT, sample_weight)}

    def _main(self, output) -> list:
        """The outputs of the student, the full network's of an adjoined one."""
        return self.student.outputs_of("full", output) if self.adjoined else self.pairing.flat(output)

    def _feature_loss(self, outputs, path: str, sample_weight):
        """w D of one path, or zero."""
        if not self.feature_weight:
            return 0.0
        margin = ops.stop_gradient(margins(self._networks.margins))
        target = ops.stop_gradient(outputs[TEACHER]["map"])
        weights = self.pairing.student.weight_of_images(sample_weight)
        distance = margin_distance(outputs[FEATURES][path], target, margin, weights)
        return self.feature_weight * per_replica(distance)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the student alone."""
        output = y_pred[STUDENT] if isinstance(y_pred, dict) and STUDENT in y_pred else y_pred
        if self.adjoined:
            y, sample_weight = self.student.for_all(y), self.student.for_all(sample_weight, "sample_weight")
        elif isinstance(output, Mapping):
            objective = self.pairing.student
            y = objective.by_keys(y, "y", [objective.names])
            sample_weight = objective.by_keys(sample_weight, "sample_weight", [objective.names])
        return super().compute_metrics(x, y, output, sample_weight)

    # === Saving ===

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            "student": serialized(self.student),
            "teacher": serialized(self.teacher),
            "alpha": self.alpha,
            "temperature": self.temperature,
            "feature_weight": self.feature_weight,
            "divergence": serialize_divergence(self._divergence.given),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        networks = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in (STUDENT, TEACHER)
        }
        divergence = deserialize_divergence(config.get("divergence"), custom_objects)
        return cls(**{**config, **networks, "divergence": divergence})
