"""The part of each batch that one process gets where several train together."""

import math

import numpy as np

from tfjointrd.data.pipeline import Pipeline


class Share(Pipeline):
    """What one process serves of a pipeline: its rows of every batch, in the pipeline's own order.

    Batches that do not divide among the devices are repeated until they do, each image equally often, which
    changes neither the mean of the loss nor the statistics of batch normalisation, and hence no weight. In training
    that can only be an epoch's last batch, whose images then count more in the metrics of training. In validation every
    batch is repeated alike, so that the metrics stay exact; a size that divides among the devices is faster.

    Args:
        pipeline: The pipeline of whole batches.
        index: Number of this process, from 0.
        count: Number of processes.
        devices: Number of devices of all processes together.
        drop_last: Whether an epoch ends before its incomplete batch.

    Raises:
        ValueError: If the batch size does not divide among the devices, or `drop_last` leaves no batch.

    Example:

    >>> train, _ = tfjointrd.data.load("digits", batch_size=32)
    >>> images, labels = Share(train, index=0, count=2, devices=2)[0]
    >>> labels.shape
    (16,)
    """

    def __init__(self, pipeline: Pipeline, index: int, count: int, devices: int, drop_last: bool = False):
        if not isinstance(pipeline, Pipeline):
            raise ValueError(f"Expected a `tfjointrd.data.Pipeline`. Received: pipeline={pipeline!r}")
        if pipeline.batch_size % devices:
            raise ValueError(
                f"Expected a batch size that divides among {devices} devices. "
                f"Received: batch_size={pipeline.batch_size}"
            )
        size = pipeline.size // pipeline.batch_size * pipeline.batch_size if drop_last else pipeline.size
        if not size:
            raise ValueError(
                f"Expected a full batch with `drop_last`. Received: {pipeline.size} images in batches of "
                f"{pipeline.batch_size}"
            )
        super().__init__(pipeline.info, size, pipeline.batch_size, training=pipeline.training, seed=pipeline.seed)
        self.pipeline = pipeline
        self.index = index
        self.count = count
        self.devices = devices
        self.set_epoch(pipeline.epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the images of all processes in the order in which an epoch serves them."""
        return self.pipeline.order(epoch)[: self.size]

    def limit(self, images: int) -> None:
        """Not here: the whole pipeline is to be limited before it is shared."""
        raise ValueError("Expected `limit` to be called on the pipeline before it is shared. Received: a share of one.")

    def hold_out(self, part: float, by_content: bool = False) -> Pipeline:
        """Not here: images are to be taken out of the whole pipeline before it is shared."""
        raise ValueError(
            "Expected `hold_out` to be called on the pipeline before it is shared. Received: a share of one."
        )

    def unaugmented(self, shuffled: bool = False) -> Pipeline:
        """Not here: the whole pipeline is to be taken as it is before it is shared."""
        raise ValueError(
            "Expected `unaugmented` to be called on the pipeline before it is shared. Received: a share of one."
        )

    def batch(self, position: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The rows of this process in one batch of an epoch, by default the next one. See `Pipeline.batch`."""
        images, labels = self.pipeline.batch(position, self.epoch if epoch is None else epoch)
        repeats = self._repeats(len(labels) if self.training else self.size % self.batch_size)
        rows = len(labels) * repeats // self.count
        chosen = np.arange(self.index * rows, (self.index + 1) * rows) % len(labels)
        return images[chosen], labels[chosen]

    def _repeats(self, size: int) -> int:
        """How often to serve a batch of `size` images so that it divides among the devices."""
        return self.devices // math.gcd(size, self.devices)
