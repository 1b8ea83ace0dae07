"""Layers of an adjoined network: one set of weights, several paths, the small ones computed from slices.

Eqn 1 of Adjoined Networks multiplies the kernel of the small path by a mask that is one for the kept filters and
zero for the rest. A masked filter only produces zeros, so computing just the kept filters from a slice of the kernel is
the same function at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops

from tfjointrd.layers.positions import positions_of
from tfjointrd.layers.weight_names import weight_name

# Kept channels: the first n, or these positions in rising order.
Keep = int | Sequence[int]
# What a small network takes of a layer's weights: weight name -> for each axis what is kept, or `None` for all of it.
Share = Mapping[str, Sequence[Keep | None]]


def keep_count(keep: Keep) -> int:
    """How many channels `keep` keeps."""
    return keep if isinstance(keep, int) else len(keep)


def compact(positions: Iterable[int]) -> Keep:
    """Kept positions as a number where they are the first n, else as a list."""
    positions = positions_of(positions)
    return len(positions) if positions == list(range(len(positions))) else positions


def take(x, keep: Keep | None, axis: int = -1):
    """The kept channels of `x`.

    Args:
        x: Tensor of any rank.
        keep: The number of leading channels to keep, the positions to keep in rising order, or `None` for all.
        axis: The channel axis.

    Returns:
        `x` with `axis` reduced to `keep_count(keep)` entries; `x` itself where nothing is dropped.
    """
    axis %= len(x.shape)
    size = x.shape[axis]
    if keep is None or keep_count(keep) == size:
        return x
    # Pieces cost less than gathering, above all in the gradient.
    if isinstance(keep, int):
        return window(x, {axis: (0, keep)})
    runs = _runs(keep)
    first, length = runs[0]
    if len(runs) == 1:
        return window(x, {axis: (first, length)})
    period = runs[1][0] - first
    if size % period == 0 and runs == [(start, length) for start in range(first, size, period)]:
        shape = ops.shape(x)  # the same channels at every position, as behind Flatten
        blocks = ops.reshape(x, (*shape[:axis], size // period, period, *shape[axis + 1 :]))
        return ops.reshape(window(blocks, {axis + 1: (first, length)}), (*shape[:axis], len(keep), *shape[axis + 1 :]))
    if len(runs) <= _MOST_PIECES:
        ends = [end for start, n in runs for end in (start, start + n)]
        return ops.concatenate(ops.split(x, ends, axis)[1::2], axis=axis)
    return ops.take(x, ops.convert_to_tensor(list(keep), dtype="int32"), axis=axis)


_MOST_PIECES = 64


def window(x, ranges: Mapping[int, tuple[int, int]]):
    """A block of `x`: along each axis of `ranges`, `(first, length)`, that many entries from the first one on.

    Not `x[..., :n]`, whose gradient takes 4 to 10 times as long on TensorFlow.

    Args:
        x: Tensor of any rank.
        ranges: What is kept along an axis; the others are kept whole.

    Returns:
        The block, of the rank of `x`.
    """
    if None not in x.shape:
        starts = [ranges.get(axis, (0, size))[0] for axis, size in enumerate(x.shape)]
        return ops.slice(x, starts, [ranges.get(axis, (0, size))[1] for axis, size in enumerate(x.shape)])
    for axis, (first, length) in ranges.items():
        x = ops.split(x, [first, first + length], axis)[1]
    return x


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Rising positions as runs `(start, length)`."""
    parts = np.split(np.asarray(positions), np.flatnonzero(np.diff(positions) != 1) + 1)
    return [(int(part[0]), len(part)) for part in parts]


def _validate(layer: keras.Layer, argument: str, keep: Keep | None, size: int | None = None):
    """Returns `keep` as an int or a list of ints, or raises a `ValueError` that names layer and argument."""
    if keep is None or isinstance(keep, bool):
        valid = False
    elif isinstance(keep, int):
        valid = keep >= 1 and (size is None or keep <= size)
    else:
        keep = positions_of(keep, size, f"{argument}` of layer `{layer.name}")
        valid = bool(keep) and keep == sorted(set(keep)) and keep[0] >= 0 and (size is None or keep[-1] < size)
    if not valid:
        limit = "" if size is None else f" of {size} channels"
        raise ValueError(
            f"Expected `{argument}` of layer '{layer.name}' to be a positive number of leading channels or a list of "
            f"distinct rising channel positions{limit}. Received: {argument}={keep}."
        )
    return keep


@keras.saving.register_keras_serializable(package="tfjointrd")
class TakeChannels(keras.layers.Layer):
    """Passes on the kept channels of its input: where a small path leaves the shared trunk.

    Until the first narrowed layer, the full and the small network are the same function and are computed once. That
    layer's small output is a part of its full output (Eqn 1 with x_1 = x_2), and this layer takes it.

    Args:
        keep: The number of leading channels to keep, or the positions to keep in rising order.

    Call arguments:
        inputs: Tensor `(..., channels)`.

    Returns:
        Tensor `(..., kept channels)`.

    Example:

    >>> tuple(TakeChannels(keep=8)(keras.ops.ones((2, 4, 4, 16))).shape)
    (2, 4, 4, 8)
    """

    def __init__(self, keep: Keep, **kwargs):
        super().__init__(**kwargs)
        self.keep = _validate(self, "keep", keep)

    def build(self, input_shape):
        """Checks that the input has the channels to keep."""
        _validate(self, "keep", self.keep, input_shape[-1])

    def call(self, inputs):
        """Returns the kept channels of `inputs`."""
        return take(inputs, self.keep)

    def compute_output_shape(self, input_shape):
        """The shape of the input with the kept channels only."""
        return (*input_shape[:-1], keep_count(self.keep))

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "keep": self.keep}


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedLayer(keras.layers.Layer):
    """A layer of the full network and of its small twins, which use slices of its weights.

    For a convolution `z_full = conv(x_full, W)` and `z_small = conv(x_small, W * M)` (Eqn 1), where the small path
    convolves the channels it has with the matching slice of W, so that `W * M` is never formed. Any other layer with
    weights is treated alike: each small path runs the layer at its own width on slices of the full layer's weights, or
    on weights of its own, as batch normalisations do, whose statistics differ between the paths.

    Args:
        full: The layer of the full network.
        small: The same layer at the width of each small network, by the name of its path.
        shares: What each small network takes of the full layer's weights, by the name of its path: weight name -> for
            each axis the number of first entries, the positions, or `None` for all. `None` in place of that gives the
            path weights of its own.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `[x_full, *x_small]`, `(batch, ..., channels)` each, the small paths in the order of `small`.

    Returns:
        `[z_full, *z_small]`.

    Attributes:
        full: The layer of the full network, which holds the weights.
        own: The layers of small networks that have weights of their own, by path.

    Raises:
        ValueError: If `shares` does not fit `small`, or slices do not have the shape that a narrow layer needs.

    Example:

    >>> full, small = (keras.layers.Conv2D(n, 3, padding="same", use_bias=False) for n in (32, 16))
    >>> layer = AdjoinedLayer(full, {"small": small}, {"small": {"kernel": [None, None, 8, 16]}})
    >>> [tuple(z.shape) for z in layer([keras.ops.ones((1, 4, 4, 16)), keras.ops.ones((1, 4, 4, 8))])]
    [(1, 4, 4, 32), (1, 4, 4, 16)]

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 and 2.
    """

    def __init__(
        self,
        full: keras.Layer,
        small: Mapping[str, keras.Layer],
        shares: Mapping[str, Share | None],
        **kwargs,
    ):
        own = any(share is None for share in shares.values())  # which learn where the full layer is frozen
        trainable = full.trainable or own
        super().__init__(**{"name": full.name, "dtype": full.dtype_policy, "trainable": trainable, **kwargs})
        if not small or set(small) != set(shares):
            raise ValueError(
                f"Expected `small` and `shares` of layer '{self.name}' for the same paths, at least one. Received: "
                f"{sorted(small)} and {sorted(shares)}."
            )
        self.full = full
        self.paths = list(small)
        self.shares = {
            path: share and {key: list(axes) for key, axes in share.items()} for path, share in shares.items()
        }
        self.own = {path: small[path] for path in self.paths if shares[path] is None}
        # These have no weights of their own to train or to save; in a plain namespace Keras does not look for any.
        self._narrow = SimpleNamespace(layers={path: small[path] for path in self.paths if shares[path] is not None})

    def small(self, path: str) -> keras.Layer:
        """The layer of a small network. Where it shares weights, the values that it holds itself mean nothing."""
        return self.own.get(path) or self._narrow.layers[path]

    def build(self, input_shape):
        """Creates the weights of the full layer, and those that small paths have of their own."""
        self._check_paths(input_shape)
        for layer, shape in zip(self._layers_in_order(), input_shape, strict=True):
            if not layer.built:
                layer.build(tuple(shape))
        full = {weight_name(self.full, variable): tuple(variable.shape) for variable in self.full.variables}
        for path, layer in self._narrow.layers.items():
            for variable in layer.variables:
                name = weight_name(layer, variable)
                axes, shape = self.shares[path].get(name) or [None] * len(variable.shape), full[name]
                found = tuple(
                    size if keep is None else keep_count(keep) for keep, size in zip(axes, shape, strict=True)
                )
                if found != tuple(variable.shape):
                    raise ValueError(
                        f"Layer '{self.name}' expects the {name} of path '{path}' in shape "
                        f"{tuple(variable.shape)}. Received: shares={axes} of shape {shape}, which are {found}."
                    )

    def call(self, inputs, training=None):
        """Returns `[z_full, *z_small]` for `[x_full, *x_small]`."""
        self._check_paths(inputs)
        full, *small = inputs
        outputs = [self.full(full)]
        for path, x in zip(self.paths, small, strict=True):
            outputs.append(self.own[path](x) if path in self.own else self._call_on_slices(path, x))
        return outputs

    def _call_on_slices(self, path: str, x):
        """The small path's layer with slices of the full layer's weights in place of its own."""
        # What a batch normalisation would write into its statistics is lost here: they are the full path's.
        with keras.StatelessScope(state_mapping=self._slices(path), collect_losses=True) as scope:
            output = self._narrow.layers[path](x)
        for loss in scope.losses:  # of an `activity_regularizer`
            self.add_loss(loss)
        return output

    def _slices(self, path: str) -> list:
        """The variables of the small path's layer, each with the slice of the full layer's weight in its place."""
        layer, share = self._narrow.layers[path], self.shares[path] or {}
        full = {weight_name(self.full, variable): variable for variable in self.full.variables}
        if full.keys() != {weight_name(layer, variable) for variable in layer.variables}:
            raise ValueError(
                f"Expected the layer of the full network in '{self.name}' with the weights that it was built with: do "
                f"not quantize it or give it a LoRA; take the small network first. Received: weights {sorted(full)}."
            )
        weights = []
        for variable in layer.variables:
            name = weight_name(layer, variable)
            value, keeps = ops.convert_to_tensor(full[name]), dict(enumerate(share.get(name, ())))
            leading = {axis: (0, keep) for axis, keep in keeps.items() if isinstance(keep, int)}
            value = window(value, leading) if leading else value  # all axes at once
            for axis in keeps.keys() - leading.keys():
                value = take(value, keeps[axis], axis)
            weights.append((variable, value))
        return weights

    def compute_output_spec(self, inputs, training=None):
        """What `call` returns for symbolic tensors."""
        self._check_paths(inputs)
        return [layer.compute_output_spec(x) for layer, x in zip(self._layers_in_order(), inputs, strict=True)]

    def compute_output_shape(self, input_shape):
        """The shapes of `[z_full, *z_small]`."""
        layers = zip(self._layers_in_order(), input_shape, strict=True)
        return [layer.compute_output_shape(tuple(shape)) for layer, shape in layers]

    def _layers_in_order(self) -> list[keras.Layer]:
        return [self.full, *(self.small(path) for path in self.paths)]

    def _check_paths(self, inputs) -> None:
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 1 + len(self.paths):
            names = ", ".join(f"x_{path}" for path in ("full", *self.paths))
            raise ValueError(f"Layer '{self.name}' expects [{names}]. Received: {inputs}.")

    def get_config(self):
        """The configuration from which the layer can be made again."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "full": serialize(self.full),
            "small": {path: serialize(self.small(path)) for path in self.paths},
            "shares": self.shares,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the layer again, with new weights."""
        make = keras.saving.deserialize_keras_object
        small = {path: make(layer) for path, layer in config["small"].items()}
        return cls(**{**config, "full": make(config["full"]), "small": small})
