"""Convolutions parameterised as an identity plus a correction."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="tfjointrd")
class DiracConv2D(keras.layers.Conv2D):
    """Convolution by the kernel alpha * delta + beta * W: an identity that learns to differ from one.

    delta is the Dirac kernel: convolving with it copies input channel i to output channel i, for as many channels as
    both have. alpha and beta are one trainable number an output channel. A plain network made of such layers starts,
    and learns, much like a residual one; after the training each layer is an ordinary convolution, see
    `tfjointrd.fold`.

    Leave alpha and beta out of weight decay: `optimizer.exclude_from_weight_decay(var_names=["alpha", "beta"])`. An
    ordinary `keras.Model` does not save that, so compile it anew to train it on; `JointRD` and `Distillation` do.

    Args:
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        alpha: Initial weight of the identity.
        beta: Initial weight of the kernel W.
        tap: Row and column of the kernel where the identity stands; its centre by default. `tfjointrd.dirac` sets it
            where the padding "same" of a strided convolution centres kernels beside the pixels that a shortcut takes.
        **kwargs: Those of `keras.layers.Conv2D`.

    Call arguments:
        inputs: Tensor `(batch, height, width, channels)`.

    Returns:
        Tensor `(batch, new_height, new_width, filters)`.

    Raises:
        ValueError: If the convolution has groups, or `tap` lies outside the kernel.

    Example:

    >>> layer = DiracConv2D(8, 3, padding="same", beta=0.0)
    >>> x = keras.random.normal((1, 4, 4, 8))
    >>> bool(keras.ops.all(layer(x) == x))
    True

    Reference:
        DiracNets (https://arxiv.org/abs/1706.00388), Eqn 3, without its normalisation of W, as the authors of Residual
        Distillation use it.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        *args,
        alpha: float = 1.0,
        beta: float = 0.1,
        tap: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, *args, **kwargs)
        if self.groups > 1:
            raise ValueError(f"Expected `groups` to be 1. Received: groups={self.groups}, in layer '{self.name}'.")
        self.initial = {"alpha": float(alpha), "beta": float(beta)}
        self.tap = None if tap is None else tuple(tap)
        delta((*self.kernel_size, 1, 1), self.tap)  # refuses a tap outside the kernel

    def build(self, input_shape):
        """Creates the kernel W, alpha and beta."""
        super().build(input_shape)
        self.alpha, self.beta = (
            self.add_weight(name=name, shape=(self.filters,), initializer=keras.initializers.Constant(value))
            for name, value in self.initial.items()
        )

    def effective_kernel(self):
        """The kernel of the ordinary convolution that this layer is, `(height, width, channels, filters)`."""
        identity = ops.convert_to_tensor(delta(self.kernel.shape, self.tap), dtype=self.compute_dtype)
        alpha, beta, kernel = (ops.cast(part, self.compute_dtype) for part in (self.alpha, self.beta, self.kernel))
        return alpha * identity + beta * kernel

    def convolution_op(self, inputs, kernel):
        """The convolution by the effective kernel, whatever the kernel that Keras hands over."""
        return super().convolution_op(inputs, self.effective_kernel())

    def save_own_variables(self, store):
        """Kernel and bias as Keras saves them, and alpha and beta, of which its convolutions know nothing."""
        super().save_own_variables(store)
        if self.built:
            store["alpha"], store["beta"] = self.alpha, self.beta

    def load_own_variables(self, store):
        """What `save_own_variables` saved."""
        super().load_own_variables(store)
        if self.built:
            self.alpha.assign(store["alpha"])
            self.beta.assign(store["beta"])

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), **self.initial, "tap": self.tap}


def delta(shape: tuple[int, int, int, int], tap: tuple[int, ...] | None = None) -> np.ndarray:
    """The Dirac kernel: one at `tap`, from each input channel to the output channel of its number.

    Args:
        shape: `(height, width, channels, filters)`.
        tap: Row and column; the centre by default.

    Returns:
        Float32 array of that shape. Filters beyond the number of channels are zero.

    Raises:
        ValueError: If `tap` lies outside the kernel.
    """
    height, width, channels, filters = shape
    row, column = ((height - 1) // 2, (width - 1) // 2) if tap is None else tap
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"Expected `tap` to lie within a kernel of {height}x{width}. Received: tap={tap}.")
    kernel = np.zeros(shape, "float32")
    positions = np.arange(min(channels, filters))
    kernel[row, column, positions, positions] = 1.0
    return kernel
