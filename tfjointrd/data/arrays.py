"""Data sets that fit into memory, on every backend and without TensorFlow."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tfjointrd.data.information import DatasetInfo
from tfjointrd.data.pipeline import Pipeline

# x_train, y_train, x_validation, y_validation
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def channel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images `(size, height, width, channels)`; 1 where all is alike."""
    mean = x.mean(axis=(0, 1, 2), dtype="float64")
    square = np.mean([np.square(image, dtype="float64").mean(axis=(0, 1)) for image in x], axis=0)
    variance = square - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(np.where(variance > 1e-6, variance, 1.0)).tolist())


def fingerprint(arrays: Arrays, digests: Sequence[Sequence[bytes]] | None = None) -> str:
    """A number that tells sets of images and labels apart, whatever order the images are in.

    Args:
        arrays: Images and labels for training and for validation.
        digests: Those of both parts, where they are known.

    Returns:
        32 hexadecimal digits: the SHA-256 of the sorted SHA-256 of each image with its label, of both parts.
    """
    x_train, y_train, x_validation, y_validation = arrays
    parts = (x_train, y_train), (x_validation, y_validation)
    total = hashlib.sha256()
    for (images, _), found in zip(parts, digests or [digests_of(*part) for part in parts], strict=True):
        total.update(f"{len(images)} {images.shape[1:]} {images.dtype.name}".encode())
        total.update(b"".join(sorted(found)))
    return total.hexdigest()[:32]


def digests_of(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """The SHA-256 of each image with its label."""
    labels = np.asarray(labels, "<i8")
    return [
        hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in zip(images, labels, strict=True)
    ]


def check_divides(info: DatasetInfo, image_size: int) -> None:
    """Checks that the images of a set in memory can be averaged down to a size.

    Raises:
        ValueError: If `image_size` does not divide their own size.
    """
    height, width, _ = info.input_shape
    if height != width or height % image_size:
        raise ValueError(
            f"Expected `image_size` to divide the size of the images of {info.name}, {height}x{width}. "
            f"Received: image_size={image_size}"
        )


def averaged(images: np.ndarray, size: int) -> np.ndarray:
    """Makes square images smaller: each pixel is the mean of a square of pixels.

    Args:
        images: Array `(count, side, side, channels)`.
        size: The new side, which divides the old one.

    Returns:
        Array `(count, size, size, channels)` of the same dtype; means of integers are rounded, halves to even.
    """
    count, side, _, channels = images.shape
    if side == size:
        return images
    part = side // size
    squares = images.reshape(count, size, part, size, part, channels)
    means = squares.mean(axis=(2, 4), dtype="float32")
    return (means.round() if images.dtype.kind in "iu" else means).astype(images.dtype)


class Crops(NamedTuple):
    """Where images are cropped, and which of them are mirrored; each of shape `(count,)`.

    Attributes:
        rows: First row of each crop in the padded image.
        columns: First column of each crop in the padded image.
        mirrored: Whether the crop is mirrored, left to right.
    """

    rows: np.ndarray
    columns: np.ndarray
    mirrored: np.ndarray


class EpochPlan(NamedTuple):
    """Everything that is random about an epoch, in the order of its images; each of shape `(size,)`.

    Attributes:
        order: Indices of the images.
        crops: Where they are cropped and whether they are mirrored.
    """

    order: np.ndarray
    crops: Crops


def draw_crops(count: int, padding: int, flip: bool, generator: np.random.Generator) -> Crops:
    """Draws where to crop images that were padded by `padding` on each side, and which half of them to mirror.

    Args:
        count: Number of images.
        padding: Number of pixels on each side; 0 leaves images where they are.
        flip: Whether images are mirrored with probability 0.5.
        generator: Source of randomness.
    """
    rows, columns = generator.integers(0, 2 * padding + 1, size=(2, count))
    mirrored = generator.random(count) < 0.5 if flip else np.zeros(count, bool)
    return Crops(rows, columns, mirrored)


def crop(images: np.ndarray, padding: int, crops: Crops) -> np.ndarray:
    """Pads images with zeros, crops them back to the old size and mirrors some.

    Args:
        images: Array `(batch, height, width, channels)`.
        padding: Number of zero pixels on each side.
        crops: Where to crop and what to mirror; see `draw_crops`.

    Returns:
        Array of the same shape and dtype.

    Reference:
        He et al., Deep Residual Learning for Image Recognition (2016), section 4.2.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = sliding_window_view(padded, (height, width, channels), axis=(1, 2, 3))[:, :, :, 0]
    cropped = windows[np.arange(count), crops.rows, crops.columns]
    cropped[crops.mirrored] = cropped[crops.mirrored, :, ::-1]
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
        digests: The SHA-256 of each image with its label, where they are known already.

    Attributes:
        x: The images, unaugmented and in the set's own order, for representative sets and quick checks.
        y: Their labels.

    Example:

    >>> train, validation = tfjointrd.data.load("digits", batch_size=32)
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
        digests: Sequence[bytes] | None = None,
    ):
        super().__init__(info, len(x), batch_size, training=training, seed=seed)
        self.x = x
        self.y = y.astype("int32")
        self.padding = padding
        self.flip = flip
        self._digests = digests

    @property
    def augmented(self) -> bool:
        """Whether images are cropped or mirrored."""
        return bool(self.padding or self.flip)

    def batch(self, position: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch, by default the next one. See `Pipeline.batch`."""
        epoch = self.epoch if epoch is None else epoch
        start = position * self.batch_size
        chosen = self.order(epoch)[start : start + self.batch_size]
        images = self.x[chosen]
        if self.augmented:
            images = crop(images, self.padding, self._crops(position, epoch, len(chosen)))
        return images.astype("float32"), self.y[chosen]

    def known_labels(self) -> np.ndarray:
        """Those of the arrays."""
        return self.y

    def content(self, row: int) -> bytes:
        """The digest of an image with its label."""
        if self._digests is None:
            self._digests = digests_of(self.x, self.y)
        return self._digests[row]

    def in_order(self) -> str:
        """A fingerprint of the images and labels in their order, on which the batches of each epoch depend."""
        total = hashlib.sha256(np.ascontiguousarray(self.x).data)
        total.update(self.y.tobytes())
        return total.hexdigest()[:32]

    def unaugmented(self, shuffled: bool = False) -> "ArrayPipeline":
        """The same images, neither cropped nor mirrored. See `Pipeline.unaugmented`."""
        plain = super().unaugmented(shuffled)
        plain.padding, plain.flip = 0, False
        return plain

    def plan(self, epoch: int | None = None) -> EpochPlan:
        """Order, crops and mirroring of a whole epoch, for those who make its batches themselves.

        The batches of `batch` are the same images in the same order under the same crops, so that a device which
        holds the images needs a few bytes an image and epoch.

        Args:
            epoch: The epoch. Defaults to the one that comes next.

        Returns:
            An `EpochPlan` of int32 and boolean arrays `(size,)`. Without augmentation crops start at 0.

        Example:

        >>> plan = train.plan(epoch=3)
        >>> images, _ = train.batch(position=0, epoch=3)
        >>> first = Crops(*(part[:32] for part in plan.crops))
        >>> np.array_equal(crop(train.x[plan.order[:32]], train.padding, first), images)
        True
        """
        epoch = self.epoch if epoch is None else epoch
        order = self.order(epoch).astype("int32")
        if not self.augmented:
            corners = np.zeros((2, self.size), "int32")
            return EpochPlan(order, Crops(corners[0], corners[1], np.zeros(self.size, bool)))
        starts = range(0, self.size, self.batch_size)
        counts = [min(self.batch_size, self.size - start) for start in starts]
        batches = [self._crops(position, epoch, count) for position, count in enumerate(counts)]
        rows, columns, mirrored = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return EpochPlan(order, Crops(rows.astype("int32"), columns.astype("int32"), mirrored))

    def _crops(self, position: int, epoch: int, count: int) -> Crops:
        return draw_crops(count, self.padding, self.flip, self.generator(position, epoch))
