"""The teacher's remaining stages behind each boundary, through which the features of a JointRD student go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from tfjointrd.surgery.graph import Graph, Ref
from tfjointrd.training.methods import routing
from tfjointrd.training.methods.layer_outputs import LayerOutputs


class Tails:
    """The tails of a teacher: where they begin, and the teacher in segments from one boundary to the next.

    Args:
        boundaries: As for `JointRD`.
        student: The student's graph.
        teacher: The teacher's.
        taken: Names that no boundary may have.

    Attributes:
        boundaries: Pairs of layer names (of student, of teacher).
        connectors: A learned 1x1 convolution for each boundary at which the shapes differ, by the student's layer.
        segments: The teacher from one boundary to the next, and from the last one to its end.

    Raises:
        ValueError: See `JointRD`.
    """

    def __init__(self, boundaries: routing.Boundaries | None, student: Graph, teacher: Graph, taken: set[str]):
        self.boundaries = routing.resolve(boundaries, student, teacher)
        both = taken & {name for name, _ in self.boundaries}
        if both:
            raise ValueError(
                f"Expected `boundaries` whose layers have other names than the model's own outputs. Received: {both}."
            )
        self.connectors = routing.connectors(self.boundaries, student, teacher)
        self._teacher = teacher

    @property
    def names(self) -> list[str]:
        """The tails' names: the student's layers that they begin at."""
        return [name for name, _ in self.boundaries]

    @property
    def ends(self) -> list[Ref]:
        """The student's features."""
        return [Ref(name) for name in self.names]

    @property
    def starts(self) -> list[Ref]:
        """The teacher's tensors that the student's features take the place of."""
        return [Ref(name) for _, name in self.boundaries]

    def connect(self, taps: LayerOutputs, part: Callable, refs: Sequence[Ref]) -> None:
        """Cuts the teacher.

        Args:
            taps: The teacher's tensors.
            part: The teacher from a tensor on, as a function of that and of the tensors within it that are wanted.
            refs: The tensors within it that the tails are compared by.

        Raises:
            ValueError: If one of these does not lie behind all boundaries.
        """
        for ref in refs:
            routing.check_ahead_of(ref, self.boundaries, self._teacher)
        starts = [taps(ref) for ref in self.starts]
        between = [keras.Model(start, {"tail": stop}) for start, stop in zip(starts[:-1], starts[1:], strict=True)]
        self.segments = [*between, part(starts[-1], refs)]

    def __call__(self, features: Sequence, joint: bool) -> dict[str, dict]:
        """What the teacher makes of each feature, by the tails' names.

        Tails are nested: what follows a boundary follows all earlier ones. Features therefore join one growing batch,
        which is exact because the teacher's batch normalisation uses its running statistics.

        Args:
            features: The student's features at the boundaries.
            joint: Whether the teacher is trained too, to which no gradient may pass here.
        """
        features = [
            self.connectors[name](feature, training=True) if name in self.connectors else feature
            for name, feature in zip(self.names, features, strict=True)
        ]
        outputs = {"tail": features[0]}
        for feature, segment in zip([None, *features[1:]], self.segments, strict=True):
            batch = outputs["tail"] if feature is None else ops.concatenate([outputs["tail"], feature], axis=0)
            outputs = through(segment, batch, joint)
        parts = [ops.split(value, len(features), axis=0) for value in keras.tree.flatten(outputs)]
        return {
            name: keras.tree.pack_sequence_as(outputs, [part[i] for part in parts]) for i, name in enumerate(self.names)
        }


def through(segment: keras.Model, batch, joint: bool):
    """A part of the teacher, in inference, and without gradients for its weights.

    Args:
        segment: The part.
        batch: What goes through it.
        joint: Whether the teacher is trained too.
    """
    if not joint:
        return segment(batch, training=False)
    # The statistics too: on JAX they are functions of the teacher's weights, through its own pass just before.
    weights, statistics = (
        [ops.stop_gradient(variable.value) for variable in variables]
        for variables in (segment.trainable_variables, segment.non_trainable_variables)
    )
    return segment.stateless_call(weights, statistics, batch, training=False)[0]
