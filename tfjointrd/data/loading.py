"""`load`: a data set by its name."""

import difflib
import os
from pathlib import Path

from tfjointrd.data import sources
from tfjointrd.data.arrays import ArrayPipeline
from tfjointrd.data.information import KNOWN, DatasetInfo
from tfjointrd.data.pipeline import Pipeline

# Padding of the random crop in pixels, and whether an image and its mirror image are the same thing.
_AUGMENTATION = {"digits": (1, False), "cifar10": (4, True), "cifar100": (4, True), "fashion_mnist": (4, True)}


def names() -> tuple[str, ...]:
    """Names of the data sets that `load` knows best; further ones are in its documentation."""
    return tuple(KNOWN)


def info(name: str) -> DatasetInfo:
    """What is known of a data set without reading it."""
    if name not in KNOWN:
        close = difflib.get_close_matches(name, KNOWN, n=1)
        raise ValueError(
            f"Expected `name` to be one of {', '.join(KNOWN)}."
            + (f" Did you mean {close[0]!r}?" if close else "")
            + f" Received: name={name!r}"
        )
    return KNOWN[name]


def load(
    name: str = "digits",
    batch_size: int = 128,
    *,
    augment: bool = True,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
) -> tuple[Pipeline, Pipeline]:
    """Load a data set as a training and a validation pipeline."""
    known = info(name)
    arrays = sources.digits() if name == "digits" else sources.tfds_arrays(_builder(name, data_dir, download))
    padding, flip = _AUGMENTATION[name] if augment else (0, False)
    x_train, y_train, x_validation, y_validation = arrays
    train = ArrayPipeline(x_train, y_train, known, batch_size, training=True, padding=padding, flip=flip, seed=seed)
    return train, ArrayPipeline(x_validation, y_validation, known, batch_size, training=False)


def _builder(name: str, data_dir: str | os.PathLike | None, download: bool):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not Path(builder.data_dir).exists():
        if not download:
            raise FileNotFoundError(f"Expected {name} in {builder.data_dir}, which does not exist.")
        builder.download_and_prepare()
    return builder
