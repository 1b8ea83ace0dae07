"""Arrays that need no TensorFlow: the digits of scikit-learn and .npz files."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from tfjointrd.data.arrays import Arrays, channel_statistics
from tfjointrd.data.information import KNOWN, DatasetInfo
from tfjointrd.extras import require

_NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")


def read_digits() -> Arrays:
    """The digits that scikit-learn contains: 1437 images for training, 360 for validation, 8x8x1."""
    load_digits = require("sklearn.datasets").load_digits
    train_test_split = require("sklearn.model_selection").train_test_split
    found = load_digits()
    images = (found.images[..., None] * (255 / 16)).astype("float32")
    x_train, x_validation, y_train, y_validation = train_test_split(
        images, found.target, test_size=360, stratify=found.target, random_state=0
    )
    return x_train, y_train, x_validation, y_validation


def read_npz(path: Path) -> tuple[DatasetInfo, Arrays]:
    """Read and check a file with the arrays `x_train`, `y_train`, `x_test` and `y_test`.

    Args:
        path: Path of the file. Images are `(size, height, width, channels)` or, in grey,
            `(size, height, width)`, with pixels from 0 to 255; labels are integers `(size,)`.

    Returns:
        Tuple of the `DatasetInfo` and the arrays, images with a channel axis.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An array is missing or not as above.
    """
    parts = _read_arrays(path)
    x_train, y_train, x_test, _ = parts
    mean, std = channel_statistics(x_train)
    info = DatasetInfo(
        name=str(path),
        num_classes=int(y_train.max()) + 1,
        input_shape=x_train.shape[1:],
        mean=mean,
        std=std,
        train_size=len(x_train),
        validation_size=len(x_test),
    )
    return info, parts


def read_named(name: str, path: Path) -> tuple[DatasetInfo, Arrays]:
    """Read a data set that has a name from a file as for `read_npz`.

    Args:
        name: Name of the set.
        path: Path of the file.

    Returns:
        Tuple of what is known of the set, and the arrays.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The set is not one of small images that is known here, or the file does not hold as many images of
            its size and as many classes.
    """
    known = KNOWN.get(name)
    if not path.is_file():
        raise FileNotFoundError(f"Expected `data_file` to be an .npz file. Received: data_file='{path}'")
    if known is None or known.resizable:
        small = ", ".join(other.name for other in KNOWN.values() if not other.resizable)
        raise ValueError(f"Expected `data_file` for one of the sets {small}. Received: data_file='{path}' for '{name}'")
    arrays = x_train, y_train, x_test, _ = _read_arrays(path)
    found = {
        "input_shape": x_train.shape[1:],
        "num_classes": int(y_train.max()) + 1,
        "train_size": len(x_train),
        "validation_size": len(x_test),
    }
    for what, received in found.items():
        expected = getattr(known, what)
        if expected != received:
            raise ValueError(
                f"Expected `data_file` to hold {name}, with {what}={expected}. Received: {path}, with {received}"
            )
    return known, arrays


def _read_arrays(path: Path) -> Arrays:
    """The checked arrays of a file, images with a channel axis."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected an .npz file. Received: {path}, which does not exist")
    try:
        opened = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"Expected an .npz file. Received: {path}, which cannot be read ({error})") from error
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError(
            f"Expected an .npz file, as `numpy.savez` writes it. Received: {path}, which holds one array without a name"
        )
    with opened as file:
        missing = [name for name in _NPZ_NAMES if name not in file]
        if missing:
            raise ValueError(
                f"Expected {path} to contain {', '.join(_NPZ_NAMES)}. Missing: {', '.join(missing)}. "
                f"Received: {', '.join(file.files)}"
            )
        x_train, y_train, x_test, y_test = (_read_array(file, name, path) for name in _NPZ_NAMES)
    x_train, x_test = _check_images(x_train, "x_train"), _check_images(x_test, "x_test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Expected x_test to have images of the shape of x_train, {x_train.shape[1:]}. Received: {x_test.shape[1:]}"
        )
    num_classes = int(_check_labels(y_train, len(x_train), "y_train").max()) + 1
    if num_classes <= _check_labels(y_test, len(x_test), "y_test").max():
        raise ValueError(
            f"Expected labels in y_test from 0 to {num_classes - 1}, the largest in y_train. Received: {y_test.max()}"
        )
    return x_train, y_train, x_test, y_test


def _read_array(file, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:  # objects, which only `pickle` reads
        hint = " Number names of classes: `numpy.unique(labels, return_inverse=True)[1]`." if name[0] == "y" else ""
        raise ValueError(f"Expected {name} in {path} to hold numbers.{hint} Received: objects ({error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"Expected a whole file. Received: {path}, whose {name} is damaged ({error})") from error


def _check_images(x: np.ndarray, name: str) -> np.ndarray:
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.size == 0 or x.shape[-1] not in (1, 3):
        raise ValueError(
            f"Expected {name} to have the shape (size, height, width) or (size, height, width, 1 or 3). "
            f"Received: {x.shape}"
        )
    if x.dtype.kind not in "uif":
        raise ValueError(f"Expected {name} to hold numbers. Received: dtype {x.dtype}")
    low, high = x.min(), x.max()
    unscaled = x.dtype.kind == "f" and high <= 1
    if unscaled or not (low >= 0 and high <= 255):
        hint = " Multiply by 255 what was divided by it." if unscaled and low >= 0 else ""
        raise ValueError(f"Expected {name} to hold raw pixels from 0 to 255.{hint} Received: {low} to {high}")
    return x


def _check_labels(y: np.ndarray, size: int, name: str) -> np.ndarray:
    if y.shape != (size,) or y.dtype.kind not in "ui":
        raise ValueError(
            f"Expected {name} to hold one integer label for each image, shape {(size,)}. "
            f"Received: shape {y.shape}, dtype {y.dtype}"
        )
    if y.min() < 0:
        raise ValueError(f"Expected labels in {name} from 0 on. Received: {y.min()}")
    return y
