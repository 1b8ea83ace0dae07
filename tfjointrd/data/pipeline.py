"""Batches of images in an order that depends on nothing but the seed and the epoch."""

import abc
import copy
import threading
import warnings
from typing import Any

import keras
import numpy as np

from tfjointrd.data.information import DatasetInfo
from tfjointrd.stacklevel import stacklevel_outside_the_package


class Pipeline(keras.utils.PyDataset, abc.ABC):
    """Batches of raw images and labels for `fit`, `evaluate` and `predict`.

    Batch `position` of epoch `epoch` is a pure function of the seed, the epoch and the position:
    `batch(position, epoch)` returns it at any time. Training that is interrupted and taken up again
    therefore sees what uninterrupted training sees, provided that the pipeline is told where it
    starts: `train.set_epoch(5); model.fit(train, initial_epoch=5, epochs=10)`.

    While `fit` runs an epoch, batches come in the pipeline's own order and not in the one that `fit`
    asks for, because `fit(shuffle=True)`, which is Keras' default, draws that from a global generator
    which a restart does not restore. `epoch` advances at each epoch's end. The epochs counted are
    those that were run on this pipeline, so `model.evaluate(train)` counts as one too.

    A batch is `(images, labels)`: images `(batch, height, width, channels)` in float32, raw pixels
    from 0 to 255; labels `(batch,)` in int32. The last batch of an epoch holds what is left over.

    Args:
        info: The `DatasetInfo` of the set.
        size: Number of images in an epoch.
        batch_size: Number of images in a batch.
        training: Whether the images are shuffled anew for each epoch.
        seed: Seed of order and augmentation, a non-negative integer.

    Attributes:
        info: The `DatasetInfo` of the set.
        epoch: The epoch whose batches come next. See `set_epoch`.
        error: The exception that ended the last attempt to read a batch, or `None`. Keras wraps it in its own.
    """

    def __init__(self, info: DatasetInfo, size: int, batch_size: int, *, training: bool, seed: int = 0):
        # One worker: several would hand over an epoch's batches in an order that depends on their speed.
        super().__init__(workers=1)
        self.info = info
        self.size = size
        self._rows = np.arange(size)  # which images of the set are in it
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.set_epoch(0)
        self._lock = threading.Lock()
        self._fitting: int | None = None  # the thread that runs `fit`, which is not the one that reads batches ahead
        self._ordered: tuple[int | None, Any] = None, None  # the last epoch asked for, and its order
        self.error: Exception | None = None

    def limit(self, images: int) -> None:
        """Ends each epoch after `images` images: the first of a shuffled order, or evenly spaced ones of a fixed order.

        Sets that are streamed in a fixed order end after their first images.

        Args:
            images: Positive integer; one above the number of images changes nothing.
        """
        if not isinstance(images, int | np.integer) or images < 1:
            raise ValueError(f"Expected `images` to be a positive integer. Received: images={images!r}")
        self.size = min(len(self._rows), int(images))

    def hold_out(self, part: float, by_content: bool = False) -> "Pipeline":
        """Takes a part of the images out of this pipeline; which ones depends on the seed alone.

        Args:
            part: Part of the images, above 0 and below 1.
            by_content: Takes the same images for every seed, in whatever order the set was read, as is right for
                validation. In folders the files' names decide.

        Returns:
            A pipeline of these images, with the same batch size and augmentation. Arrays `x` and `y`, where a pipeline
            has them, stay those of the whole set.

        Raises:
            ValueError: If `part` is out of range, or leaves one of the two without an image; or if the set is streamed
                in the order of its files.

        Example:

        >>> train, validation = tfjointrd.data.load("digits")
        >>> held_out = train.hold_out(0.5)
        >>> train.size, held_out.size
        (719, 718)
        """
        count = round(len(self._rows) * part) if 0 < part < 1 else 0
        if not 0 < count < len(self._rows):
            raise ValueError(
                f"Expected `part` above 0 and below 1, and an image in each of the two parts of {len(self._rows)}. "
                f"Received: part={part!r}"
            )
        if by_content:
            order = np.array(sorted(self._rows.tolist(), key=self.content))
        else:
            order = np.random.default_rng([self.seed, 0, 0, 1]).permutation(self._rows)  # a stream that no epoch has
        self._warn_of_missing_classes(order[:count], order[count:])
        held = self.copy()
        for pipeline, rows in ((held, order[:count]), (self, order[count:])):
            pipeline._rows = np.sort(rows)
            pipeline.size = min(pipeline.size, len(rows))
            pipeline._ordered = None, None
            pipeline.set_epoch(pipeline.epoch)
        return held

    def known_labels(self) -> np.ndarray | None:
        """The label of each image of the set, where they are known without reading it."""
        return None

    def _warn_of_missing_classes(self, held: np.ndarray, rest: np.ndarray) -> None:
        labels = self.known_labels()
        if labels is None:
            return
        all_classes = np.unique(labels[self._rows])
        for where, rows in (("the part that is held out", held), ("what is left", rest)):
            missing = np.setdiff1d(all_classes, labels[rows])
            if missing.size:
                names = [self.info.class_names[i] if self.info.class_names else str(i) for i in missing[:3].tolist()]
                warnings.warn(
                    f"{where.capitalize()} has no image of {missing.size} of {all_classes.size} classes: "
                    f"{', '.join(names)}{' ...' if missing.size > 3 else ''}. Accuracies there do not tell how well "
                    "these are learned. Hold out a larger part, or find more images.",
                    stacklevel=stacklevel_outside_the_package(),
                )

    def content(self, row: int) -> bytes:
        """What tells an image of the set from others, whatever their order: 32 bytes."""
        raise NotImplementedError(f"Expected a set whose images can be told apart. Received: {type(self).__name__}.")

    def unaugmented(self, shuffled: bool = False) -> "Pipeline":
        """The same images as they are.

        Args:
            shuffled: Whether a training pipeline keeps shuffling them. By default they come in their own order, as for
                validation.
        """
        plain = self.copy()
        plain.training = self.training and shuffled
        plain.set_epoch(0)
        return plain

    def copy(self) -> "Pipeline":
        """A pipeline of the same images, which are not read again, with an epoch of its own."""
        other = copy.copy(self)
        other._lock = threading.Lock()
        return other

    def rest(self, position: int) -> keras.utils.PyDataset:
        """The batches of the next epoch from a position on, for a training that goes on within an epoch.

        Args:
            position: Number of batches that are left out, below `len(pipeline)`.

        Returns:
            A data set for `fit(..., shuffle=False)`, one epoch long.
        """
        if not 0 <= position < len(self):
            raise ValueError(f"Expected `position` from 0 to {len(self) - 1}. Received: position={position}")
        return Rest(self, position)

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one to be served.

        Args:
            epoch: Non-negative integer, counted from 0 as `fit(initial_epoch=...)` counts.
        """
        if not isinstance(epoch, int | np.integer) or epoch < 0:
            raise ValueError(f"Expected `epoch` to be a non-negative integer. Received: epoch={epoch!r}")
        self.epoch = int(epoch)
        self._served: int | None = None  # batches served in the running epoch; None between epochs
        self._opened = False

    @abc.abstractmethod
    def batch(self, position: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch.

        Args:
            position: Position of the batch in its epoch, from 0 to `len(pipeline) - 1`.
            epoch: The epoch. Defaults to the one that comes next.

        Returns:
            Tuple `(images, labels)`.
        """

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the images in the order in which an epoch serves them, shape `(size,)`."""
        if not self.training:
            return self._rows[np.linspace(0, len(self._rows) - 1, self.size).round().astype(int)]
        ordered_epoch, order = self._ordered
        if ordered_epoch != epoch:
            # SeedSequence ignores trailing zeros, so 0 is kept for the order and positions count from 1.
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(self._rows)
            self._ordered = epoch, order
        return order[: self.size]

    def generator(self, position: int, epoch: int) -> np.random.Generator:
        """The random generator that belongs to one batch of one epoch."""
        return np.random.default_rng([self.seed, epoch, position + 1])

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            # An epoch that was interrupted counts on; at its end, Keras looks at the batches of another `fit`.
            if self.training and self._served is not None and self._served < len(self):
                index, self._served = self._served, self._served + 1
            elif self._fitting in (None, threading.get_ident()):
                self._opened = True
        return self.fetch(index)

    def fetch(self, index: int, epoch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As `batch`, and keeps in `error` what prevents it."""
        if not 0 <= index < len(self):
            raise IndexError(f"Expected a position from 0 to {len(self) - 1}. Received: {index}")
        try:
            self.error = None
            return self.batch(index, self.epoch if epoch is None else epoch)
        except Exception as error:
            self.error = error
            raise

    def __iter__(self):
        for position in range(len(self)):
            yield self.batch(position)

    def on_epoch_begin(self) -> None:
        """Called by Keras: from here on batches are served in the pipeline's own order."""
        self._served, self._fitting = 0, threading.get_ident()

    def on_epoch_end(self) -> None:
        """Called by Keras: go on to the next epoch, if this one was really run.

        Keras calls this once more before the first epoch, after it looked at a batch or two to build
        the model; `_opened` and the number of batches tell that apart from an epoch.
        """
        looked_only = self._opened or self._served is None or self._served < min(len(self), 3)
        if self.training and not looked_only:
            self.epoch += 1
        self._served = None
        self._opened = False


class Rest(keras.utils.PyDataset):
    """What is left of a pipeline's epoch; see `Pipeline.rest`."""

    def __init__(self, pipeline: Pipeline, position: int):
        super().__init__(workers=1)
        self.pipeline = pipeline
        self.position = position

    def __len__(self) -> int:
        return len(self.pipeline) - self.position

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pipeline.fetch(self.position + index)
