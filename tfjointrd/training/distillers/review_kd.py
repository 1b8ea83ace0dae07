"""Distilling Knowledge via Knowledge Review (Chen et al. 2021): stages of the teacher teach later ones too."""

from __future__ import annotations

from itertools import pairwise

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.training.distillers.adapters import averaged, check_maps
from tfjointrd.training.distillers.distiller import LayerDistiller, cast
from tfjointrd.training.distillers.measures import mean_of_each, pooling_matrix
from tfjointrd.training.distillers.taps import stage_ends
from tfjointrd.training.schedules import WARM_UP


@keras.saving.register_keras_serializable(package="tfjointrd")
class ReviewKD(LayerDistiller):
    """The distance between the stages of teacher and student, each stage of the student fused with its deeper stages.

    From the last stage to the first, attention based fusion (ABF) joins a stage's map with the enlarged result of the
    deeper stages, by two learned weights at each position. A convolution then maps it to the teacher's channels. The
    distance (HCL) is the mean squared difference at the map's own resolution and of its means over 4x4, 2x2 and 1x1
    windows, with weights 1, 1/2, 1/4 and 1/8 over their sum. The mean of the last map is a stage of its own.

    Args:
        layers: Names of layers, or pairs `(student_name, teacher_name)`, in network order. By default the ends of the
            stages.
        channels: Channels that stages are joined in; by default those of the student's last stage, 512 at most.
        weight: A number or a `tfjointrd.training.Schedule`. By default it rises to 1 over the first 20 of 240 epochs.
            On CIFAR-100 the authors' weight is 0.6 for ResNet-56 and ResNet-20, 1 for ResNet-110 and ResNet-32, and 5
            or 8 for the other pairs.
        name: The layer's name.

    Raises:
        ValueError: If a layer does not exist or returns no map, resolutions of a pair differ, or that of a stage is no
            multiple of the next one's.

    Example:

    >>> review = tfjointrd.distillers.ReviewKD()

    Reference:
        Distilling Knowledge via Knowledge Review (https://arxiv.org/abs/2104.09044), sections 3.2 and 3.3; channels and
        warm-up are those of the authors' code (https://github.com/dvlab-research/ReviewKD, CIFAR-100/script/reviewKD.sh
        for the weights), as mdistiller has them.
    """

    def __init__(self, layers=None, channels=None, weight=WARM_UP, name=None):
        super().__init__(layers, weight, name)
        if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
            raise ValueError(f"Expected `channels` to be a whole number from 1 on. Received: channels={channels!r}.")
        self.channels = channels

    def find(self, student, teacher):
        """The ends of the stages."""
        return stage_ends(student, teacher)

    def build(self, student_shape, teacher_shape):
        """Makes what joins the stages."""
        check_maps([*student_shape, *teacher_shape], "ReviewKD")
        sizes = [shape[1:3] for shape in student_shape]
        if sizes != [shape[1:3] for shape in teacher_shape]:
            raise ValueError(
                "Expected maps of the same height and width in both networks for ReviewKD. Received: "
                f"{student_shape} of the student and {teacher_shape} of the teacher."
            )
        if any(large % small for pair in pairwise(sizes) for large, small in zip(*pair, strict=True)):
            raise ValueError(
                "Expected stages whose height and width are whole multiples of the next one's for ReviewKD. Received: "
                f"{sizes}."
            )
        self._sizes = [*sizes, (1, 1)]
        mid = self.channels or min(512, student_shape[-1][-1])
        widths = [shape[-1] for shape in teacher_shape]
        self.inner = [_convolution(mid, 1, f"{self.name}_inner{i}") for i in range(len(self._sizes))]
        self.outer = [_convolution(width, 3, f"{self.name}_outer{i}") for i, width in enumerate([*widths, widths[-1]])]
        self.attentions = [keras.layers.Conv2D(2, 1, activation="sigmoid") for _ in sizes]
        channels = [shape[-1] for shape in student_shape]
        for layer, width in zip(self.inner, [*channels, channels[-1]], strict=True):
            layer.build((None, None, None, width))
        for layer, width in [*((layer, mid) for layer in self.outer), *((a, 2 * mid) for a in self.attentions)]:
            layer.build((None, None, None, width))

    def call(self, student, teacher):
        """The sum over the stages, `(batch,)`."""
        maps = [*student, ops.mean(student[-1], axis=(1, 2), keepdims=True)]
        targets = [*teacher, ops.mean(teacher[-1], axis=(1, 2), keepdims=True)]
        total, deeper = 0.0, None
        for i in reversed(range(len(maps))):
            joined = self.inner[i](maps[i], training=True)
            if deeper is not None:
                for axis in (0, 1):
                    deeper = ops.repeat(deeper, self._sizes[i][axis] // self._sizes[i + 1][axis], axis=axis + 1)
                scores = self.attentions[i](ops.concatenate([joined, deeper], axis=-1))
                joined = joined * scores[..., :1] + deeper * scores[..., 1:]
            deeper = joined
            total = total + hcl(cast(self.outer[i](joined, training=True)), cast(targets[i]))
        return total

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "channels": self.channels}


def _convolution(filters: int, size: int, name: str) -> keras.Sequential:
    initializer = keras.initializers.HeUniform()
    layers = [
        keras.layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer=initializer),
        FusedBatchNormalization(momentum=0.9, epsilon=1e-5),
    ]
    return keras.Sequential(layers, name=name)


def hcl(features, target):
    """The hierarchical distance of two maps, `(batch,)`.

    Args:
        features: The student's, `(batch, height, width, channels)`.
        target: The teacher's, of the same shape.
    """
    difference = even = features - target
    total, weight, weights = mean_of_each(ops.square(difference)), 1.0, 1.0
    height, width = target.shape[1:3]
    for size in (4, 2, 1):
        if size >= min(height, width):
            continue
        weight = weight / 2
        if height % size or width % size:
            rows, columns = (ops.convert_to_tensor(pooling_matrix(n, size), target.dtype) for n in (height, width))
            means = ops.einsum("rh,bhwc,sw->brsc", rows, difference, columns)
        else:  # windows that share no pixels: those of before, averaged again
            means = even = averaged(even, (even.shape[1] // size, even.shape[2] // size))
        total, weights = total + weight * mean_of_each(ops.square(means)), weights + weight
    return total / weights
