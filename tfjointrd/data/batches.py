"""Batches of images out of whatever form images come in."""

from __future__ import annotations

import inspect
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfjointrd.data.labels import CLASSES, check_labels, fits


def batches(
    data: Any, batch_size: int | None = None, *, shape: Sequence[int | None] | None = None, argument: str = "data"
) -> Iterator[tuple[Any, Any]]:
    """The batches of a data set, images with or without labels.

    Args:
        data: Images `(count, height, width, channels)`; a tuple `(images, labels)` or `(images, labels, weights)` of
            arrays, whose labels have not the images' shape; or batches, each of which is such an array or tuple, or a
            list of the same. Batches come from a list, a tuple, a generator, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` such as those of `tfjointrd.data`, once through, or from a function without
            arguments that returns them, as TFLite's `representative_dataset`, a `tf.lite.RepresentativeDataset`
            included. Instead of a list of one array, a batch may be a dict of one, by the input's name.
        batch_size: How many images of an array are a batch; by default, the array is one.
        shape: Shape of an image, `None` where any size is right; not looked at by default.
        argument: What the caller calls `data`, for messages.

    Yields:
        `(images, labels)` of each batch; `labels` is `None` where there are none.

    Raises:
        ValueError: If `data` is none of these or holds no images, if images have another shape, or if there are not as
            many labels as images.

    Example:

    >>> right = 0
    >>> for images, labels in batches(train, shape=network.input_shape[1:]):
    ...     right += np.sum(network.predict_on_batch(images).argmax(-1) == labels)
    """
    found = False
    for x, y in _pairs(data, batch_size, argument):
        if shape is not None and not (_is_array(x) and fits(x.shape[1:], shape)):
            expected = f"(count, {', '.join(map(str, shape))})"
            received = f"shape {tuple(x.shape)}" if _is_array(x) else f"a {type(x).__name__}"
            raise ValueError(f"Expected `{argument}` of shape {expected}. Received: {received}")
        count = len(keras.tree.flatten(x)[0])
        if y is not None and _is_array(y) and len(y) != count:
            raise ValueError(
                f"Expected `{argument}` to hold a label for each image. Received: {count} images, {len(y)} labels"
            )
        found = found or count > 0
        yield x, y
    if not found:
        raise ValueError(f"Expected `{argument}` to hold images. Received: none")


def with_first(data: Any) -> tuple[Any, Any]:
    """The first batch of what `fit` takes, without taking it away.

    Args:
        data: Images, or a `keras.utils.PyDataset`, a `tf.data.Dataset` or a generator of batches.

    Returns:
        The batch, images alone as `(images,)`, or `None` where it cannot be looked at; and the data, of a generator
        another one that begins with the same batch.
    """
    if isinstance(data, keras.utils.PyDataset):
        return data[0], data
    if all(hasattr(data, name) for name in ("element_spec", "take")):  # a tf.data.Dataset, not distributed
        return next(iter(data.take(1)), None), data
    if isinstance(data, types.GeneratorType):
        first = list(itertools.islice(data, 1))
        return (first[0] if first else None), (batch for part in (first, data) for batch in part)
    images = keras.tree.flatten(data)
    return ((data,) if images and all(map(_is_array, images)) else None), data


def accuracy(
    predict: Callable[[Any], Any], data: Any, *, shape: Sequence[int | None] | None = None, argument: str = "data"
) -> float | dict[str, float]:
    """The share of images that a classifier gets right; of positions, where it classifies each.

    Args:
        predict: Function from images to an output for each class, `(count, ..., classes)`; or to a dict of several.
        data: As `batches` takes it, with labels: integers or one-hot. For several outputs, a dict of labels by the
            names of those that are to be looked at, or a list of all.
        shape: See `batches`.
        argument: See `batches`.

    Returns:
        The share; of several outputs a dict of shares.

    Raises:
        ValueError: As `batches`, or if labels are no classes of the output; see `tfjointrd.data.labels`.
    """
    right: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for x, y in batches(data, shape=shape, argument=argument):
        if y is None:
            raise ValueError(f"Expected `{argument}` to hold batches (x, y). Received: batches without labels")
        outputs = predict(x)
        several = isinstance(outputs, Mapping)
        outputs = outputs if several else {"": outputs}
        for name, labels in _by_output(y, list(outputs), argument).items():
            own = np.asarray(outputs[name])
            place = f" of `{argument}`" + (f" for output '{name}'" if several else "")
            labels = _as_classes(labels, own, place)
            right[name] += int(np.sum(own.argmax(axis=-1) == labels))
            count[name] += labels.size
    shares = {name: right[name] / count[name] for name in count}
    return shares if several else shares[""]


def _by_output(y: Any, names: list[str], argument: str) -> dict[str, Any]:
    if names == [""]:
        return {"": y}
    if isinstance(y, Mapping) and set(y) <= set(names):
        return dict(y)
    if isinstance(y, (list, tuple)) and len(y) == len(names):
        return dict(zip(names, y, strict=True))
    received = sorted(y) if isinstance(y, Mapping) else type(y).__name__
    raise ValueError(f"Expected `{argument}` to hold labels by output: {names}. Received: {received}")


def _as_classes(y: Any, outputs: np.ndarray, place: str) -> np.ndarray:
    """Labels as numbers of classes, one for each image or position."""
    if outputs.shape[-1] == 1:
        raise ValueError(f"Expected an output for each class. Received: outputs of shape {outputs.shape}{place}")
    one_hot = check_labels(y, (None, *outputs.shape[1:]), CLASSES, place).one_hot
    y = np.asarray(y)
    if len(y) != len(outputs):
        raise ValueError(f"Expected a label{place} for each image. Received: {len(outputs)} images, {len(y)} labels")
    return y.argmax(-1) if one_hot else y.reshape(outputs.shape[:-1])


def _pairs(data: Any, batch_size: int | None, argument: str) -> Iterator[tuple[Any, Any]]:
    """Images and labels of each batch, as they come."""
    data = getattr(data, "input_gen", data)  # of a `tf.lite.RepresentativeDataset`
    if callable(data) and not isinstance(data, keras.Model):
        data = _called(data, argument)
    if _is_array(data) or (isinstance(data, tuple) and (_is_labelled(data) or _is_labelled_by_output(data))):
        x, y = _pair(data, argument)
        size = max(len(x), 1) if batch_size is None else batch_size
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            yield x[part], {name: own[part] for name, own in y.items()} if isinstance(y, Mapping) else _part(y, part)
        return
    for batch in _iterated(data, argument):
        yield _pair(batch, argument)


def _part(values: Any, part: slice) -> Any:
    return None if values is None else values[part]


def _called(function: Callable, argument: str) -> Any:
    try:
        inspect.signature(function).bind()
    except ValueError:
        pass  # a function without a signature
    except TypeError:
        raise ValueError(
            f"Expected `{argument}`, where it is a function, to need no arguments. Received: {function!r}"
        ) from None
    return function()


def _iterated(data: Any, argument: str) -> Iterable:
    if isinstance(data, keras.utils.PyDataset) and not hasattr(type(data), "__iter__"):  # which need not end by itself
        positions = itertools.count() if data.num_batches is None else range(data.num_batches)
        return (data[position] for position in positions)
    if isinstance(data, (str, bytes, dict, keras.Model)) or not hasattr(data, "__iter__"):
        raise ValueError(
            f"Expected `{argument}` to be an array of images, arrays (x, y), or batches of these. "
            f"Received: {type(data).__name__}"
        )
    return data


def _pair(batch: Any, argument: str) -> tuple[Any, Any]:
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    images = keras.tree.flatten(parts[0]) if parts else []  # several, where a network has several inputs
    if len(parts) > 3 or not images or not all(map(_is_array, images)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"Expected `{argument}` to hold batches x, (x, y) or (x, y, weights), x an array of images. "
            f"Received: a batch of {kinds or 'nothing'}"
        )
    x = images[0] if isinstance(parts[0], dict) and len(images) == 1 else parts[0]
    return x, parts[1] if len(parts) > 1 else None


def _is_labelled(parts: tuple) -> bool:
    """Whether a tuple of arrays is images with labels, and not several batches of images."""
    if len(parts) not in (2, 3) or not all(map(_is_array, parts)):
        return False
    return tuple(parts[1].shape[1:]) != tuple(parts[0].shape[1:])


def _is_labelled_by_output(parts: tuple) -> bool:
    """Whether a tuple is an array of images with a dict of labels."""
    return len(parts) in (2, 3) and _is_array(parts[0]) and isinstance(parts[1], Mapping)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0
