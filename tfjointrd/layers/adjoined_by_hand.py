"""Adjoined layers for networks that are put together by hand: Eqn 1 and 2 of Adjoined Networks, each as one layer.

`AdjoinedLayer` is the general form, for any layer with weights, which `tfjointrd.adjoin` builds whole networks of. The
layers of this file are told how many times narrower the small path is, and work out the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import keras
import numpy as np

from tfjointrd.layers.adjoined import AdjoinedLayer, Keep, compact

SMALL = "small"


class _MaskedPair(AdjoinedLayer):
    """A layer of which the small path keeps some outputs: the first ones, or those that a mask names.

    Args:
        full: The layer of the full network, named "full".
        width: What Keras calls its number of outputs: the name of an argument.
        alpha: How many times narrower the small path is.
        mask: Or, for each output, whether the small path has it.
        input_mask: For each input channel of the full path, whether the small path has it.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, full: keras.Layer, width: str, alpha, mask, input_mask, **kwargs):
        name = kwargs.get("name")
        self._where = f"layer '{name}'" if name else f"an {type(self).__name__}"  # in messages
        size = getattr(full, width)
        kept = self._kept(size, width, alpha, mask)
        small = type(full).from_config({**full.get_config(), "name": SMALL, **self._narrow_config(full, kept)})
        super().__init__(full, {SMALL: small}, {SMALL: {}}, **{"name": None, **kwargs})
        self._where = f"layer '{self.name}'"
        self.alpha, self.kept = alpha, compact(kept)
        self.mask = None if mask is None else [position in kept for position in range(size)]
        self.input_mask = None if input_mask is None else [bool(kept) for kept in self._read("input_mask", input_mask)]

    def _kept(self, size: int, width: str, alpha, mask) -> list[int]:
        """Positions of the outputs that the small path has (Eqn 2, or any other mask)."""
        if (alpha is None) == (mask is None):
            raise ValueError(f"Expected either `alpha` or `mask` for {self._where}. Received: {alpha=}, {mask=}.")
        if mask is not None:
            return self._read("mask", mask, size).nonzero()[0].tolist()
        number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and isfinite(alpha)
        kept = int(size / alpha + 1e-9) if number and alpha >= 1 else 0  # 64 / 1.6 is 40
        if not kept:
            raise ValueError(
                f"Expected `alpha` of {self._where} to be a number from 1 on that leaves one of {size} {width}. "
                f"Received: alpha={alpha!r}."
            )
        return list(range(kept))

    def _read(self, argument: str, mask, size: int | None = None) -> np.ndarray:
        """A mask as an array of booleans."""
        values = np.asarray(mask)
        numbers = values.ndim == 1 and values.dtype.kind in "biuf"
        valid = numbers and values.any() and np.isin(values, (0, 1)).all()
        if not valid or size not in (None, len(values)):
            length = "one for each channel" if size is None else f"{size} in all"
            raise ValueError(
                f"Expected `{argument}` of {self._where} to be zeros and ones, {length}, at least one of them 1. "
                f"Received: {argument}={mask!r}."
            )
        return values.astype(bool)

    def _narrow_config(self, full: keras.Layer, kept: list[int]) -> dict[str, Any]:
        """What differs in the configuration of the small path's layer."""
        raise NotImplementedError(f"{type(self).__name__} does not define `_narrow_config(full, kept)`.")

    def _channel_axis(self) -> int:
        return -1

    def _kernel_inputs(self, kept: list[int], channels: int) -> Keep | None:
        """What the small path takes of the kernel's input axis, where it has these of the full path's channels."""
        return compact(kept)

    def build(self, input_shape):
        """Creates the kernel and the bias, and finds the slices that the small path takes of them."""
        self._check_paths(input_shape)
        full, small = (shape[self._channel_axis()] for shape in input_shape)
        if self.input_mask is None:
            kept, expected = list(range(small)), f"at most {full} channels, as the full path"
        else:
            kept = self._read("input_mask", self.input_mask, full).nonzero()[0].tolist()
            expected = f"{len(kept)} channels, those of `input_mask`"
        if len(kept) != small or small > full:
            raise ValueError(f"Expected `x_small` of {self._where} to have {expected}. Received: {small} channels.")
        inputs = self._kernel_inputs(kept, full)
        leading = [None] * (len(self.full.kernel_size) if hasattr(self.full, "kernel_size") else 0)
        self.shares = {SMALL: {"kernel": [*leading, inputs, self.kept], "bias": [self.kept]}}
        super().build(input_shape)

    def small_layer(self) -> keras.Layer:
        """The small path as an ordinary layer of Keras, with weights of its own: the slices as they are now.

        Raises:
            ValueError: If the layer is not built.
        """
        if not self.built:
            raise ValueError(f"Expected a layer that is built. Received: {self._where}, which was not called yet.")
        narrow = self.small(SMALL)
        layer = type(narrow).from_config({**narrow.get_config(), "name": self.name})
        layer.build_from_config(narrow.get_build_config())
        layer.set_weights([keras.ops.convert_to_numpy(value) for _, value in self._slices(SMALL)])
        return layer

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"alpha": self.alpha, "mask": self.mask and list(self.mask)}
        own["input_mask"] = self.input_mask and list(self.input_mask)
        regularizer = keras.regularizers.serialize(self.activity_regularizer)
        config = {**self.full.get_config(), "name": self.name, "trainable": self.trainable}
        return {**config, "activity_regularizer": regularizer, **own}

    @classmethod
    def from_config(cls, config):
        """Makes the layer again, with new weights."""
        return super(AdjoinedLayer, cls).from_config(config)


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedConv2D(_MaskedPair):
    """A convolution of the full and of the small network, with one kernel W (Eqn 1).

    The full path computes z_full = conv(x_full, W). The small path computes z_small = conv(x_small, W * M), where the
    mask M is one for the filters that it keeps: the first `filters // alpha` (Eqn 2), or those of `mask`. Masked
    filters would only give zeros, so z_small has the channels of the kept filters alone, and a slice of W makes them.
    Gradients of both paths meet in W. The bias is sliced likewise, and the activation is that of both paths.

    In a network, the small path of one layer goes on to the small path of the next. Batch normalisations stand on each
    path for themselves, as in the paper. The first layer is given the images twice, `[x, x]`; the last one has
    `alpha=1`, since both networks tell the same classes apart.

    Args:
        filters: Number of output channels of the full path.
        kernel_size: Height and width of the kernel.
        strides: As for `keras.layers.Conv2D`.
        padding: As for `keras.layers.Conv2D`.
        alpha: How many times narrower the small path is, from 1 on. Either this or `mask`.
        mask: For each filter 1 or 0, whether the small path has it. Of the groups of a grouped convolution it keeps
            equally many filters each, or none.
        input_mask: For each channel of `x_full` 1 or 0, whether `x_small` has it: the `mask` of the layer before. By
            default `x_small` has the first ones.
        **kwargs: Those of `keras.layers.Conv2D`. `groups` equal to the number of channels is a depthwise convolution.

    Call arguments:
        inputs: `[x_full, x_small]`: `(batch, height, width, channels)` and `(batch, height, width, kept channels)`.

    Returns:
        `[z_full, z_small]`: `(batch, new_height, new_width, filters)` and `(batch, new_height, new_width, kept
        filters)`.

    Attributes:
        full: The convolution of the full path, which holds kernel and bias.
        kept: The filters that the small path has: the number of first ones, or their positions.

    Raises:
        ValueError: If neither or both of `alpha` and `mask` are given, they or `input_mask` are not as described, or
            `x_small` has other channels than these say.

    Example:

    >>> first = AdjoinedConv2D(32, 3, alpha=2, padding="same", activation="relu")
    >>> second = AdjoinedConv2D(64, 3, strides=2, alpha=4, padding="same")
    >>> images = keras.ops.ones((1, 8, 8, 3))
    >>> [tuple(z.shape) for z in second(first([images, images]))]
    [(1, 4, 4, 64), (1, 4, 4, 16)]
    >>> tuple(second.small_layer().kernel.shape)  # an ordinary convolution, to be deployed
    (3, 3, 16, 16)

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 and 2.
    """

    def __init__(
        self,
        filters: int,
        kernel_size,
        strides=1,
        padding: str = "valid",
        *,
        alpha: float | None = None,
        mask: Sequence[float] | None = None,
        input_mask: Sequence[float] | None = None,
        activity_regularizer=None,
        name: str | None = None,
        **kwargs,
    ):
        full = keras.layers.Conv2D(filters, kernel_size, strides, padding, name="full", **kwargs)
        super().__init__(full, "filters", alpha, mask, input_mask, activity_regularizer=activity_regularizer, name=name)

    def _narrow_config(self, full, kept):
        found = [positions for positions in self._in_groups(kept, full.filters, full.groups).values() if positions]
        if len({len(positions) for positions in found}) > 1:
            raise ValueError(
                f"Expected {self._where} to keep equally many filters, or none, of each of its {full.groups} groups of "
                f"{full.filters // full.groups}. Received: kept filters {compact(kept)}."
            )
        return {"filters": len(kept), "groups": len(found)}

    @staticmethod
    def _in_groups(kept: list[int], channels: int, groups: int) -> dict[int, tuple[int, ...]]:
        """Kept positions by group, counted from the beginning of the group."""
        size = channels // groups
        return {group: tuple(p - group * size for p in kept if p // size == group) for group in range(groups)}

    def _channel_axis(self):
        return -1 if self.full.data_format == "channels_last" else 1

    def _kernel_inputs(self, kept, channels):
        groups = self.full.groups
        filters = range(self.kept) if isinstance(self.kept, int) else self.kept
        by_filters = self._in_groups(filters, self.full.filters, groups)
        by_inputs = self._in_groups(kept, channels, groups)
        found = {by_inputs[group] for group, positions in by_filters.items() if positions}
        unused = [group for group, positions in by_filters.items() if by_inputs[group] and not positions]
        if len(found) != 1 or () in found or unused:
            raise ValueError(
                f"Expected `x_small` of {self._where} to have the same channels of each of the groups whose filters "
                f"are kept, and none of others: {[group for group, p in by_filters.items() if p]} of {groups}. "
                f"Received: channels {compact(kept)} of {channels}."
            )
        return compact(found.pop())


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedDense(_MaskedPair):
    """A dense layer of the full and of the small network, with one kernel; see `AdjoinedConv2D`.

    Args:
        units: Number of outputs of the full path.
        activation: As for `keras.layers.Dense`.
        alpha: How many times narrower the small path is, from 1 on; 1 in the layer that makes the classes. Either this
            or `mask`.
        mask: For each unit 1 or 0, whether the small path has it.
        input_mask: For each feature of `x_full` 1 or 0, whether `x_small` has it. By default `x_small` has the first
            ones; behind `Flatten` it has others, so give `numpy.tile(mask, positions)`.
        **kwargs: Those of `keras.layers.Dense`.

    Call arguments:
        inputs: `[x_full, x_small]`: `(batch, ..., features)` and `(batch, ..., kept features)`.

    Returns:
        `[z_full, z_small]`: `(batch, ..., units)` and `(batch, ..., kept units)`.

    Attributes:
        full: The dense layer of the full path, which holds kernel and bias.
        kept: The units that the small path has: the number of first ones, or their positions.

    Raises:
        ValueError: As for `AdjoinedConv2D`.

    Example:

    >>> logits = AdjoinedDense(10, alpha=1)
    >>> [tuple(z.shape) for z in logits([keras.ops.ones((1, 64)), keras.ops.ones((1, 32))])]
    [(1, 10), (1, 10)]

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 and 2.
    """

    def __init__(
        self,
        units: int,
        activation=None,
        *,
        alpha: float | None = None,
        mask: Sequence[float] | None = None,
        input_mask: Sequence[float] | None = None,
        activity_regularizer=None,
        name: str | None = None,
        **kwargs,
    ):
        full = keras.layers.Dense(units, activation, name="full", **kwargs)
        super().__init__(full, "units", alpha, mask, input_mask, activity_regularizer=activity_regularizer, name=name)

    def _narrow_config(self, full, kept):
        return {"units": len(kept)}
