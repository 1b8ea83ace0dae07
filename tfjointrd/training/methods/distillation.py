"""Knowledge distillation: a student learns from labels and from what a trained teacher makes of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfjointrd.data.batches import with_first
from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.surgery.graph import Graph, functional
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tasks import tasks_of
from tfjointrd.training.distillers import KD, Distiller, Overhaul, as_distillers
from tfjointrd.training.losses import per_replica
from tfjointrd.training.methods.adjoined import Adjoined
from tfjointrd.training.methods.comparisons import OUTPUT, TAPS, Comparisons, check_label_weight
from tfjointrd.training.methods.dan import DAN
from tfjointrd.training.methods.earlier_arguments import EARLIER, methods_of, taken_from
from tfjointrd.training.methods.networks import BOUNDARIES, Networks, check_networks, check_sizes
from tfjointrd.training.methods.paired_outputs import STUDENT, TEACHER, PairedOutputs
from tfjointrd.training.methods.tails import Tails
from tfjointrd.training.monitors import check_monitors
from tfjointrd.training.objective import deserialize_divergence
from tfjointrd.training.optimizers import OptimizerPair, like
from tfjointrd.training.scheduled_model import ScheduledModel, serialized

FROZEN, JOINT = "frozen", "joint"


@keras.saving.register_keras_serializable(package="tfjointrd")
class Distillation(ScheduledModel):
    """Trains a student on labels, and by any number of methods on a teacher's outputs and features of the same images.

    The loss is the label weight times the student's loss on the labels, plus each method's loss times its weight. The
    methods are those of `tfjointrd.distillers`, or a subclass of `tfjointrd.distillers.Distiller`. Student and teacher
    run once a step each, whatever the number of methods; the teacher in inference, unless it is trained too. Some
    methods train layers of their own, for example to bring feature maps to one shape. These layers belong to the
    training and not to the student.

    A method's loss is a mean over the batch. With `sample_weight` it is a weighted mean. With several outputs, losses
    on labels and on outputs are sums over all outputs. Outputs of student and teacher are matched by their names, or
    else by their order. `Adjoined` says which kind of output is assumed.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual
    (these are loaded after `import tfjointrd`). `evaluate` has the student's loss on the labels. `student` is trained
    in place, so it is the result. Losses of layers are added. This includes the losses of a teacher's
    `activity_regularizer` on what passes through it.

    Args:
        student: The network to train: functional, Sequential or `Adjoined`, of any architecture.
        teacher: The trained network. It is copied, and not changed. A joint teacher is trained in place.
        methods: The methods: distillers, their names (`tfjointrd.distillers.METHODS`), or losses of
            `keras.distillation`; one, or a list of several, which add up. By default `KD()`. They see the images
            without the effect of augmentation layers of the networks.
        teacher_mode: `"frozen"`, or `"joint"`: the teacher is trained beside the student, on its own loss on the labels
            only and with an optimizer of its own. Methods compare the outputs of its training pass.
        label_weight: How much the loss on the labels counts. By default 1 minus the weight of `KD`, which is a share,
            and 1 without `KD`.
        name: The model's name.
        tails: What else the student's features pass through; used by `JointRD`.

    Attributes:
        methods: The methods, with their layers.
        connectors: The convolutions of `Overhaul`, by the path that they belong to.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        The student's output, `(batch, classes)` for one; several as a dict by their names. In training a dict with that
        under `"student"` and what else the loss needs.

    Raises:
        ValueError: If a network is not functional, the networks share weights, differ in their outputs or classes or
            take images of other shapes, an argument is not one of those described, or a network lacks something that a
            method compares.

    Example:

    >>> teacher = tfjointrd.models.resnet56()
    >>> methods = [tfjointrd.distillers.KD(temperature=4, weight=0.9), tfjointrd.distillers.Overhaul(weight=1e-3)]
    >>> distilled = Distillation(tfjointrd.models.resnet20(), teacher, methods)

    Reference:
        Distilling the Knowledge in a Neural Network (https://arxiv.org/abs/1503.02531), section 2; and the papers of
        the methods.
    """

    alpha_before = 0.9  # what `alpha` was by default when it was an argument

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        methods: Sequence[Distiller | str] | Distiller | str | None = None,
        teacher_mode: str = FROZEN,
        label_weight: float | None = None,
        name: str | None = None,
        *,
        tails: Callable[[Graph, Graph], Tails] | None = None,
        **earlier,
    ):
        super().__init__(name=name)
        methods = taken_from(earlier, type(self).__name__, methods, self.alpha_before)
        methods = as_distillers((() if tails else KD()) if methods is None else methods)
        if teacher_mode not in (FROZEN, JOINT):
            raise ValueError(f"Expected `teacher_mode` to be '{FROZEN}' or '{JOINT}'. Received: {teacher_mode!r}.")
        if not methods and not tails:
            raise ValueError("Expected `methods` to list at least one. Received: methods=[].")
        if isinstance(student, DAN):
            raise ValueError(
                "Expected `student` to be a network or an adjoined one. Received: the search "
                f"'{student.name}'; take its `derive()`."
            )
        self.teacher_mode, self.label_weight = teacher_mode, label_weight
        self.adjoined = isinstance(student, Adjoined)
        given = student, teacher
        self.student = student if self.adjoined else functional(student, "student")
        teacher = functional(teacher, "teacher")
        check_synchronized(self.student)
        self.graphs = {
            STUDENT: student.graph if self.adjoined else read_graph(self.student),
            TEACHER: read_graph(teacher),
        }
        tasks = self.student.objective.tasks if self.adjoined else tasks_of(self.graphs[STUDENT])
        self.pairing = PairedOutputs(tasks, tasks_of(self.graphs[TEACHER]), methods)
        if self.pairing.alike or not (tails or self.joint):
            self.take_over_loss(*given[: 2 if self.pairing.alike else 1])
        check_networks(self.graphs, self.student, teacher)
        self.tails: Any = tails and tails(*self.graphs.values())
        tail_names = self.tails.names if self.tails else ()
        self.comparisons = Comparisons(methods, self.graphs[STUDENT], self.graphs[TEACHER], tail_names)
        check_label_weight(label_weight, methods)
        if self._needs_teacher():
            check_sizes(self.graphs)
        self.boundary_connectors = self.tails.connectors if self.tails else {}
        self.teacher = self._prepared(teacher)
        # They share the layers of the networks, which Keras finds in these. It does not look into plain objects.
        network = self.student.network if self.adjoined else self.student
        self._networks = Networks(network, self.teacher, self.pairing, self.comparisons, self.tails, self.adjoined)
        by_path = self.comparisons.methods
        self.connectors = {
            path: method.connector for path, own in by_path.items() for method in own if isinstance(method, Overhaul)
        }
        self.methods = by_path[STUDENT]
        self.tail_methods = {path: own for path, own in by_path.items() if path != STUDENT}
        self.built = True

    # === Networks ===

    def objectives(self):
        """The student's losses; those of an adjoined one too, which hold how far its small networks are."""
        own = [self.pairing.student, *([self.student.objective] if self.adjoined else [])]
        return [*own, self.pairing.teacher] if self.tails or self.joint else own

    @property
    def joint(self) -> bool:
        """Whether the teacher is trained too."""
        return self.teacher_mode == JOINT

    def _prepared(self, teacher: keras.Model) -> keras.Model:
        """The teacher as the training uses it: a frozen copy, or itself where it is trained too."""
        if not self.joint:
            copy = self.graphs[TEACHER].build()
            copy.trainable = False
            return copy
        check_synchronized(teacher)
        if not teacher.trainable_variables:
            raise ValueError(
                f"Expected a trainable `teacher`, since teacher_mode='{JOINT}'. Received: '{teacher.name}' with "
                f"trainable={teacher.trainable} and no trainable weights."
            )
        return teacher

    def paths(self) -> list[str]:
        """Names of the paths whose outputs the loss looks at, the student's own first."""
        return [STUDENT, *(self.tails.names if self.tails else [])]

    def changing(self):
        """Names of the arguments by which the loss changes; an adjoined student's too."""
        own = [f"weight of {method.name}" for method in self.methods if not method.constant]
        timed = [f"loss of {method.name}" for method in self.methods if method.timed]
        return [*super().changing(), *own, *timed, *(self.student.changing() if self.adjoined else [])]

    # === compile ===

    def compile(self, optimizer="rmsprop", loss=None, *args, teacher_optimizer=None, **kwargs):
        """As for `ScheduledModel`.

        Args:
            optimizer: The student's and that of the methods' layers.
            loss: The loss of all that is trained on labels.
            *args: As for `ScheduledModel`.
            teacher_optimizer: That of a joint teacher; by default one like the student's. `LearningRateScheduler` and
                `ReduceLROnPlateau` set the learning rate of both, each from its own; with mixed_float16, where Keras
                scales the loss, they see the student's alone.
            **kwargs: As for `ScheduledModel`.

        Raises:
            ValueError: As for `ScheduledModel`; if a frozen teacher is given an optimizer, or a joint one that of the
                student; or if `loss` is to serve a student and a teacher that do not end in the same.
        """
        self._freeze_teacher()
        if self.joint:
            student = keras.optimizers.get(optimizer)
            teacher = like(student) if teacher_optimizer is None else keras.optimizers.get(teacher_optimizer)
            optimizer = OptimizerPair(student, teacher, self.teacher.variables)
        elif teacher_optimizer is not None:
            raise ValueError(
                "Expected no `teacher_optimizer` for a frozen teacher. Received: "
                f"teacher_optimizer={teacher_optimizer!r}."
            )
        if loss is not None and not self.pairing.alike and (self.tails or self.joint):
            endings = [self.pairing.ending(key) for key in (STUDENT, TEACHER)]
            raise ValueError(
                "Expected student and teacher to return the same, logits or probabilities, for one `loss` to fit both. "
                f"Received: loss={loss} for a student that ends in {endings[0]} and a teacher that ends in "
                f"{endings[1]}. Leave `loss` out."
            )
        super().compile(optimizer, loss, *args, **kwargs)

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
        return self.pairing.student.route(metrics)

    def check_callbacks(self, callbacks):
        """Where the student is adjoined, refuses those that look for a metric without saying of which network."""
        if self.adjoined:
            check_monitors(callbacks, self.student.all_output_keys(), self.metrics_given())

    # === fit ===

    def check_batch_size(self, size):
        """Refuses one image a step if a method compares images."""
        self.comparisons.check_batch(size)

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """As for `ScheduledModel`; a `ValueError` too if a step has one image and a method compares images."""
        if self.comparisons.relational:
            batch, x = (None, x) if y is not None else with_first(x)
            if y is not None:
                self.check_batch_size(min(batch_size or 32, len(keras.tree.flatten(x)[0])))
            elif batch is not None:  # other data show their batches to Keras only
                self.check_batch_size(len(keras.tree.flatten(batch)[0]))
        return super().fit(x, y, batch_size, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        """As for `ScheduledModel`; a `ValueError` too if there is one image and a method compares images."""
        self.check_batch_size(len(keras.tree.flatten(x)[0]))
        return super().train_on_batch(x, *args, **kwargs)

    # === Steps ===

    def call(self, inputs, training=None):
        """The student's output; in training with what the loss needs besides."""
        if not training:
            return self.deployed(inputs)
        student = self._networks.student(inputs, training=True)
        # The teacher's own pass comes first, so that the tails see its statistics as they are after it.
        found = {TEACHER: self.teacher_pass(inputs)} if self._needs_teacher() else {}
        paths = {STUDENT: student, **self._tail_passes(student)}
        taps = {path: outputs[TAPS] for path, outputs in paths.items() if TAPS in outputs}
        return {**{path: outputs[OUTPUT] for path, outputs in paths.items()}, **found, **({TAPS: taps} if taps else {})}

    def _tail_passes(self, student: dict) -> dict:
        """What each tail makes of the student's features."""
        return {} if self.tails is None else self.tails(student[BOUNDARIES], self.joint)

    def deployed(self, inputs):
        """What the student returns when it is not trained."""
        output = self.student(inputs, training=False)
        return output if self.adjoined else self.pairing.named(STUDENT, output)

    def teacher_pass(self, inputs) -> dict:
        """The teacher's outputs for the images; a joint one is in training."""
        return self._networks.teacher(inputs, training=self.joint)

    def _needs_teacher(self) -> bool:
        return self.joint or bool(self.comparisons.methods[STUDENT])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss described above, plus the layers' own losses. In evaluation the student's on the labels alone."""
        if isinstance(y_pred, dict) and STUDENT in y_pred:
            loss = self.training_loss(y, y_pred, sample_weight)
        else:
            loss = self.pairing.student.loss(y, self._main(y_pred), sample_weight)
        if training:
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def training_loss(self, y, outputs, sample_weight=None):
        """The loss of what `call` returns in training: the student's, and a joint teacher's own on the labels."""
        loss = self.student_loss(self.path_losses(y, outputs, sample_weight))
        if not self.joint:
            return loss
        own = self.pairing.flat(outputs[TEACHER][OUTPUT])
        return loss + self.pairing.teacher.loss(y, own, sample_weight)

    def student_loss(self, losses: dict):
        """The loss of all paths; here there is the student's own."""
        return losses[STUDENT]

    def path_losses(self, y, outputs, sample_weight=None) -> dict:
        """The loss of each path, as yet without a weight.

        Args:
            y: Labels.
            outputs: What `call` returns in training.
            sample_weight: `(batch,)` weights, or `None`.

        Returns:
            Dict of scalars by the names of `paths()`.
        """
        weight = self.comparisons.label_weight(self.label_weight, self.step, self.total_steps)
        loss = weight * self.pairing.student.loss(y, self._main(outputs[STUDENT]), sample_weight)
        if self.adjoined:
            progress = self.step, self.total_steps
            loss = loss + self.student.small_losses(y, outputs[STUDENT], sample_weight, *progress)
        return {STUDENT: loss + self._method_losses(STUDENT, y, outputs, sample_weight)}

    def _main(self, output) -> list:
        """The outputs of the student, the full network's of an adjoined one."""
        return self.student.outputs_of("full", output) if self.adjoined else self.pairing.flat(output)

    def _method_losses(self, path: str, y, outputs, sample_weight):
        """What the methods of a path add to its loss."""
        if not self.comparisons.methods[path]:
            return 0.0
        own = self._main(outputs[path]) if path == STUDENT else self.pairing.flat(outputs[path])
        student = {OUTPUT: own, TAPS: outputs.get(TAPS, {}).get(path, ())}
        teacher = {**outputs[TEACHER], OUTPUT: self.pairing.flat(outputs[TEACHER][OUTPUT])}
        arguments = path, student, teacher, y, sample_weight, self.step, self.total_steps
        return self.comparisons.loss(self.pairing.student, *arguments)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the student alone."""
        output = y_pred[STUDENT] if isinstance(y_pred, dict) and STUDENT in y_pred else y_pred
        if self.adjoined:
            y, sample_weight = self.student.for_all(y), self.student.for_all(sample_weight, "sample_weight")
        else:
            y, output, sample_weight = self.pairing.student.for_metrics(y, output, sample_weight)
        return super().compute_metrics(x, y, output, sample_weight)

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
            "student": serialized(self.student),
            "teacher": serialized(self.teacher),
            "methods": [keras.saving.serialize_keras_object(method) for method in self.methods],
            "teacher_mode": self.teacher_mode,
            "label_weight": self.label_weight,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights; also from what an earlier version has saved."""

        def made(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        earlier = {name: config[name] for name in EARLIER if name in config}
        if earlier:
            earlier["divergence"] = deserialize_divergence(earlier.get("divergence"), custom_objects)
            methods = methods_of(earlier, cls.alpha_before)
        else:
            methods = [made(method) for method in config["methods"]]
        own = {name: value for name, value in config.items() if name not in EARLIER}
        return cls(**{**own, STUDENT: made(config[STUDENT]), TEACHER: made(config[TEACHER]), "methods": methods})
