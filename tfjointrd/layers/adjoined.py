"""Layers of an adjoined network: one set of weights, two paths, the small one computed from slices.

Eqn 1 of Adjoined Networks multiplies the kernel of the small path by a mask that is one for the kept filters and
zero for the rest. A masked filter only produces zeros, so computing just the kept filters from a slice of the kernel is
the same function at a fraction of the cost. Each layer here takes the pair `[x_full, x_small]` and returns the pair
`[z_full, z_small]`, where `x_small` and `z_small` hold only the kept channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import FusedBatchNormalization

# Kept channels: the first n, or these positions in rising order.
Keep = int | Sequence[int]


def keep_count(keep: Keep) -> int:
    """How many channels `keep` keeps."""
    return keep if isinstance(keep, int) else len(keep)


def take(x, keep: Keep, axis: int = -1):
    """The kept channels of `x`.

    Args:
        x: Tensor of any rank.
        keep: The number of leading channels to keep, or the positions to keep in rising order.
        axis: The channel axis.

    Returns:
        `x` with `axis` reduced to `keep_count(keep)` entries; `x` itself where nothing is dropped.
    """
    axis %= len(x.shape)
    if keep_count(keep) == x.shape[axis]:
        return x
    if isinstance(keep, int):
        return x[(slice(None),) * axis + (slice(0, keep),)]
    return ops.take(x, ops.convert_to_tensor(list(keep), dtype="int32"), axis=axis)


def _validate(layer: keras.Layer, argument: str, keep: Keep | None, size: int | None = None):
    """Returns `keep` as an int or a list of ints, or raises a `ValueError` that names layer and argument."""
    if keep is None or isinstance(keep, bool):
        valid = False
    elif isinstance(keep, int):
        valid = keep >= 1 and (size is None or keep <= size)
    else:
        keep = [int(position) for position in keep]
        valid = bool(keep) and keep == sorted(set(keep)) and keep[0] >= 0 and (size is None or keep[-1] < size)
    if not valid:
        limit = "" if size is None else f" of {size} channels"
        raise ValueError(
            f"Expected `{argument}` of layer '{layer.name}' to be a positive number of leading channels or a list of "
            f"distinct rising channel positions{limit}. Received: {argument}={keep}."
        )
    return keep


def _pair(layer: keras.Layer, inputs):
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError(f"Layer '{layer.name}' expects the pair [x_full, x_small]. Received: {inputs}.")
    return inputs


@keras.saving.register_keras_serializable(package="tfjointrd")
class TakeChannels(keras.layers.Layer):
    """Passes on the kept channels of its input: where the small path leaves the shared trunk.

    Until the first narrowed layer, the full and the small network are the same function and are computed once. That
    layer's small output is a part of its full output (Eqn 1 with x_1 = x_2), and this layer takes it.

    Args:
        keep: The number of leading channels to keep, or the positions to keep in rising order.

    Call arguments:
        inputs: Tensor `(..., channels)`.

    Returns:
        Tensor `(..., kept channels)`.

    Example:

    >>> TakeChannels(keep=8)(keras.ops.ones((2, 4, 4, 16))).shape
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


class _AdjoinedMixin:
    """What the adjoined layers share: the pair as input and output, the kept channels in the configuration."""

    def _set_keep(self, small_inputs: Keep, small_outputs: Keep | None, outputs: int | None):
        if getattr(self, "data_format", "channels_last") != "channels_last":
            raise ValueError(f"Layer '{self.name}' expects data_format='channels_last'.")
        self.input_spec = None  # Keras' own asks for a single tensor
        self.small_inputs = _validate(self, "small_inputs", small_inputs)
        if outputs is not None:
            self.small_outputs = _validate(self, "small_outputs", small_outputs, outputs)

    def build(self, input_shape):
        """Creates the weights of the full layer; the small path owns none."""
        full, small = _pair(self, input_shape)
        _validate(self, "small_inputs", self.small_inputs, full[-1])
        if small[-1] != keep_count(self.small_inputs):
            raise ValueError(
                f"Layer '{self.name}' expects x_small with {keep_count(self.small_inputs)} channels "
                f"(`small_inputs`). Received: shape {tuple(small)}."
            )
        super().build(full)
        self.input_spec = None

    def call(self, inputs):
        """Returns `[z_full, z_small]` for `[x_full, x_small]`."""
        full, small = _pair(self, inputs)
        return [super().call(full), self.call_small(small)]

    def _finish(self, outputs, keep: Keep):
        if self.use_bias:
            outputs = ops.add(outputs, take(self.bias, keep))
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """The shapes of `[z_full, z_small]`."""
        if input_shape[0] is None or isinstance(input_shape[0], int):  # Keras' build asks about the full path alone
            return super().compute_output_shape(input_shape)
        full = super().compute_output_shape(_pair(self, input_shape)[0])
        return [full, (*full[:-1], self._small_width())]

    def _small_width(self) -> int:
        return keep_count(self.small_outputs)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        config = {**super().get_config(), "small_inputs": self.small_inputs}
        return {**config, "small_outputs": self.small_outputs} if hasattr(self, "small_outputs") else config


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedConv2D(_AdjoinedMixin, keras.layers.Conv2D):
    """2D convolution of an adjoined network: `z_full = conv(x_full, W)`, `z_small = conv(x_small, W * M)`.

    The small path convolves the kept input channels with the matching slice of the kernel, so `W * M` is never
    formed. With `groups`, whole groups are kept, of the input and the output alike.

    Args:
        filters: Number of filters of the full path.
        kernel_size: Size of the kernel.
        small_inputs: Channels of the full input that `x_small` holds: the first n, or a list of positions.
        small_outputs: Filters that the small path keeps: the first n, or a list of positions. For the mask a_alpha
            of the paper, `filters // alpha`.
        **kwargs: As for `keras.layers.Conv2D`; `data_format` must be `"channels_last"`.

    Call arguments:
        inputs: The pair `[x_full, x_small]`, `(batch, height, width, channels)` each.

    Returns:
        The pair `[z_full, z_small]` with `filters` and the kept number of channels.

    Example:

    >>> layer = AdjoinedConv2D(32, 3, small_inputs=8, small_outputs=16, padding="same")
    >>> full, small = layer([keras.ops.ones((1, 4, 4, 16)), keras.ops.ones((1, 4, 4, 8))])
    >>> full.shape, small.shape
    ((1, 4, 4, 32), (1, 4, 4, 16))

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 and 2.
    """

    def __init__(self, filters: int, kernel_size, *, small_inputs: Keep, small_outputs: Keep, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self._set_keep(small_inputs, small_outputs, filters)

    def call_small(self, inputs):
        """`conv(x_small, W * M)`, computed from the kept filters only (Eqn 1)."""
        kernel = take(self.kernel, self.small_outputs, axis=3)
        if self.groups == 1:
            kernel = take(kernel, self.small_inputs, axis=2)
        return self._finish(self.convolution_op(inputs, kernel), self.small_outputs)


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedDepthwiseConv2D(_AdjoinedMixin, keras.layers.DepthwiseConv2D):
    """2D depthwise convolution of an adjoined network; the kept outputs follow from the kept inputs.

    Args:
        kernel_size: Size of the kernel.
        small_inputs: Channels of the full input that `x_small` holds: the first n, or a list of positions.
        **kwargs: As for `keras.layers.DepthwiseConv2D`; `data_format` must be `"channels_last"`.

    Call arguments:
        inputs: The pair `[x_full, x_small]`, `(batch, height, width, channels)` each.

    Returns:
        The pair `[z_full, z_small]`, each with `depth_multiplier` times the channels of its input.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1.
    """

    def __init__(self, kernel_size, *, small_inputs: Keep, **kwargs):
        super().__init__(kernel_size, **kwargs)
        self._set_keep(small_inputs, None, None)

    def call_small(self, inputs):
        """The depthwise convolution of the kept channels."""
        outputs = ops.depthwise_conv(
            inputs,
            take(self.kernel, self.small_inputs, axis=2),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._finish(outputs, self._kept_outputs())

    def _kept_outputs(self) -> Keep:
        if isinstance(self.small_inputs, int):
            return self.small_inputs * self.depth_multiplier
        return [p * self.depth_multiplier + i for p in self.small_inputs for i in range(self.depth_multiplier)]

    def _small_width(self) -> int:
        return keep_count(self.small_inputs) * self.depth_multiplier


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedDense(_AdjoinedMixin, keras.layers.Dense):
    """Dense layer of an adjoined network: kernel and bias are shared, the small path uses the kept rows and columns.

    Args:
        units: Number of outputs of the full path.
        small_inputs: Features of the full input that `x_small` holds: the first n, or a list of positions.
        small_outputs: Units that the small path keeps; all of them by default, as in a classifier's head.
        **kwargs: As for `keras.layers.Dense`.

    Call arguments:
        inputs: The pair `[x_full, x_small]`, `(batch, ..., features)` each.

    Returns:
        The pair `[z_full, z_small]`, `(batch, ..., units)` and `(batch, ..., kept units)`.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1.
    """

    def __init__(self, units: int, *, small_inputs: Keep, small_outputs: Keep | None = None, **kwargs):
        super().__init__(units, **kwargs)
        self._set_keep(small_inputs, units if small_outputs is None else small_outputs, units)

    def call_small(self, inputs):
        """The dense layer restricted to the kept features and units."""
        kernel = take(take(self.kernel, self.small_inputs, axis=0), self.small_outputs, axis=1)
        return self._finish(ops.matmul(inputs, kernel), self.small_outputs)


@keras.saving.register_keras_serializable(package="tfjointrd")
class AdjoinedBatchNormalization(keras.layers.Layer):
    """Batch normalisation with separate weights and statistics for the full and the small path.

    The two paths see different activations, so one set of statistics would fit neither; the authors' networks keep
    two as well.

    Args:
        small_channels: Number of channels of `x_small`.
        **kwargs: As for `keras.layers.BatchNormalization`, for both paths.

    Call arguments:
        inputs: The pair `[x_full, x_small]`, `(batch, ..., channels)` each.
        training: Whether to use the statistics of the batch.

    Returns:
        The pair, normalised.

    Attributes:
        full: The batch normalisation of the full path.
        small: The batch normalisation of the small path.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 3.
    """

    def __init__(self, small_channels: int, name=None, dtype=None, trainable=True, **kwargs):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.small_channels = small_channels
        self.full = FusedBatchNormalization(name="full", dtype=self.dtype_policy, trainable=trainable, **kwargs)
        self.small = FusedBatchNormalization(name="small", dtype=self.dtype_policy, trainable=trainable, **kwargs)

    def build(self, input_shape):
        """Creates both sets of weights."""
        full, small = _pair(self, input_shape)
        if small[-1] != self.small_channels:
            raise ValueError(
                f"Layer '{self.name}' expects x_small with {self.small_channels} channels (`small_channels`). "
                f"Received: shape {tuple(small)}."
            )
        self.full.build(full)
        self.small.build(small)

    def call(self, inputs, training=None):
        """Normalises each path by its own statistics."""
        full, small = _pair(self, inputs)
        return [self.full(full, training=training), self.small(small, training=training)]

    def compute_output_shape(self, input_shape):
        """The shapes of the pair, unchanged."""
        return list(_pair(self, input_shape))

    def get_config(self):
        """The configuration from which the layer can be made again."""
        own = {"name", "trainable", "dtype"}
        settings = {key: value for key, value in self.full.get_config().items() if key not in own}
        return {**super().get_config(), "small_channels": self.small_channels, **settings}
