"""Keras' batch normalisation on TensorFlow's fused kernel."""

from __future__ import annotations

import keras
from keras import ops

# What the kernel takes; anything else is left to Keras.
_DTYPES = ("float32", "float16", "bfloat16")


def replicas() -> int:
    """On how many devices the current TensorFlow strategy trains; 1 without one and on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def check_synchronized(layer: keras.Layer) -> None:
    """Checks that the batch normalisations of a network see the whole batch.

    Args:
        layer: A network, or one of its layers.

    Raises:
        ValueError: If several devices train and a batch normalisation would use the statistics of one of them.
    """
    if replicas() == 1:
        return
    for inner in getattr(layer, "layers", []):
        check_synchronized(inner)
    if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
        raise ValueError(
            "Expected batch normalisations with the statistics of all devices. Received: layer "
            f"'{layer.name}' with synchronized=False. "
            "`tfjointrd.surgery.swap.with_fused_batch_normalization(network)` changes all of them."
        )


@keras.saving.register_keras_serializable(package="tfjointrd")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that trains faster on TensorFlow and is otherwise `keras.layers.BatchNormalization`.

    Keras composes the training step from general operations. TensorFlow has one kernel for the forward pass and one for
    its gradient; with them a training step of CIFAR ResNet-20 on two cores takes about a third less time. Arguments,
    configuration, weights and results are those of Keras' layer, so the two can take each other's place.

    The kernel serves training on images with channels last, on the TensorFlow backend. Everywhere else (inference,
    other backends, other ranks or axes, masks, `synchronized=True`, `renorm=True`, float64) Keras' own code runs.

    Under a TensorFlow strategy with several devices the layer is synchronised without being told: statistics are those
    of the whole batch. The configuration keeps `synchronized` as it was given.

    Args:
        **kwargs: Those of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Tensor `(batch, height, width, channels)`, or of any shape Keras' layer takes.
        training: Whether to normalise by the statistics of the batch and to update the moving ones.
        mask: Boolean tensor `(batch, height, width)` or `None`.

    Returns:
        Tensor of the shape of `inputs`.

    Example:

    >>> layer = FusedBatchNormalization(momentum=0.9)
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 3)), training=True).shape)
    (2, 8, 8, 3)
    """

    @property
    def synchronized(self) -> bool:
        """Whether the statistics are those of all devices together."""
        return self._synchronized or replicas() > 1

    @synchronized.setter
    def synchronized(self, value: bool):
        self._synchronized = value

    def call(self, inputs, training=None, mask=None):
        """Normalises `inputs`."""
        if training and self.trainable and mask is None and self._fits_kernel(inputs):
            return self._fused(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _fits_kernel(self, inputs) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) in _DTYPES
            and not self.synchronized
            and not getattr(self, "renorm", False)  # newer than the oldest Keras that will do
        )

    def _fused(self, inputs):
        import tensorflow as tf

        channels = inputs.shape[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.cast(self.gamma, "float32") if self.scale else tf.ones(channels),
            offset=ops.cast(self.beta, "float32") if self.center else tf.zeros(channels),
            mean=tf.zeros(0),
            variance=tf.zeros(0),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel divides the sum of squares by n - 1, Keras by n.
        count = tf.cast(tf.size(inputs) // channels, "float32")
        self._update(self.moving_mean, mean)
        self._update(self.moving_variance, variance * (tf.maximum(count - 1, 1) / count))
        return ops.cast(outputs, self.compute_dtype)

    def _update(self, moving, value):
        moving.assign(ops.cast(moving, "float32") * self.momentum + value * (1 - self.momentum))

    def get_config(self):
        """The configuration from which the layer can be made again."""
        return {**super().get_config(), "synchronized": self._synchronized}
