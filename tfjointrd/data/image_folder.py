"""A folder of images as a data set, without TensorFlow."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from tfjointrd.data.information import IMAGENET_STATISTICS, DatasetInfo
from tfjointrd.data.photographs import PhotographPipeline
from tfjointrd.pixel_ranges import IMAGENET_MEAN, IMAGENET_STD
from tfjointrd.stacklevel import stacklevel_outside_the_package

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_VALIDATION_NAMES = ("validation", "val", "valid", "test")

Files = tuple[list[str], np.ndarray]


def find_files(folder: Path, validation_split: float) -> tuple[tuple[str, ...], Files, Files]:
    """List the images of a folder, train and validation apart.

    Args:
        folder: A folder `train/CLASS/*.jpg` with a `validation`, `val`, `valid` or `test` beside
            `train`; or a folder `CLASS/*.jpg`.
        validation_split: Fraction of each class that is kept for validation where the folder does
            not say which images are, chosen by their files' names: the same always, and for each image
            that comes or goes, at most one other of its class changes sides.

    Returns:
        Tuple `(class_names, train, validation)`; the latter two are `(paths, labels)`.

    Raises:
        FileNotFoundError: The folder or its images are not there.
        ValueError: Validation has a class that training has not; or there are parts without classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of images. Received: {folder}, which does not exist")
    train_folder = folder / "train" if _holds_folders(folder / "train") else folder
    classes = _list_classes(train_folder)
    if train_folder == folder and set(classes) <= {"train", *_VALIDATION_NAMES}:
        raise ValueError(
            f"Expected a folder for each class within {' and '.join(classes)}, the parts of {folder}. Received: images."
        )
    class_names = tuple(classes)
    held_out = [folder / name for name in _VALIDATION_NAMES if (folder / name).is_dir()]
    if train_folder == folder or not held_out:
        return class_names, *_split(list(classes.values()), validation_split)
    validation = _list_classes(held_out[0])
    unknown = sorted(set(validation) - set(class_names))
    if unknown:
        raise ValueError(f"Expected the classes of {train_folder}. Received: {', '.join(unknown)} in {held_out[0]}")
    return class_names, _label(classes.values()), _label([validation.get(name, []) for name in class_names])


def _holds_folders(folder: Path) -> bool:
    """Whether there is a folder with folders in it: `train` may also be the name of a class."""
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def _list_classes(folder: Path) -> dict[str, list[str]]:
    """Paths of the images of each class, by class name, both sorted."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    classes = {}
    for name in names:
        with os.scandir(folder / name) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.path)
        classes[name] = [entry.path for entry in found if entry.is_file() and entry.name.lower().endswith(SUFFIXES)]
        if classes[name] and len(classes[name]) < len(found):
            taken = set(classes[name])
            left = next(entry.name for entry in found if entry.path not in taken)
            warnings.warn(
                f"{folder / name} holds {len(found) - len(classes[name])} entries that are left out, as '{left}': they "
                f"are not {', '.join(SUFFIXES)} files.",
                stacklevel=stacklevel_outside_the_package(),
            )
    empty = [name for name, paths in classes.items() if not paths]
    if empty or not classes:
        received = f"without images: {', '.join(empty)}" if empty else "no class folders"
        raise FileNotFoundError(
            f"Expected {folder} to contain one folder per class with {', '.join(SUFFIXES)} files in it. "
            f"Received: {received}"
        )
    return classes


def _label(classes) -> Files:
    classes = list(classes)
    labels = np.repeat(np.arange(len(classes), dtype="int32"), [len(paths) for paths in classes])
    return [path for paths in classes for path in paths], labels


def _split(classes: list[list[str]], validation_split: float) -> tuple[Files, Files]:
    train, validation = [], []
    for paths in classes:
        shuffled = sorted(paths, key=lambda path: hashlib.sha256(Path(path).name.encode("utf-8", "replace")).digest())
        count = max(1, round(validation_split * len(paths)))
        if count >= len(paths):
            raise ValueError(
                f"Expected enough images in {Path(paths[0]).parent} to keep some for validation. "
                f"Received: {len(paths)} with validation_split={validation_split}"
            )
        train.append(shuffled[count:])
        validation.append(shuffled[:count])
    return _label(train), _label(validation)


class FolderPipeline(PhotographPipeline):
    """Batches of images in a folder. See `PhotographPipeline` for cropping and `Pipeline` for epochs.

    Args:
        paths: Paths of the images.
        labels: Their labels, shape `(len(paths),)`.
        info: The `DatasetInfo` of the set.
        batch_size: Number of images in a batch.
        training: Whether to shuffle anew for each epoch.
        augment: Whether to crop and flip at random.
        seed: Seed of order and augmentation.

    Example:

    >>> train, validation = tfjointrd.data.load("photographs/", batch_size=32, image_size=128)
    >>> train.info.class_names
    ('cat', 'dog')
    """

    def __init__(
        self,
        paths: list[str],
        labels: np.ndarray,
        info: DatasetInfo,
        batch_size: int,
        *,
        training: bool,
        augment: bool = False,
        seed: int = 0,
    ):
        super().__init__(info, len(paths), batch_size, training=training, augment=augment, seed=seed)
        self.paths = paths
        self.labels = labels

    def known_labels(self) -> np.ndarray:
        """Those of the class folders."""
        return self.labels

    def content(self, row: int) -> bytes:
        """The digest of a file's name, as for the validation part of folders without one."""
        return hashlib.sha256(Path(self.paths[row]).name.encode("utf-8", "replace")).digest()

    def encoded(self, position: int, epoch: int) -> tuple[list[str], np.ndarray]:
        """Paths and labels of one batch of an epoch."""
        start = position * self.batch_size
        chosen = self.order(epoch)[start : start + self.batch_size]
        return [self.paths[index] for index in chosen], self.labels[chosen]


def load_folder(
    folder: Path, batch_size: int, *, augment: bool, seed: int, image_size: int, validation_split: float
) -> tuple[FolderPipeline, FolderPipeline]:
    """Training and validation pipeline of a folder of images. See `tfjointrd.data.load`."""
    class_names, train, validation = find_files(folder, validation_split)
    info = DatasetInfo(
        name=str(folder),
        num_classes=len(class_names),
        input_shape=(image_size, image_size, 3),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train_size=len(train[0]),
        validation_size=len(validation[0]),
        class_names=class_names,
        note=IMAGENET_STATISTICS,
        resizable=True,
    )
    return (
        FolderPipeline(*train, info, batch_size, training=True, augment=augment, seed=seed),
        FolderPipeline(*validation, info, batch_size, training=False),
    )
