"""Sets of tensorflow-datasets. TensorFlow is imported here and only for reading."""

import contextlib
import difflib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np

from tfjointrd.data.arrays import Arrays
from tfjointrd.data.information import IMAGENET_STATISTICS, KNOWN, DatasetInfo
from tfjointrd.data.photographs import PhotographPipeline
from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD

# Sets of images of one size that take no more than this are read into memory.
MEMORY_LIMIT = 2**30
# Number of encoded images among which a streamed set is shuffled.
SHUFFLE_BUFFER = 8192


def _import_tfds(name: str):
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"Expected an importable tensorflow-datasets, which reads every set but the digits, .npz files and "
            f"folders of images. Received: name={name!r} and {error}. "
            "Install it with `pip install tensorflow 'tfjointrd[data]'`."
        ) from error
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads files here and would otherwise take all memory of the accelerator.
        with contextlib.suppress(RuntimeError):  # too late, if TensorFlow is in use already
            tf.config.set_visible_devices([], "GPU")
    return tfds


def open_builder(name: str, data_dir: str | os.PathLike | None, download: bool):
    """Find, and if allowed download, a set of tensorflow-datasets.

    Args:
        name: Its name there, as in `"cifar10"` or `"imagenette/160px"`.
        data_dir: Folder of prepared sets. Defaults to `TFDS_DATA_DIR`, then to `~/tensorflow_datasets`.
        download: Whether to download what is not there.

    Returns:
        A builder whose data are prepared.

    Raises:
        ValueError: No such name, or not a set of images with one label each.
        FileNotFoundError: The data are not there and could not be downloaded.
    """
    tfds = _import_tfds(name)
    try:
        builder = tfds.builder(name, data_dir=data_dir or os.environ.get("TFDS_DATA_DIR"), try_gcs=False)
    except (ValueError, AssertionError, ImportError) as error:
        found = tfds.list_builders(with_community_datasets=False)
        if re.split("[/:]", name)[0] not in found:
            raise _unknown_name(name, found) from None
        raise ValueError(f"Expected a data set of tensorflow-datasets. Received: name={name!r} ({error})") from error
    _check_features(name, builder.info)
    if not builder.is_prepared():
        _prepare(name, builder, download)
    return builder


def _unknown_name(name: str, found: list[str]) -> ValueError:
    nearest = difflib.get_close_matches(name.lower(), KNOWN, n=1) or difflib.get_close_matches(name.lower(), found, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(
        f"Expected `name` to be one of {', '.join(KNOWN)}, another data set of tensorflow-datasets, an .npz "
        f"file or a folder of images, of which '{os.getcwd()}' has none of this name.{hint} Received: name={name!r}"
    )


def _check_features(name: str, info) -> None:
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ()
    kinds = [type(info.features[key]) for key in keys if isinstance(key, str)]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel]:
        raise ValueError(
            f"Expected a data set of images with one label each. Received: name={name!r} with {info.features}"
        )


def _prepare(name: str, builder, download: bool) -> None:
    import tensorflow_datasets as tfds

    folder = os.path.abspath(builder.data_dir)
    absent = f"Expected data set {name!r} in {folder}, which does not contain it"
    advice = "Name the folder of prepared sets by `data_dir` or the environment variable TFDS_DATA_DIR"
    if not download:
        raise FileNotFoundError(f"{absent}. {advice}, or allow the download by download=True.")
    try:
        if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            _check_connection(builder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        raise FileNotFoundError(f"{absent}, and it could not be downloaded. {advice}. Reason: {error}") from error


def _check_connection(builder) -> None:
    """Fail at once without a network, where the download itself would try again for minutes."""
    import requests

    for url in itertools.islice(builder.url_infos or (), 1):
        requests.head(url, timeout=10)


def splits_of(builder, validation_split: float) -> tuple[str, str]:
    """Names of the training and the validation split; a part of the former if there is no latter."""
    for name in ("validation", "test"):
        if name in builder.info.splits:
            return "train", name
    percent = min(max(round(100 * (1 - validation_split)), 1), 99)
    return f"train[:{percent}%]", f"train[{percent}%:]"


def describe(name: str, builder, splits: tuple[str, str], image_size: int | None) -> DatasetInfo:
    """What can be told of a prepared set without reading its images.

    Args:
        name: The name that `load` was given.
        builder: A prepared builder of tensorflow-datasets.
        splits: Names of the training and the validation split.
        image_size: Side to which the images are cropped, or `None` where they keep their size.

    Returns:
        A `DatasetInfo`. The mean and std of a set that is not among `KNOWN` are ImageNet's.
    """
    image_key, label_key = builder.info.supervised_keys
    height, width, channels = builder.info.features[image_key].shape
    label = builder.info.features[label_key]
    known = KNOWN.get(name) or DatasetInfo(
        name=name,
        num_classes=label.num_classes,
        input_shape=(0, 0, channels),
        mean=IMAGENET_MEAN if channels == 3 else (float(np.mean(IMAGENET_MEAN)),),
        std=IMAGENET_STD if channels == 3 else (float(np.mean(IMAGENET_STD)),),
        note=IMAGENET_STATISTICS,
    )
    train_size, validation_size = (builder.info.splits[split].num_examples for split in splits)
    return replace(
        known,
        input_shape=(image_size or height, image_size or width, channels),
        train_size=train_size,
        validation_size=validation_size,
        class_names=known.class_names or tuple(label.names),
        resizable=image_size is not None,
    )


def fits_into_memory(builder, splits: tuple[str, str]) -> bool:
    """Whether all images have one size and together take no more than `MEMORY_LIMIT` bytes."""
    shape = builder.info.features[builder.info.supervised_keys[0]].shape
    if None in shape:
        return False
    return sum(builder.info.splits[split].num_examples for split in splits) * np.prod(shape) <= MEMORY_LIMIT


def read_arrays(builder, splits: tuple[str, str]) -> Arrays:
    """Read both splits of a set whole, in the order of its files."""
    import tensorflow_datasets as tfds

    parts = [builder.as_dataset(split=split, batch_size=-1, as_supervised=True) for split in splits]
    return tuple(array for part in parts for array in tfds.as_numpy(part))


class StreamPipeline(PhotographPipeline):
    """Batches of a set of tensorflow-datasets that is too large for memory, read file by file.

    Files are read in an order drawn for each epoch, and their images are shuffled among
    `SHUFFLE_BUFFER` neighbours. Both depend on nothing but seed and epoch, not on TensorFlow's
    global seed. Batches are cheap in sequence; `batch` at any other position reads up to it.

    Args:
        builder: A prepared builder of tensorflow-datasets.
        split: The split to read.
        info: The `DatasetInfo` of the set.
        batch_size: Number of images in a batch.
        training: Whether to shuffle anew for each epoch.
        augment: Whether to crop and flip at random.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        builder,
        split: str,
        info: DatasetInfo,
        batch_size: int,
        *,
        training: bool,
        augment: bool = False,
        seed: int = 0,
    ):
        size = builder.info.splits[split].num_examples
        super().__init__(info, size, batch_size, training=training, augment=augment, seed=seed)
        self.builder = builder
        self.split = split
        self._examples: Iterator[tuple[bytes, int]] = iter(())
        self._next: tuple[int, int] | None = None  # epoch and position

    def encoded(self, position: int, epoch: int) -> tuple[list[bytes], np.ndarray]:
        """Contents of the files, and the labels, of one batch of an epoch."""
        if self._next != (epoch, position):
            skipped = position * self.batch_size
            self._examples = itertools.islice(self._read(epoch), skipped, None)
        count = min(self.batch_size, self.size - position * self.batch_size)
        examples = list(itertools.islice(self._examples, count))
        self._next = epoch, position + 1
        return [image for image, _ in examples], np.array([label for _, label in examples], "int32")

    def copy(self) -> PhotographPipeline:
        """A pipeline of the same images, with an epoch and a reader of its own."""
        other = super().copy()
        other._examples, other._next = iter(()), None
        return other

    def hold_out(self, part: float, by_content: bool = False) -> PhotographPipeline:
        """Not here: images have no positions in a set that is read file by file."""
        raise ValueError(
            "Expected a set in memory or in a folder, of which images can be held out. "
            f"Received: '{self.info.name}', which is streamed."
        )

    def _read(self, epoch: int) -> Iterator[tuple[bytes, int]]:
        """All examples of an epoch, `(encoded image, label)`, in its order."""
        import tensorflow_datasets as tfds

        generator = np.random.default_rng([self.seed, epoch, 0])

        def shuffle_files(files: list) -> list:
            return [files[index] for index in generator.permutation(len(files))]

        config = tfds.ReadConfig(experimental_interleave_sort_fn=shuffle_files if self.training else None)
        found = self.builder.as_dataset(
            split=self.split,
            as_supervised=True,
            decoders={self.builder.info.supervised_keys[0]: tfds.decode.SkipDecoding()},
            read_config=config,
        )
        chunks = tfds.as_numpy(found.batch(64).prefetch(2))
        examples = (
            (bytes(image), int(label)) for images, labels in chunks for image, label in zip(images, labels, strict=True)
        )
        return shuffled(examples, SHUFFLE_BUFFER, generator) if self.training else examples


def shuffled(examples: Iterator, size: int, generator: np.random.Generator) -> Iterator:
    """Hand over examples in random order while keeping at most `size` of them."""
    buffer = list(itertools.islice(examples, size))
    for example in examples:
        place = int(generator.integers(size))
        yield buffer[place]
        buffer[place] = example
    for place in generator.permutation(len(buffer)):
        yield buffer[place]
