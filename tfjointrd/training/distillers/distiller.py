"""What a way of distilling is: the tensors that it looks at, the layers that it trains, and its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import keras
from keras import ops

from tfjointrd.surgery.graph import Graph, Ref
from tfjointrd.surgery.tasks import Task
from tfjointrd.training import schedules
from tfjointrd.training.distillers import taps
from tfjointrd.training.objective import as_logits
from tfjointrd.training.precision import loss_dtype


class Distiller(keras.layers.Layer):
    """Base class of the methods that `tfjointrd.Distillation` and `tfjointrd.JointRD` train a student by.

    A method is one subclass. It defines `taps`, the tensors that it wants of both networks, and `call`, the loss of
    each image; and, if it trains layers of its own, `build`, which makes them. They are trained with the student and
    not deployed. Everything else (both networks' passes, the loss on the labels, `sample_weight`, several devices,
    files) is the training's. A subclass that is registered with `keras.saving.register_keras_serializable` and has
    a `get_config` is saved with the training.

    Args:
        weight: How much the loss counts: a number or a `tfjointrd.training.Schedule`.
        name: The layer's name.

    Attributes:
        path: Where the student's tensors come from: `"student"`, or in a copy for one of `JointRD`'s tails the name of
            its boundary.
        relational: Whether images of a batch are compared with each other, so that it needs two. On several devices
            these are those of a device's part of the batch.
        on_tails: Whether `JointRD` compares the ends of the teacher's tails too.
        takes_from_labels: Whether the weight is a share: the loss on the labels has the rest, if not told otherwise.

    Call arguments:
        student: The student's tensors, in the order of `taps`.
        teacher: The teacher's; no gradient passes.
        labels: If `call` takes them: a list of the labels of each output.
        progress: If `call` takes it: which part of the training is done, a scalar from 0 to 1.

    Returns:
        A loss for each image, `(batch,)`.

    Raises:
        ValueError: If `weight` falls below 0.

    Example:

    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class Closer(tfjointrd.distillers.Distiller):
    ...     def taps(self, student, teacher):
    ...         return tfjointrd.distillers.by_name("head_pool", student, teacher)
    ...     def call(self, student, teacher):
    ...         return keras.ops.mean(keras.ops.square(student[0] - teacher[0]), axis=-1)
    >>> distilled = tfjointrd.Distillation(
    ...     tfjointrd.remove_shortcuts(network), network, methods=[tfjointrd.distillers.KD(), Closer(weight=10.0)]
    ... )
    """

    relational = False
    on_tails = False
    takes_from_labels = False
    path = "student"

    def __init__(self, weight: schedules.Schedule | float = 1.0, name: str | None = None):
        super().__init__(name=name, dtype=loss_dtype(), autocast=False)  # losses are not computed in half precision
        self.weight = schedules.not_negative(weight, "weight") if isinstance(weight, dict) else weight
        self._weight = schedules.not_negative(weight, "weight")
        self._accepted = frozenset(inspect.signature(self.call).parameters) & {"labels", "progress"}

    def taps(self, student: Graph, teacher: Graph) -> tuple[Sequence[Ref], Sequence[Ref]]:
        """The tensors that are wanted of student and teacher; see `tfjointrd.distillers.by_name` and its like.

        Args:
            student: The student's graph.
            teacher: The teacher's.

        Raises:
            ValueError: If a network does not have them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `taps(student, teacher)`.")

    def attach(self, outputs, teacher_layer: Callable[[str], keras.Layer]) -> None:
        """Called once, ahead of `build`, with what the training knows of the networks.

        Args:
            outputs: The `PairedOutputs` of the networks.
            teacher_layer: The teacher's layer of a name, as it is trained.
        """

    def build(self, student_shape: Sequence[tuple], teacher_shape: Sequence[tuple]) -> None:
        """Makes the layers that are trained with the student.

        Args:
            student_shape: Shapes of the student's tensors, batch axis first.
            teacher_shape: Those of the teacher's.

        Raises:
            ValueError: If they do not fit.
        """

    def loss_weight(self, step, total_steps):
        """The weight at a step, a scalar."""
        return self._weight(step, total_steps)

    @property
    def constant(self) -> bool:
        """Whether the weight is the same throughout."""
        return self._weight.constant

    @property
    def timed(self) -> bool:
        """Whether the loss looks at how far the training is."""
        return "progress" in self._accepted

    def losses_of(self, student, teacher, labels, progress):
        """The loss of each image, or a list of those of each output."""
        given = {"labels": labels, "progress": progress}
        return self(student, teacher, **{name: given[name] for name in self._accepted})

    def for_path(self, path: str) -> Distiller:
        """A new one of the same settings for one of `JointRD`'s tails."""
        again = type(self).from_config({**self.get_config(), "name": f"{self.name}_{path}"})
        again.path = path
        return again

    def get_build_config(self):
        """Nothing: the training builds it."""
        return None

    def get_config(self):
        """The configuration from which the layer can be made again."""
        given = isinstance(self.weight, schedules.Schedule)
        return {"name": self.name, "weight": keras.saving.serialize_keras_object(self.weight) if given else self.weight}


class LayerDistiller(Distiller):
    """Base class of the methods that compare layers: those that `find` finds, or those that `layers` names.

    Args:
        layers: Names of layers, or pairs `(student_name, teacher_name)`; one or a list of several. Found by default.
        weight: As for `Distiller`.
        name: The layer's name.
    """

    def __init__(self, layers: taps.Layers = None, weight: schedules.Schedule | float = 1.0, name: str | None = None):
        super().__init__(weight, name)
        self.layers = layers

    def find(self, student: Graph, teacher: Graph) -> tuple[Sequence[Ref], Sequence[Ref]]:
        """The tensors that are compared where `layers` does not say."""
        raise NotImplementedError(f"{type(self).__name__} does not define `find(student, teacher)`.")

    def taps(self, student, teacher):
        """The outputs of the layers."""
        if self.layers is None:
            return self.find(student, teacher)
        return taps.by_name(self.layers, student, teacher)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "layers": self.layers}


class OutputDistiller(Distiller):
    """Base class of the methods that compare the networks' outputs, of which there may be several.

    Subclasses define `compare(student, teacher, kind, ...)`. The losses of the outputs are added as those on the labels
    are.
    """

    def taps(self, student, teacher):
        """No tensor within the networks."""
        return [], []

    def attach(self, outputs, teacher_layer):
        """Notes what the outputs are for."""
        self._outputs = SimpleNamespace(pairs=outputs)

    @property
    def tasks(self) -> list[Task]:
        """What the student's outputs are for, as far as loss and labels have told."""
        return self._outputs.pairs.student.tasks

    def logits(self, i: int, student, teacher, kind: str) -> tuple:
        """The logits of output `i` of both networks."""
        endings = self.tasks[i].ending, self._outputs.pairs.endings["teacher"][i]
        return tuple(
            as_logits(output, kind, ending) for output, ending in zip((student, teacher), endings, strict=True)
        )


def cast(tensor):
    """A tensor in the precision that losses are computed in."""
    return ops.cast(tensor, loss_dtype())
