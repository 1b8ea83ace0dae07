"""`load`: a data set by its name."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfjointrd.data import arrays, tfds_sets
from tfjointrd.data import digits_and_npz as sources
from tfjointrd.data import image_folder as folder
from tfjointrd.data.information import COPIES, KNOWN, DatasetInfo
from tfjointrd.data.pipeline import Pipeline

# Padding of the random crop in pixels, and whether an image and its mirror image are the same thing.
# The clothes of fashion_mnist fill their frame, so they are shifted less than the papers shift CIFAR;
# a mirrored garment is a garment. A shifted digit stays the digit, a mirrored one does not.
_AUGMENTATION = {"digits": (1, False), "cifar10": (4, True), "cifar100": (4, True), "fashion_mnist": (2, True)}

# The variant that is meant where tensorflow-datasets has several and its first is not the best.
_VARIANT = {"imagenette": "imagenette/320px-v2"}


def names() -> tuple[str, ...]:
    """Names of the data sets that `load` knows by itself. It takes others too."""
    return tuple(KNOWN)


def info(
    name: str, *, image_size: int | None = None, data_dir: str | os.PathLike | None = None, download: bool = False
) -> DatasetInfo:
    """Describes a data set without loading it.

    The sets of `names()` are described without their data. Any other set is opened. A set that is loaded has the
    same in `load(...)[0].info`.

    Args:
        name: As in `load`.
        image_size: As in `load`.
        data_dir: As in `load`.
        download: Whether to download another set that is missing.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError: As for `load`.
        FileNotFoundError: As for `load`.

    Example:

    >>> info("cifar10").num_classes
    10
    """
    name = os.fspath(name)
    if name not in KNOWN:
        return load(name, image_size=image_size, data_dir=data_dir, download=download)[0].info
    _check_image_size(image_size)
    if image_size is None:
        return KNOWN[name]
    if not KNOWN[name].resizable:
        arrays.check_divides(KNOWN[name], image_size)
    return replace(KNOWN[name], input_shape=(image_size, image_size, KNOWN[name].input_shape[-1]))


def load(
    name: str = "digits",
    batch_size: int = 128,
    *,
    augment: bool | str = True,
    seed: int = 0,
    image_size: int | None = None,
    validation_split: float = 0.1,
    data_dir: str | os.PathLike | None = None,
    data_file: str | os.PathLike | None = None,
    download: bool = True,
) -> tuple[Pipeline, Pipeline]:
    """Load a data set as a training and a validation pipeline for `model.fit`.

    Both deliver raw pixels from 0 to 255, so that the exported network takes them too: normalisation is a layer of the
    network, with the `mean` and `std` of `train.info`. Training data are shuffled and augmented anew for each epoch as
    `seed` says; validation data never are. Either keeps its last, smaller batch. See `Pipeline` for epochs, and for
    resuming in the middle.

    Sets of small images stand in memory as `train.x` and `train.y` and need no TensorFlow afterwards.
    Larger ones and folders are decoded batch by batch.

    Args:
        name: One of
            - `"digits"`: scikit-learn's handwritten digits, contained in it;
            - `"cifar10"`, `"cifar100"`, `"fashion_mnist"`, `"imagenette"`, `"imagenet2012"` or any
              other set of images with one label each of tensorflow-datasets, by its name there;
            - a folder of images: `train/CLASS/*.jpg` with `validation`, `val`, `valid` or `test`
              beside `train`, or `CLASS/*.jpg`;
            - an `.npz` file with the arrays `x_train`, `y_train`, `x_test` and `y_test`.
        batch_size: Number of images in a batch.
        augment: `True` for the set's own augmentation, `False` for none. Its own are, for CIFAR, 4
            pixels of padding, a random crop and a flip; for fashion_mnist the same with 2 pixels; for
            the digits a shift by one pixel; for folders and photographs a random-resized crop and a
            flip; for other sets none. The name of one of the first four gives a set in memory that
            set's augmentation: `load("cifar10.npz", augment="cifar10")`.
        seed: Seed of order and augmentation, a non-negative integer.
        image_size: Side of the images in pixels. Folders and photographs are cropped and resized to it, by default to
            224. Images of a set in memory are averaged over squares of pixels, so it has to divide their own size; the
            padding of their augmentation shrinks alike, and `info.mean` and `info.std` stay those of the full size.
        validation_split: Fraction of the training images that is kept for validation where a set has
            no validation images. Always the same ones.
        data_dir: Folder of sets prepared by tensorflow-datasets. Defaults to the environment variable
            `TFDS_DATA_DIR`, then to `~/tensorflow_datasets`.
        data_file: An `.npz` file, as above, from which to read the set `name`, which has to be one of `names()` with
            small images. Neither TensorFlow nor tensorflow-datasets is needed then.
        download: Whether to download a missing set.

    Returns:
        Tuple `(train, validation)`. Each batch of them is `(images, labels)`, images
        `(batch, height, width, channels)` in float32 and labels `(batch,)` in int32.

    Raises:
        ValueError: An argument is wrong, or the data are not what the name promises.
        FileNotFoundError: The data are not there.
        ImportError: The set needs a package that is not installed.

    Example:

    >>> train, validation = load("digits", batch_size=64)
    >>> history = model.fit(train, validation_data=validation, epochs=2, verbose=0)
    """
    name = os.fspath(name)
    _check_arguments(batch_size, augment, seed, image_size, validation_split)
    options: dict[str, Any] = {"batch_size": batch_size, "augment": augment, "seed": seed, "image_size": image_size}
    if data_file is not None:
        return _from_arrays(*sources.read_named(name, Path(data_file).expanduser()), **options)
    if name == "digits":
        return _from_arrays(KNOWN[name], sources.read_digits(), **options)
    path = Path(name).expanduser()
    if name not in KNOWN and path.suffix == ".npz":
        return _from_arrays(*sources.read_npz(path), **options)
    if name not in KNOWN and _looks_like_folder(name, path):
        return folder.load_folder(
            path,
            batch_size,
            augment=_without_borrowing(augment, name),
            seed=seed,
            image_size=image_size or 224,
            validation_split=validation_split,
        )
    builder = tfds_sets.open_builder(_VARIANT.get(name, name), data_dir, download)
    splits = tfds_sets.splits_of(builder, validation_split)
    if tfds_sets.fits_into_memory(builder, splits):
        found = tfds_sets.describe(name, builder, splits, None)
        images = tfds_sets.read_arrays(builder, splits)
        if name not in KNOWN:
            mean, std = arrays.channel_statistics(images[0])
            found = replace(found, mean=mean, std=std, note="")
        return _from_arrays(found, images, **options)
    own = _without_borrowing(augment, name)
    found = tfds_sets.describe(name, builder, splits, image_size or 224)
    return (
        tfds_sets.StreamPipeline(builder, splits[0], found, batch_size, training=True, augment=own, seed=seed),
        tfds_sets.StreamPipeline(builder, splits[1], found, batch_size, training=False),
    )


def _looks_like_folder(name: str, path: Path) -> bool:
    return bool(name) and (path.is_dir() or path.is_absolute() or name.startswith(".") or name.endswith("/"))


def _from_arrays(
    found: DatasetInfo, parts: arrays.Arrays, batch_size: int, augment: bool | str, seed: int, image_size: int | None
) -> tuple[arrays.ArrayPipeline, arrays.ArrayPipeline]:
    own = found.name if augment is True else augment
    padding, flip = _AUGMENTATION.get(own, (0, False)) if own else (0, False)
    digests = arrays.digests_of(*parts[:2]), arrays.digests_of(*parts[2:])
    fingerprint = arrays.fingerprint(parts, digests)
    found = replace(found, fingerprint=fingerprint, note=COPIES.get(fingerprint, found.note))
    if image_size is not None:
        arrays.check_divides(found, image_size)
        height, _, channels = found.input_shape
        padding = -(-padding * image_size // height)
        found = replace(found, input_shape=(image_size, image_size, channels))
    x_train, y_train, x_validation, y_validation = parts
    x_train, x_validation = (arrays.averaged(x, found.input_shape[0]) for x in (x_train, x_validation))
    train = arrays.ArrayPipeline(
        x_train,
        y_train,
        found,
        batch_size,
        training=True,
        padding=padding,
        flip=flip,
        seed=seed,
        digests=digests[0] if x_train is parts[0] else None,
    )
    return train, arrays.ArrayPipeline(x_validation, y_validation, found, batch_size, training=False)


def _check_arguments(batch_size, augment, seed, image_size, validation_split) -> None:
    if not _is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"Expected `batch_size` to be a positive integer. Received: batch_size={batch_size!r}")
    if not isinstance(augment, bool) and augment not in _AUGMENTATION:
        raise ValueError(
            f"Expected `augment` to be True, False or one of {', '.join(_AUGMENTATION)}. Received: augment={augment!r}"
        )
    if not _is_integer(seed) or seed < 0:
        raise ValueError(f"Expected `seed` to be a non-negative integer. Received: seed={seed!r}")
    _check_image_size(image_size)
    if not 0 < validation_split < 1:
        raise ValueError(
            f"Expected `validation_split` to lie between 0 and 1. Received: validation_split={validation_split!r}"
        )


def _check_image_size(image_size) -> None:
    if image_size is not None and (not _is_integer(image_size) or image_size < 1):
        raise ValueError(f"Expected `image_size` to be a positive integer. Received: image_size={image_size!r}")


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _without_borrowing(augment: bool | str, name: str) -> bool:
    """Whether to augment a set whose images are not in memory."""
    if not isinstance(augment, bool):
        raise ValueError(
            f"Expected `augment` to be True or False for {name}, whose images are not in memory. "
            f"Received: augment={augment!r}"
        )
    return augment
