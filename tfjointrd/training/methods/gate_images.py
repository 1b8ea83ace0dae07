"""Two data sets side by side: each step takes one batch for the weights and one, of the other set, for the gates."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfjointrd.data.pipeline import Pipeline, Rest
from tfjointrd.layers.batch_normalization import replicas

HELD = "held_"  # begins the keys of outputs for images that only the gates learn from


def as_held(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by key, as those for images that only the gates learn from."""
    return {f"{HELD}{key}": value for key, value in outputs.items()}


def held_of(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs for images that only the gates learn from, by their keys without the mark."""
    return {key.removeprefix(HELD): value for key, value in outputs.items() if key.startswith(HELD)}


class SideBySide(keras.utils.PyDataset):
    """Batches `((x, x_held), (y, y_held))` of two data sets.

    Arrays and pipelines of `tfjointrd.data` come in their own order, whatever order `fit` asks for.

    Args:
        data: The images that the weights learn from, a `keras.utils.PyDataset`; one epoch is all of it.
        held_out: Those that the gates learn from. A shorter set is gone through again.
        epoch: The epoch that comes first.
    """

    def __init__(self, data: keras.utils.PyDataset, held_out: keras.utils.PyDataset, epoch: int = 0):
        super().__init__(workers=1)  # several would hand batches over in an order that depends on their speed
        self.data, self.held_out, self.epoch = data, held_out, epoch
        self._first = data.position if isinstance(data, Rest) else 0  # of a training that goes on within an epoch
        self._served, self._lock = None, threading.Lock()

    def __len__(self) -> int:
        """The number of steps an epoch."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple:
        """The batch of a step."""
        with self._lock:
            position = index if self._served is None else self._served
            self._served = None if self._served is None else position + 1
        again = (self._first + position) % len(self.held_out)
        if isinstance(self.held_out, Pipeline):  # which would count on beyond its end
            source = self.data.pipeline if isinstance(self.data, Rest) else self.data
            epoch = source.epoch if isinstance(source, Pipeline) and source.training else self.epoch
            held = self.held_out.fetch(again, epoch)
        else:
            held = self.held_out[again]
        (x, y), (x_held, y_held) = map(_pair, (self.data[position if isinstance(self.data, _Arrays) else index], held))
        return (x, x_held), (y, y_held)

    def on_epoch_begin(self):
        """Tells both."""
        self._served = 0
        self.data.on_epoch_begin()
        self.held_out.on_epoch_begin()

    def on_epoch_end(self):
        """Tells both. Keras calls this before the first epoch, too."""
        self.epoch += self._served is not None
        self.data.on_epoch_end()
        self.held_out.on_epoch_end()


class _Arrays(keras.utils.PyDataset):
    """Batches of arrays, in an order that depends on the epoch alone."""

    def __init__(self, x, y, batch_size: int, shuffle: bool, epoch: int):
        super().__init__()
        self.x, self.y, self.batch_size, self.shuffle = np.asarray(x), np.asarray(y), batch_size, shuffle
        self.epoch = epoch
        self._set_order()

    def _set_order(self):
        images = len(self.x)
        self.order = np.random.default_rng(self.epoch).permutation(images) if self.shuffle else np.arange(images)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.epoch += 1
        self._set_order()


def _pair(batch: tuple) -> tuple:
    if len(batch) != 2:
        raise ValueError(f"Expected batches of images and labels beside `held_out`. Received: {len(batch)} parts.")
    return batch


def check_held_out(outputs: int, options: Mapping[str, Any]) -> None:
    """Looks at what a training with held-out images cannot have.

    Args:
        outputs: The number of the network's outputs.
        options: Other arguments of `fit`.

    Raises:
        ValueError: If there are several outputs or devices, or weights or steps per epoch.
    """
    names = ("sample_weight", "class_weight", "steps_per_epoch")
    refused = {key: options[key] for key in names if options.get(key) is not None}
    several = keras.distribution.distribution()
    devices = replicas() if several is None else several.device_mesh.devices.size
    if outputs > 1 or devices > 1 or refused:
        raise ValueError(
            "Expected `held_out` for a network with one output, trained on one device, without `sample_weight`, "
            f"`class_weight` and `steps_per_epoch`. Received: {outputs} output(s), {devices} device(s), "
            f"{refused!r:.80}."
        )


def side_by_side(x: Any, y: Any, held_out: Any, batch_size: int | None, shuffle: bool = True, epoch: int = 0) -> Any:
    """Data for `fit` that yields `((x, x_held), (y, y_held))`.

    Args:
        x: Images, or a data set: a `keras.utils.PyDataset` or a `tf.data.Dataset` of batches.
        y: Labels of the images; `None` for a data set.
        held_out: `(images, labels)`, or a data set of the kind of `x`.
        batch_size: Of arrays; 32 by default.
        shuffle: Whether arrays come in a new order each epoch.
        epoch: The epoch that comes first.

    Raises:
        ValueError: If `held_out` is of another kind, or a batch has more than images and labels.
    """
    if y is not None and isinstance(held_out, (tuple, list)) and len(held_out) == 2:
        first, second = (
            _Arrays(images, labels, batch_size or 32, shuffle, epoch) for images, labels in ((x, y), held_out)
        )
        return SideBySide(first, second, epoch)
    if isinstance(x, keras.utils.PyDataset) and isinstance(held_out, keras.utils.PyDataset):
        return SideBySide(x, held_out, epoch)
    if hasattr(x, "element_spec") and hasattr(held_out, "element_spec"):
        import tensorflow as tf

        for part in (x, held_out):
            _pair(part.element_spec)
        both = tf.data.Dataset.zip((x, held_out.repeat()))
        return both.map(lambda one, other: ((one[0], other[0]), (one[1], other[1])))
    raise ValueError(
        "Expected `held_out` to be (images, labels) beside arrays, or a data set of the kind that is trained on, a "
        f"PyDataset or a tf.data.Dataset. Received: {type(held_out).__name__} beside {type(x).__name__}."
    )
