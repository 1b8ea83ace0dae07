"""Where the arrays of the data sets that fit into memory come from."""

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def digits() -> Arrays:
    """The digits that scikit-learn contains: 1437 images for training, 360 for validation, 8x8x1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = (found.images[..., None] * (255 / 16)).astype("float32")
    x_train, x_validation, y_train, y_validation = train_test_split(
        images, found.target, test_size=360, stratify=found.target, random_state=0
    )
    return x_train, y_train, x_validation, y_validation


def tfds_arrays(builder, splits: tuple[str, str] = ("train", "test")) -> Arrays:
    """Read a small set of tensorflow-datasets whole."""
    import tensorflow_datasets as tfds

    arrays = []
    for split in splits:
        whole = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
        arrays += [whole["image"], whole["label"]]
    return tuple(arrays)


