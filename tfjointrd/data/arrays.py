"""Data sets that fit into memory, on every backend and without TensorFlow."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tfjointrd.data.information import DatasetInfo
from tfjointrd.data.pipeline import Pipeline

# x_train, y_train, x_validation, y_validation
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def channel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images `(size, height, width, channels)`."""
    mean = x.mean(axis=(0, 1, 2), dtype="float64")
    square = np.mean([np.square(image, dtype="float64").mean(axis=(0, 1)) for image in x], axis=0)
    return tuple(mean.tolist()), tuple(np.sqrt(square - mean**2).tolist())


def random_crop(images: np.ndarray, padding: int, flip: bool, generator: np.random.Generator) -> np.ndarray:
    """Pad with zeros, crop back to the old size at a random place, flip half of the images.

    Args:
        images: Array `(batch, height, width, channels)`.
        padding: Number of zero pixels on each side.
        flip: Whether images are mirrored with probability 0.5, left to right.
        generator: Source of randomness.

    Returns:
        Array of the same shape and dtype.

    Reference:
        He et al., Deep Residual Learning for Image Recognition (2016), section 4.2.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(padded, (height, width, channels), axis=(1, 2, 3))[:, :, :, 0]
    rows, columns = generator.integers(0, 2 * padding + 1, size=(2, count))
    cropped = windows[np.arange(count), rows, columns]
    if flip:
        mirrored = generator.random(count) < 0.5
        cropped[mirrored] = cropped[mirrored, :, ::-1]
    return cropped


class ArrayPipeline(Pipeline):
    """Batches from arrays in memory. See `Pipeline` for what a batch is and how epochs work.

    Args:
        x: Images `(size, height, width, channels)`, pixels from 0 to 255 of any dtype.
        y: Integer labels `(size,)`.
        info: The `DatasetInfo` of the set.
        batch_size: Number of images in a batch.
        training: Whether to shuffle anew for each epoch.
        padding: Padding of the random crop in pixels; 0 turns it off.
        flip: Whether to mirror images at random.
        seed: Seed of order and augmentation.

    Attributes:
        x: The images, unaugmented and in the set's own order, for representative sets and quick checks.
        y: Their labels.

    Example:

    >>> train, validation = load("digits", batch_size=32)
    >>> images, labels = train.batch(position=0, epoch=3)
    >>> images.shape, labels.shape
    ((32, 8, 8, 1), (32,))
    >>> train.x.shape
    (1437, 8, 8, 1)
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        info: DatasetInfo,
        batch_size: int,
        *,
        training: bool,
        padding: int = 0,
        flip: bool = False,
        seed: int = 0,
    ):
        super().__init__(info, len(x), batch_size, training=training, seed=seed)
        self.x = x
        self.y = y.astype("int32")
        self.padding = padding
        self.flip = flip

    def batch(self, position: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch, by default the next one. See `Pipeline.batch`."""
        epoch = self.epoch if epoch is None else epoch
        start = position * self.batch_size
        chosen = self.order(epoch)[start : start + self.batch_size]
        images = self.x[chosen]
        if self.padding or self.flip:
            images = random_crop(images, self.padding, self.flip, self.generator(position, epoch))
        return images.astype("float32"), self.y[chosen]
