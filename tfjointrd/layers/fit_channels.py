"""A tensor made as wide as another one without weights: zero channels appended, or channels cut off."""

from __future__ import annotations

import keras
from keras import ops

from tfjointrd.layers.adjoined import take


@keras.saving.register_keras_serializable(package="tfjointrd")
class FitChannels(keras.layers.Layer):
    """Gives a tensor `filters` channels: zeros are appended to its own, or its last ones are cut off.

    Together with a subsampling layer this is shortcut type A: it joins a tensor to a wider branch and has no weights.
    In a narrowed network the branch may be the narrower of the two; then only the first channels pass.

    Args:
        filters: Number of channels of the output.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.

    Returns:
        Tensor of shape `(batch, ..., filters)`: the first channels of the input, then zeros.

    Raises:
        ValueError: If `filters` is not a positive integer.

    Example:

    >>> tuple(FitChannels(4)(keras.ops.ones((1, 1, 1, 3))).shape)
    (1, 1, 1, 4)

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

    def call(self, inputs):
        """The input's first `filters` channels, with zero channels behind them where it has fewer."""
        missing = self.filters - inputs.shape[-1]
        if missing <= 0:
            return take(inputs, self.filters)
        return ops.pad(inputs, [*[(0, 0)] * (len(inputs.shape) - 1), (0, missing)])

    def compute_output_shape(self, input_shape):
        """The input's shape with `filters` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "filters": self.filters}
