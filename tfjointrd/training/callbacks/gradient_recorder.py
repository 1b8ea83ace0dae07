"""Whose gradients drive a student, stage by stage."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfjointrd.surgery.graph import Ref
from tfjointrd.training.callbacks.recorder import Recorder
from tfjointrd.training.methods.jointrd import JointRD
from tfjointrd.training.methods.paired_outputs import STUDENT

BACKENDS = ("tensorflow", "jax")


class GradientRecorder(Recorder):
    """Records how strongly a `JointRD` student is pulled by its own loss and by the teacher, and whether they agree.

    Before the first step and after each epoch, gradients of the losses of one batch, which is always the same, are
    taken with respect to the weights of each stage of the student: of the student's own path, and of all of the
    teacher's tails together, times m(t). A path's loss includes the losses of methods such as `Overhaul`, and for the
    own path those of `KD`. Stage k ends at boundary k; the last one, behind the last boundary, gets no gradient from
    the teacher. Connectors belong to no stage.

    The student computes as in training, its batch normalisation with the batch's statistics, but no weight, statistic,
    counter or random state changes: a training with the callback ends with the weights of one without it. Losses of
    layers, such as weight decay by `kernel_regularizer`, and `path_scale` are left out. With mixed_float16, losses are
    not scaled as in the training, so that gradients too small for float16 are zero.

    Args:
        images: Images `(batch, height, width, channels)`.
        labels: Their labels, as the loss takes them: an array, or for several outputs a dict or list of arrays.
        path: A `.csv` file, written anew after each epoch. If it exists, its rows from before the start of the training
            are kept, so that an interrupted training goes on in it. Later rows are dropped.

    Attributes:
        history: A dict for each record and stage: `epoch`, the number of finished epochs; `step`, that of finished
            steps; `stage`, from 1; `own_norm` and `teacher_norm`, Euclidean norms; `cosine` of the angle between the
            two gradients, from -1 to 1, or `None` where a loss has no gradient; and `tail_weight`, m(t) at that step.

    Raises:
        ValueError: If there are no images or not as many labels, the backend is neither TensorFlow nor JAX, the model
            that is trained is not a `JointRD`, or `path` is another file.

    Example:

    >>> recorder = GradientRecorder(*validation.batch(0, epoch=0), path="gradients.csv")
    >>> history = joint.fit(train, epochs=2, callbacks=[recorder], verbose=0)
    >>> cosines = [row["cosine"] for row in recorder.history if row["stage"] == 1]
    """

    columns = {
        "epoch": int,
        "step": int,
        "stage": int,
        "own_norm": float,
        "teacher_norm": float,
        "cosine": float,
        "tail_weight": float,
    }

    def __init__(self, images: np.ndarray, labels: Any, path: str | os.PathLike | None = None):
        super().__init__(path)
        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise ValueError(f"Expected Keras on one of the backends {BACKENDS}. Received: backend='{backend}'.")
        several = isinstance(labels, (Mapping, list, tuple))  # of several outputs
        self.images = np.asarray(images, "float32")
        self.labels = keras.tree.map_structure(np.asarray, labels) if several else np.asarray(labels)
        counts = {len(one) for one in keras.tree.flatten(self.labels)}
        if not len(self.images) or counts != {len(self.images)}:
            raise ValueError(
                f"Expected `images` and as many `labels`. Received: {len(self.images)} images, "
                f"{', '.join(map(str, sorted(counts)))} labels."
            )
        self._gradients: Any = None

    def set_model(self, model):
        """Called by Keras with the model that is trained."""
        super().set_model(model)
        if not isinstance(model, JointRD):
            raise ValueError(f"Expected a `JointRD` to be trained. Received: {model!r} of type {type(model).__name__}.")
        if self._gradients is None or self._gradients.joint is not model:
            self._gradients = _Gradients(model)

    def records(self, epoch: int, step: int) -> list[dict]:
        """Both gradients of each stage, as they are now."""
        weight = float(ops.convert_to_numpy(self.model.tail_weight(self.model.step, self.model.total_steps)))
        found = []
        for stage, (own, teacher, product) in enumerate(self._gradients(self.images, self.labels), 1):
            norms = math.sqrt(own), math.sqrt(teacher)
            cosine = float(np.clip(product / (norms[0] * norms[1]), -1, 1)) if all(norms) else None
            values = (epoch, step, stage, norms[0], weight * norms[1], cosine, weight)
            found.append(dict(zip(self.columns, values, strict=True)))
        return found


def student_stages(joint: JointRD) -> list[list[keras.Variable]]:
    """The student's trainable weights by stage: those ahead of boundary 1, ..., those behind the last boundary.

    Args:
        joint: The model.
    """
    graph = joint.graphs[STUDENT]
    layers = {layer.name: layer for layer in joint.student.network.layers} if joint.adjoined else graph.sources
    ancestors = graph.ancestors()
    ahead = [{ref.layer for ref in ancestors[Ref(name)]} for name, _ in joint.boundaries]
    stages: list[list[keras.Variable]] = [[] for _ in range(len(ahead) + 1)]
    seen: set[int] = set()
    for name in graph.layers:
        stage = next((number for number, names in enumerate(ahead) if name in names), len(ahead))
        # Operators such as that of `x + y` have no weights, and those of an adjoined network are none of its layers.
        for variable in getattr(layers.get(name), "trainable_variables", ()):
            if id(variable) not in seen:
                seen.add(id(variable))
                stages[stage].append(variable)
    return stages


class _Gradients:
    """Inner products of the two gradients of each stage, from one forward and two backward passes.

    Args:
        joint: The model.
    """

    def __init__(self, joint: JointRD):
        self.joint = joint
        self.stages = student_stages(joint)
        self.trained = [variable for stage in self.stages for variable in stage]
        known = {id(variable) for variable in self.trained}
        self.others = [variable for variable in joint.variables if id(variable) not in known]
        self.compute = _tensorflow(self) if keras.backend.backend() == "tensorflow" else _jax(self)

    def __call__(self, images: np.ndarray, labels: Any) -> np.ndarray:
        """Of each stage |g|², |h|² and g·h: g is the gradient of the own path, h that of the tails without m(t).

        Returns:
            Array `(stages, 3)` in float64.
        """
        values = [[variable.value for variable in group] for group in (self.trained, self.others)]
        return np.asarray(self.compute(*values, images, labels), "float64")

    def losses(self, trained: list, others: list, images, labels):
        """The loss of the own path and the sum of the tails', as functions of the values of all variables."""
        mapping = zip([*self.trained, *self.others], [*trained, *others], strict=True)
        with keras.StatelessScope(state_mapping=mapping):  # what the step changes ends with the scope
            losses = self.joint.path_losses(labels, self.joint(images, training=True))
        return losses.pop(STUDENT), sum(losses.values())

    def products(self, own: list, teacher: list):
        """|g|², |h|² and g·h of each stage, `(stages, 3)`."""
        rows, first = [], 0
        for stage in self.stages:
            pairs = list(zip(own[first : first + len(stage)], teacher[first : first + len(stage)], strict=True))
            first += len(stage)
            rows.append([sum(ops.vdot(a[i], a[j]) for a in pairs) for i, j in ((0, 0), (1, 1), (0, 1))])
        return ops.stack([ops.stack([ops.convert_to_tensor(x, "float32") for x in row]) for row in rows])


def _tensorflow(gradients: _Gradients):
    import tensorflow as tf

    @tf.function(autograph=False)
    def compute(trained, others, images, labels):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(trained)
            own, tails = gradients.losses(trained, others, images, labels)
        taken = [tape.gradient(loss, trained, unconnected_gradients="zero") for loss in (own, tails)]
        return gradients.products(*taken)

    def on_values(trained, others, images, labels):
        tensors = [[tf.convert_to_tensor(value) for value in group] for group in (trained, others)]
        return compute(*tensors, tf.constant(images), keras.tree.map_structure(tf.constant, labels))

    return on_values


def _jax(gradients: _Gradients):
    import jax

    @jax.jit
    def compute(trained, others, images, labels):
        losses, backward = jax.vjp(lambda values: gradients.losses(values, others, images, labels), trained)
        one, zero = jax.numpy.ones_like(losses[0]), jax.numpy.zeros_like(losses[0])
        return gradients.products(backward((one, zero))[0], backward((zero, one))[0])

    return compute
