"""What a training tells while it runs: when it will end, and its metrics for TensorBoard."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import keras

from tfjointrd.progress import Steps
from tfjointrd.stacklevel import stacklevel_outside_the_package


class TimeLeft(keras.callbacks.Callback):
    """Prints between epochs how many are done and when the training will end.

    Args:
        epochs: Number of epochs of the whole training.
        done: Number of those that are done already.
    """

    def __init__(self, epochs: int, done: int = 0):
        super().__init__()
        self.steps, self.text = Steps(epochs, done), ""

    def on_epoch_begin(self, epoch, logs=None):
        """Prints what the end of the epoch before has shown, below Keras' own line of that epoch."""
        if self.text:
            print(f"Epochs done: {self.text}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Counts."""
        self.text = self.steps.next()


class TensorBoard(keras.callbacks.Callback):
    """Writes the metrics of each epoch and the learning rate to files that TensorBoard shows.

    They are named and placed as by `keras.callbacks.TensorBoard`: `epoch_loss` in `train` and `validation`. That one
    needs the package tensorboard, and this one TensorFlow alone.

    Args:
        folder: Where the files go; made if need be.

    Raises:
        ImportError: If TensorFlow is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        try:
            import tensorflow  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"Expected TensorFlow, which writes the files for TensorBoard. Received: tensorboard='{folder}', and "
                f"{error}. Leave it out, or install TensorFlow."
            ) from error
        self.folder, self._writers = Path(folder), {}

    def on_train_begin(self, logs=None):
        """Opens the files of the training.

        Raises:
            OSError: If they cannot be written.
        """
        from tensorflow.errors import OpError

        try:
            self._writer("train").flush()
        except OpError as error:
            raise OSError(
                f"Expected a folder for TensorBoard that can be written. Received: tensorboard='{self.folder}' "
                f"({error.message})."
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        """Writes the metrics of an epoch; if that fails, on a full disk for example, it warns and goes on."""
        from tensorflow.errors import OpError

        try:
            self._write_all(epoch, logs or {})
        except OpError as error:
            self._warn(f"TensorBoard's files of epoch {epoch + 1}", error)

    def _write_all(self, epoch: int, logs: dict) -> None:
        parts = {"train": {}, "validation": {}}
        for name, value in logs.items():
            parts["validation" if name.startswith("val_") else "train"][name.removeprefix("val_")] = value
        parts["train"]["learning_rate"] = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        for part, values in parts.items():
            for name, value in values.items():
                self._write(part, f"epoch_{name}", float(value), epoch)
            if values:
                self._writers[part].flush()

    def on_train_end(self, logs=None):
        """Closes the files."""
        from tensorflow.errors import OpError

        for writer in self._writers.values():
            try:
                writer.close()
            except OpError as error:
                self._warn("The last of TensorBoard's files", error)
        self._writers.clear()

    def _warn(self, what: str, error) -> None:
        warnings.warn(
            f"{what} could not be written to '{self.folder}': {error.message}",
            stacklevel=stacklevel_outside_the_package(),
        )

    def _writer(self, part: str):
        import tensorflow as tf

        if part not in self._writers:
            self._writers[part] = tf.summary.create_file_writer(str(self.folder / part))
        return self._writers[part]

    def _write(self, part: str, tag: str, value: float, step: int) -> None:
        import tensorflow as tf

        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        with self._writer(part).as_default():
            tf.summary.write(tag, tf.constant(value), step=step, metadata=metadata)
