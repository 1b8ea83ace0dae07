"""What all training methods share: progress through the training, compilation, and early checks of the labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from tfjointrd.training.optimizers import exclude, undecayed
from tfjointrd.training.schedules import Schedule


class _Progress(keras.callbacks.Callback):
    """Tells the model the length of the training, which its schedules need."""

    def __init__(self, initial_epoch: int):
        super().__init__()
        self.initial_epoch = initial_epoch

    def on_test_begin(self, logs=None):
        """Called before each evaluation."""
        self.model.before_evaluation()

    def on_train_begin(self, logs=None):
        """Called by Keras once it knows the number of steps an epoch."""
        steps, changing = self.params.get("steps"), self.model.changing()
        if steps:
            self.model.total_steps.assign(float(steps * self.params["epochs"]))
            self.model.step.assign(steps * self.initial_epoch)
        elif changing:
            raise ValueError(
                f"Expected data of known length, since `{changing[0]}` changes over the training. Received: a data set "
                "without a length. Pass `steps_per_epoch` to `fit`."
            )
        if not self.initial_epoch:
            self.model.begin()

    def on_epoch_end(self, epoch, logs=None):
        """Lets callbacks that call the model see what it is after the epoch."""
        self.model.before_evaluation()


class _FunctionLoss(keras.losses.Loss):
    """A loss function, with Keras' reduction over the batch and sample weights."""

    def __init__(self, function):
        super().__init__(name="loss")
        self.function = function

    def call(self, y_true, y_pred):
        """The losses of the single images."""
        return self.function(y_true, y_pred)


def _as_loss(loss) -> keras.losses.Loss:
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else _FunctionLoss(loss)


def serialized(network: keras.Model) -> dict[str, Any]:
    """A network's configuration without how it was compiled: where it is loaded, a loss of its own may not be known."""
    compiled, network.compiled = network.compiled, False
    try:
        return keras.saving.serialize_keras_object(network)
    finally:
        network.compiled = compiled


class ScheduledModel(keras.Model):
    """A `keras.Model` whose loss changes over the training and that is saved and resumed like any other.

    A program that loads its `.keras` file imports `tfjointrd` first, by which Keras knows the class.

    Subclasses hold finished networks, and define `call`, `compute_loss`, `default_losses` and `get_config`.

    Attributes:
        step: Number of training steps taken since epoch 0, a non-trainable weight. It counts with the optimizer, and
            unlike the optimizer's own counter it is visible to the loss on every backend.
        total_steps: Number of steps of the whole training, a non-trainable weight; set by `fit`, and to be set ahead
            of `train_on_batch`.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name)
        self.step = self.add_weight(
            name="step", shape=(), dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )
        # Half precision, which mixed policies would read it in, ends at 65,504.
        self.total_steps = self.add_weight(
            name="total_steps", shape=(), dtype="float32", initializer="zeros", trainable=False, autocast=False
        )
        self._compile_arguments = SimpleNamespace()  # in which Keras does not look for metrics

    def build(self, input_shape):
        """The networks inside are built already."""
        self.built = True

    def num_classes(self) -> int:
        """Number of classes of the networks inside."""
        raise NotImplementedError(f"{type(self).__name__} does not define `num_classes()`.")

    def set_loss(self, loss: keras.losses.Loss | None) -> None:
        """Takes the loss given to `compile`, or `None` for the default."""
        raise NotImplementedError(f"{type(self).__name__} does not define `set_loss(loss)`.")

    def as_loss(self, loss):
        """A loss given to `compile`, as `set_loss` takes it."""
        return _as_loss(loss)

    def set_loss_weights(self, weights) -> None:
        """Takes the weights of several outputs' losses."""
        if weights is not None:
            raise ValueError(f"Expected no `loss_weights` for one loss. Received: loss_weights={weights}.")

    def route_metrics(self, metrics: list | dict | None) -> list | dict | None:
        """What Keras is told of the metrics given to `compile`."""
        return metrics

    # === compile, and the same again after loading ===

    def compile(self, optimizer="rmsprop", loss=None, metrics=None, **kwargs):
        """Configures the training.

        Args:
            optimizer: As for `keras.Model.compile`.
            loss: Cross-entropy for your labels, as for `keras.Model.compile`. By default integer labels are expected,
                and logits or probabilities are told apart by the network's last layer; for one output, or several of a
                sigmoid, labels 0 and 1.
            metrics: As for a `keras.Model` with one output, e.g. `["accuracy"]`.
            **kwargs: As for `keras.Model.compile`.
        """
        self.set_loss(None if loss is None else self.as_loss(loss))
        self.set_loss_weights(kwargs.get("loss_weights"))
        for name, value in (("metrics", metrics), ("weighted_metrics", kwargs.get("weighted_metrics"))):
            if isinstance(value, str):
                raise ValueError(f"Expected `{name}` to be a list. Received: {name}='{value}'.")
        arguments = {"loss": loss, "metrics": metrics, **kwargs}
        routed = {key: self.route_metrics(value) if "metrics" in key else value for key, value in arguments.items()}
        super().compile(optimizer=optimizer, **{**routed, "loss": None, "loss_weights": None})
        self._compile_arguments = SimpleNamespace(**arguments)

    def get_compile_config(self):
        """The arguments of `compile`, serialised, and what else the training goes by.

        That is the dtype policy, by which the loss is scaled or not, and the positions of the variables that are
        excluded from weight decay, which Keras keeps of no optimizer.
        """
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "dtype_policy": keras.saving.serialize_keras_object(self.dtype_policy),
            "undecayed": undecayed(self.optimizer, self.trainable_variables),
            **{key: keras.saving.serialize_keras_object(value) for key, value in vars(self._compile_arguments).items()},
        }

    def compile_from_config(self, config):
        """Compiles again with the arguments from `get_compile_config`."""
        arguments = keras.saving.deserialize_keras_object(config)
        self.dtype_policy = arguments.pop("dtype_policy", self.dtype_policy)
        positions = arguments.pop("undecayed", [])
        self.compile(**arguments)
        variables = self.trainable_variables
        exclude(self.optimizer, [variables[i] for i in positions])
        self.optimizer.build(variables)

    # === fit ===

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs):
        """Trains as `keras.Model.fit` does.

        The schedules run from the first to the last of `epochs`; a training that is continued with `initial_epoch`
        goes on where it was. One that `keras.callbacks.BackupAndRestore` brings back keeps the length that it had.

        Raises:
            ValueError: If labels lie outside the classes, the data's length is unknown and the loss changes over the
                training, or `callbacks` is a `keras.callbacks.CallbackList`.
        """
        self._check_labels(x, y)
        if isinstance(callbacks, keras.callbacks.CallbackList):  # which `fit` hands on as it is
            raise ValueError(f"Expected `callbacks` to be a list of callbacks. Received: callbacks={callbacks!r}.")
        given = keras.tree.flatten(callbacks or ())
        self.check_callbacks(given)
        callbacks = [_Progress(kwargs.get("initial_epoch", 0)), *given]
        return super().fit(x, y, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch` does, one step of a training whose length is known.

        Raises:
            ValueError: If the loss changes over the training, and its length was not set.
        """
        changing = self.changing()
        if changing and not float(ops.convert_to_numpy(self.total_steps.value)):
            raise ValueError(
                f"Expected the length of the training, over which `{changing[0]}` changes: call "
                "`model.total_steps.assign(number_of_steps)` first. Received: total_steps=0."
            )
        results = super().train_on_batch(*args, **kwargs)
        self.before_evaluation()
        return results

    def changing(self) -> list[str]:
        """Names of the arguments by which the loss changes over the training."""
        return [key for key, value in vars(self).items() if isinstance(value, Schedule) and not value.constant]

    def _check_labels(self, x, y) -> None:
        """Looks at the labels given as an array, or at the first batch of a data set."""
        if y is None:
            batch = None
            if isinstance(x, keras.utils.PyDataset):
                batch = x[0]
            elif all(hasattr(x, name) for name in ("element_spec", "take")):  # a tf.data.Dataset, not distributed
                batch = next(iter(x.take(1)))
            y = batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
        if y is not None:
            self.check_labels(y)

    def check_labels(self, y) -> None:
        """Looks at labels.

        Raises:
            ValueError: If they lie outside the classes.
        """
        self.check_classes(y, self.num_classes())

    @staticmethod
    def check_classes(y, classes: int) -> None:
        """Looks at the labels of one output.

        Raises:
            ValueError: If they lie outside its classes.
        """
        y = np.asarray(y)
        sparse, highest = y.ndim == 1 or y.shape[-1] == 1, max(classes - 1, 1)
        if sparse and y.size and (y.min() < 0 or y.max() > highest):
            kind = f"{classes} classes" if classes > 1 else "one output"
            raise ValueError(
                f"Expected labels between 0 and {highest} for a network with {kind}. "
                f"Received: labels between {y.min()} and {y.max()}."
            )
        if not sparse and y.shape[-1] != classes:
            raise ValueError(f"Expected one-hot labels of {classes} classes. Received: labels of shape {y.shape}.")

    def check_callbacks(self, callbacks: list) -> None:
        """Looks at callbacks given to `fit`; takes all by default."""

    def metrics_given(self) -> list:
        """The metrics given to `compile`."""
        given = vars(self._compile_arguments)
        return [given.get("metrics") or [], given.get("weighted_metrics") or []]

    def begin(self) -> None:
        """Called when a training begins at its first step; a resumed one gets its state back afterwards."""

    def before_evaluation(self) -> None:
        """Called wherever training pauses and the model may be called: ahead of evaluation, after a step by hand."""

    def count_step(self) -> None:
        """Counts one training step."""
        self.step.assign(self.step + 1)
