"""What all training methods share: progress through the training, compilation, and early checks of the labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from tfjointrd.data.batches import with_first
from tfjointrd.surgery.tasks import compiled_loss
from tfjointrd.training.objective import Objective
from tfjointrd.training.optimizers import OptimizerPair, exclude, undecayed
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
            self.model.begin_training()

    def on_epoch_end(self, epoch, logs=None):
        """Lets callbacks that call the model see what it is after the epoch."""
        self.model.before_evaluation()


def serialized(network: keras.Model) -> dict[str, Any]:
    """A network's configuration without how it was compiled: where it is loaded, a loss of its own may not be known."""
    compiled, network.compiled = network.compiled, False
    try:
        return keras.saving.serialize_keras_object(network)
    finally:
        network.compiled = compiled


def _loss_of(network: keras.Model) -> tuple[Any, Any]:
    """The loss and the loss weights that a network was compiled with, or that it has taken over itself."""
    if not isinstance(network, ScheduledModel):
        return compiled_loss(network)
    given = network._compile_arguments
    own = getattr(given, "loss", None), getattr(given, "loss_weights", None)
    return network._taken_over.loss if own[0] is None else own


class ScheduledModel(keras.Model):
    """A `keras.Model` whose loss changes over the training and that is saved and resumed like any other.

    A program that loads its `.keras` file imports `tfjointrd` first, by which Keras knows the class.

    Subclasses hold finished networks, and define `call`, `compute_loss`, `objectives` and `get_config`.

    Attributes:
        step: Number of training steps taken since epoch 0, a non-trainable weight. It counts with the optimizer, and
            unlike the optimizer's own counter it is visible to the loss on every backend.
        total_steps: Number of steps of the whole training, a non-trainable weight; set by `fit`, and to be set ahead
            of `train_on_batch`.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name)
        # "int" as Keras counts its own steps: on a GPU, TensorFlow keeps int32 variables where XLA does not reach them.
        self.step = self.add_weight(
            name="step", shape=(), dtype="int", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )
        # Half precision, which mixed policies would read it in, ends at 65,504.
        self.total_steps = self.add_weight(
            name="total_steps", shape=(), dtype="float32", initializer="zeros", trainable=False, autocast=False
        )
        self._compile_arguments = SimpleNamespace()  # in which Keras does not look for metrics
        self._taken_over = SimpleNamespace(loss=(None, None))
        self._labels_seen = False

    def build(self, input_shape):
        """The networks inside are built already."""
        self.built = True

    def objectives(self) -> list[Objective]:
        """The losses of the networks inside that are trained on labels; first those of the network that comes out."""
        raise NotImplementedError(f"{type(self).__name__} does not define `objectives()`.")

    def route_metrics(self, metrics: list | dict | None) -> list | dict | None:
        """What Keras is told of the metrics given to `compile`."""
        return metrics

    def take_over_loss(self, *networks: keras.Model) -> None:
        """Notes the loss that the first of these networks was compiled with, if one was, as that of `compile`."""
        found = (_loss_of(network) for network in networks)
        self._taken_over = SimpleNamespace(loss=next((pair for pair in found if pair[0] is not None), (None, None)))

    # === compile, and the same again after loading ===

    def compile(self, optimizer="rmsprop", loss=None, metrics=None, **kwargs):
        """Configures the training.

        Args:
            optimizer: As for `keras.Model.compile`.
            loss: The loss on your labels, as for `keras.Model.compile`; for several outputs one for all, a list, or a
                dict by the outputs' names. By default the one that the network was compiled with, and else one that
                fits network and labels: cross-entropy of classes, from integer or one-hot labels and from logits or
                probabilities as the network returns them; binary cross-entropy for a sigmoid, or for one output and
                labels 0 and 1; the mean squared error for other numbers. Where labels fit several of these, `fit`
                says so.
            metrics: As for a `keras.Model` with one output, e.g. `["accuracy"]`. For several outputs the same list for
                all, or as Keras takes them: a list with an entry for each output, or a dict by the outputs' names.
            **kwargs: As for `keras.Model.compile`.

        Raises:
            ValueError: If `loss` is for classes and the network has one output, or an argument does not fit the
                outputs.
        """
        weights = kwargs.get("loss_weights")
        if loss is None:
            loss, taken = self._taken_over.loss
            if weights is None and taken is not None:
                weights = kwargs["loss_weights"] = taken
        for objective in self.objectives():
            objective.take(loss, weights)
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
            ValueError: If labels, those of the validation too, do not fit the outputs, the data's length is unknown and
                the loss changes over the training, or `callbacks` is a `keras.callbacks.CallbackList`. Of a data set
                the first batch is looked at.
        """
        x = self._check_labels(x, y)
        validation = kwargs.get("validation_data")
        if validation is not None:
            kwargs["validation_data"] = self._check_validation(validation)
        callbacks = [_Progress(kwargs.get("initial_epoch", 0)), *self.with_own(callbacks)]
        return super().fit(x, y, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch` does, one step of a training whose length is known.

        Raises:
            ValueError: If the loss changes over the training, and its length was not set; or if labels, the first that
                come, do not fit the outputs.
        """
        changing = self.changing()
        if changing and not float(ops.convert_to_numpy(self.total_steps.value)):
            raise ValueError(
                f"Expected the length of the training, over which `{changing[0]}` changes: call "
                "`model.total_steps.assign(number_of_steps)` first. Received: total_steps=0."
            )
        self._check_batch(*args, **kwargs)
        results = super().train_on_batch(*args, **kwargs)
        self.before_evaluation()
        return results

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch` does.

        Raises:
            ValueError: If labels, the first that come, do not fit the outputs.
        """
        self._check_batch(*args, **kwargs)
        return super().test_on_batch(*args, **kwargs)

    def _check_batch(self, x=None, y=None, *args, **kwargs) -> None:
        """Looks at the first labels that come batch by batch."""
        if not self._labels_seen:
            self.check_labels(y)

    def changing(self) -> list[str]:
        """Names of the arguments by which the loss changes over the training."""
        return [key for key, value in vars(self).items() if isinstance(value, Schedule) and not value.constant]

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does.

        Raises:
            ValueError: If labels do not fit the outputs.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # by which `fit` evaluates, after each epoch
            x = self._check_labels(x, y, again=not self._labels_seen)
        return super().evaluate(x, y, *args, **kwargs)

    def _check_validation(self, data: Any) -> Any:
        if isinstance(data, (tuple, list)) and len(data) in (2, 3):
            self._check_labels(data[0], data[1], " of `validation_data`", again=False)
            return data
        return self._check_labels(data, None, " of `validation_data`", again=False)

    def _check_labels(self, x, y, place: str = "", again: bool = True) -> Any:
        """Looks at the labels given as an array, or at the first batch of a data set.

        Args:
            x: Images or a data set.
            y: Labels, or `None`.
            place: Where they come from, for messages.
            again: Whether what outputs are for is asked anew of these labels.

        Returns:
            `x`; of a generator, one from which nothing is missing.
        """
        if y is None:
            batch, x = with_first(x)
            if batch is None:
                return x
            y = batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
        self.check_labels(y, place, again)
        return x

    def check_labels(self, y, place: str = "", again: bool = True) -> None:
        """Looks at labels, and takes from them what outputs are for where networks and losses have not told.

        Args:
            y: The labels of all outputs.
            place: Where they come from, for messages.
            again: Whether to forget what earlier labels told.

        Raises:
            ValueError: If they do not fit.
        """
        if any([objective.settle(y, place, again) for objective in self.objectives()]):
            self.train_function = self.test_function = None  # which were traced for something else
        self._labels_seen = True

    def with_own(self, callbacks: Any) -> list[keras.callbacks.Callback]:
        """The callbacks given to `fit`, which are looked at, behind the training's own.

        Raises:
            ValueError: If one does not serve this training.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):  # which `fit` hands on as it is
            raise ValueError(f"Expected `callbacks` to be a list of callbacks. Received: callbacks={callbacks!r}.")
        given = keras.tree.flatten(callbacks or ())
        optimizer = getattr(self, "optimizer", None)
        pair = isinstance(getattr(optimizer, "inner_optimizer", optimizer), OptimizerPair)
        if pair and any(isinstance(callback, keras.callbacks.SwapEMAWeights) for callback in given):
            raise ValueError(
                f"Expected other callbacks for '{self.name}', which is trained by two optimizers: Keras' callback "
                "looks for the averages of one. They take the weights' places at the end of `fit`. Received: "
                "SwapEMAWeights."
            )
        self.check_callbacks(given)
        return [*self.own_callbacks(), *given]

    def check_batch_size(self, size: int) -> None:
        """Looks at the number of images a step; takes any by default."""

    def own_callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks that each training needs, ahead of those given to `fit`; none by default."""
        return []

    def check_callbacks(self, callbacks: list) -> None:
        """Looks at callbacks given to `fit`; takes all by default."""

    def metrics_given(self) -> list:
        """The metrics given to `compile`."""
        given = vars(self._compile_arguments)
        return [given.get("metrics") or [], given.get("weighted_metrics") or []]

    def begin_training(self) -> None:
        """Called when a training begins at its first step; a resumed one gets its state back afterwards."""

    def before_evaluation(self) -> None:
        """Called wherever training pauses and the model may be called: ahead of evaluation, after a step by hand."""

    def count_step(self) -> None:
        """Counts one training step."""
        self.step.assign(self.step + 1)
