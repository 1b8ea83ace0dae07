"""Zero channels appended to a tensor: the shortcut without weights."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfjointrd")
class PadChannels(keras.layers.Layer):
    """Appends zero channels at the end of the last axis until there are `filters` of them.

    Together with a subsampling layer this is shortcut type A: it joins a narrow tensor to a wider branch and has no
    weights.

    Args:
        filters: Number of channels of the output, at least that of the input.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.

    Returns:
        Tensor of shape `(batch, ..., filters)`: the input's channels, then zeros.

    Raises:
        ValueError: If `filters` is not a positive integer, or if the input has more channels.

    Example:

    >>> PadChannels(4)(keras.ops.ones((1, 1, 1, 3)))[0, 0, 0]
    array([1., 1., 1., 0.], dtype=float32)

    Reference:
        Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385), section 3.3, option A.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        if isinstance(filters, bool) or not isinstance(filters, int) or filters < 1:
            raise ValueError(
                f"Expected `filters` of layer '{self.name}' to be a positive integer. Received: filters={filters!r}"
            )
        self.filters = filters

    def build(self, input_shape):
        """Checks that the input is not too wide; the layer has no weights."""
        self._missing(input_shape)

    def call(self, inputs):
        """The input with zero channels behind its own."""
        leading = [(0, 0)] * (len(inputs.shape) - 1)
        return ops.pad(inputs, [*leading, (0, self._missing(inputs.shape))])

    def compute_output_shape(self, input_shape):
        """The input's shape with `filters` channels."""
        self._missing(input_shape)
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "filters": self.filters}

    def _missing(self, input_shape) -> int:
        channels = input_shape[-1]
        if channels is None or channels > self.filters:
            raise ValueError(
                f"Layer '{self.name}' expects an input of at most filters={self.filters} channels. "
                f"Received: input of shape {tuple(input_shape)}"
            )
        return self.filters - channels
