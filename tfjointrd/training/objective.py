"""The losses of a network's outputs, and how far they are from another network's.

The divergence belongs to the output: KL of softmax probabilities for classes, KL of yes and no for a sigmoid or a
binary loss, the squared error for numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfjointrd.data.labels import BINARY, CLASSES, NUMBERS
from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery.output_activation import SIGMOID, SOFTMAX, named_outputs
from tfjointrd.surgery.tasks import Task
from tfjointrd.training import losses
from tfjointrd.training.precision import loss_dtype

# What `divergence=` takes, by the kind of output that it is the default of.
DIVERGENCES = {CLASSES: "kullback_leibler", BINARY: "bernoulli", NUMBERS: "squared_error"}
KINDS_OF_DIVERGENCES = {name: kind for kind, name in DIVERGENCES.items()}
Divergence = str | Callable | Mapping[str, "str | Callable"] | Sequence["str | Callable"] | None


class FunctionLoss(keras.losses.Loss):
    """A loss function, with Keras' reduction over the batch and sample weights."""

    def __init__(self, function):
        super().__init__(name="loss")
        self.function = function

    def call(self, y_true, y_pred):
        """The losses of the single images; labels or outputs get or lose a last axis of 1, as in `Model.compile`."""
        y_true, y_pred = (ops.convert_to_tensor(value) for value in (y_true, y_pred))
        more = len(y_pred.shape) - len(y_true.shape)
        if more == 1 and y_pred.shape[-1] == 1:
            if len(y_true.shape) == 1:
                y_true = ops.expand_dims(y_true, -1)
            else:
                y_pred = ops.squeeze(y_pred, -1)
        elif more == -1 and y_true.shape[-1] == 1:
            y_true = ops.squeeze(y_true, -1)
        return self.function(y_true, y_pred)


def as_loss(loss) -> keras.losses.Loss | None:
    """A loss as `compile` takes it, as an object."""
    loss = keras.losses.get(loss)
    return loss if loss is None or isinstance(loss, keras.losses.Loss) else FunctionLoss(loss)


class Objective:
    """The losses and divergences of all outputs of a network.

    Args:
        tasks: The outputs' tasks; see `tfjointrd.surgery.tasks.tasks_of`.
        divergence: What two networks' outputs are compared by: `"kullback_leibler"`, `"bernoulli"`,
            `"squared_error"`, or a function `(full, small) -> (batch, ...)` of outputs as they are; for several outputs
            also a list or a dict. By default that of the task.

    Attributes:
        tasks: The tasks, as far as loss and labels have told.
        weights: The weight of each output.
    """

    def __init__(self, tasks: Sequence[Task], divergence: Divergence = None):
        self.names = [task.name for task in tasks]
        self._unlabelled = self.tasks = list(tasks)
        self.take(None)
        self.divergences = self.by_output(divergence, "divergence", same=True)
        for task, one in zip(self.tasks, self.divergences, strict=True):
            _check_divergence(task, one)

    def by_output(self, value: Any, argument: str, same: bool) -> list:
        """An argument, one for each output, in their order.

        Args:
            value: One for all, a list, or a dict by the outputs' names.
            argument: What it is called.
            same: Whether one value serves all.

        Raises:
            ValueError: If it is none of these.
        """
        if isinstance(value, Mapping):
            if set(value) != set(self.names):
                raise ValueError(f"Expected `{argument}` by output: {self.names}. Received: {sorted(value)}.")
            return [value[name] for name in self.names]
        if isinstance(value, (list, tuple)) and len(value) == len(self.names):
            return list(value)
        if len(self.names) == 1 or same:
            return [value] * len(self.names)
        raise ValueError(
            f"Expected `{argument}` to be a list or a dict, one for each of {self.names}. Received: {value!r:.200}."
        )

    def by_keys(self, value: Any, argument: str, keys: Sequence[Sequence[str]]) -> dict | None:
        """Labels or weights for each output of each path, or `None`.

        Args:
            value: As for `by_output`.
            argument: See `value`; all outputs may have the same `sample_weight`.
            keys: For each path, the keys of its outputs.
        """
        if value is None:
            return None
        values = self.by_output(value, argument, same=argument == "sample_weight")
        return {key: one for own in keys for key, one in zip(own, values, strict=True)}

    def route(self, metrics: Any, keys: Sequence[Sequence[str]] | None = None) -> Any:
        """Metrics given to `compile`, once for each output of each path; those by keys as they are.

        Args:
            metrics: One list for all outputs. For several outputs also, as Keras takes them, a dict, or a list with an
                entry for each output.
            keys: As for `by_keys`; by default the outputs' names, of which a single one is not named.
        """
        if keys is None:
            if len(self.names) == 1:
                return metrics
            keys = [self.names]
        every = {key for own in keys for key in own}
        if metrics is None or (isinstance(metrics, Mapping) and set(metrics) <= every):
            return metrics
        one_each = len(metrics) == len(self.names) > 1 or any(isinstance(one, (list, tuple)) for one in metrics)
        by_output = self.by_output(metrics, "metrics", same=False) if one_each or isinstance(metrics, Mapping) else None
        return {
            key: [_copy(metric) for metric in (metrics if by_output is None else _as_list(by_output[i]))]
            for own in keys
            for i, key in enumerate(own)
        }

    def for_metrics(self, y: Any, outputs: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Labels, outputs and weights as Keras' metrics take them: of several outputs dicts by their names."""
        if len(self.names) == 1:
            return y, outputs, sample_weight
        keys = [self.names]
        outputs = named_outputs(self.names, outputs)
        return self.by_keys(y, "y", keys), outputs, self.by_keys(sample_weight, "sample_weight", keys)

    # === Losses and labels ===

    def take(self, loss: Any, weights: Any = None) -> None:
        """Takes the losses given to `compile`, `None` for the default ones, and their weights.

        In a list or dict, `None` is no loss, as for Keras.
        """
        self.given = loss is not None
        given = self.by_output(loss, "loss", same=True)
        self.losses = [as_loss(one) for one in given]
        self.weights = [1.0] * len(given) if weights is None else self.by_output(weights, "loss_weights", same=False)
        self._unlabelled = [task.with_loss(one) for task, one in zip(self._unlabelled, given, strict=True)]
        self.tasks = list(self._unlabelled)

    def settle(self, y: Any, place: str = "", again: bool = True) -> bool:
        """Looks at labels, and takes from them what outputs are for where nothing else has told.

        Args:
            y: The labels of all outputs.
            place: Where they come from, for messages.
            again: Whether to forget what earlier labels told.

        Returns:
            Whether something is now taken for something else.

        Raises:
            ValueError: If labels do not fit; the message says what to do.
        """
        before = self.tasks
        known = zip(self._unlabelled if again else before, self.losses, self.by_output(y, "y", same=False), strict=True)
        several = len(self.names) > 1
        self.tasks = [
            task
            if self.given and loss is None
            else task.with_labels(labels, f"{place} for output '{task.name}'" if several else place)
            for task, loss, labels in known
        ]
        for task, divergence in zip(self.tasks, self.divergences, strict=True):
            if task.kind is None and divergence is None and task.loss:
                warnings.warn(
                    f"Nothing tells what output '{task.name}' is for: its loss is not one of Keras', and its labels "
                    f"fit several kinds. It is compared by '{DIVERGENCES[task.compared]}' where networks are; pass "
                    f"`divergence`, one of {', '.join(DIVERGENCES.values())} or a function, to say so.",
                    stacklevel=stacklevel_outside_the_package(),
                )
        return [task.assumed for task in before] != [task.assumed for task in self.tasks]

    def loss(self, y: Any, outputs: Sequence, sample_weight: Any = None):
        """The weighted sum of the outputs' losses, a scalar."""
        labels = self.by_output(y, "y", same=False)
        weights = self.by_output(sample_weight, "sample_weight", same=True)
        total = 0.0
        for i, (output, own) in enumerate(zip(outputs, labels, strict=True)):
            function = self._loss_of(i, own)
            if function is not None:
                value = function(own, ops.cast(output, loss_dtype()), weights[i])
                total = total + self.weights[i] * value
        return total

    def _loss_of(self, i: int, y) -> keras.losses.Loss | None:
        """The loss of one output; the default one by the shape of its labels."""
        if self.given:
            return self.losses[i]
        task = self.tasks[i]
        one_hot = len(y.shape) == len(task.shape) and y.shape[-1] == task.channels != 1
        return task.default_loss(one_hot)

    def weight_of_images(self, sample_weight: Any):
        """One weight for each image or position: where several outputs have their own, the mean of the images'."""
        if not isinstance(sample_weight, (Mapping, list, tuple)):
            return sample_weight
        given = [one for one in self.by_output(sample_weight, "sample_weight", same=True) if one is not None]
        if not given:
            return None
        flat = [ops.reshape(ops.cast(one, loss_dtype()), (ops.shape(one)[0], -1)) for one in given]
        return sum(ops.mean(one, axis=-1) for one in flat) / len(flat)

    # === Divergences ===

    def divergence(self, full: Sequence, small: Sequence, sample_weight: Any = None, epsilon: float | None = None):
        """How far a small network's outputs are from the full one's: the weighted sum over the outputs, a scalar.

        Args:
            full: The full network's outputs.
            small: The small network's, which end in the same.
            sample_weight: Weights of the images, or `None`.
            epsilon: As for `tfjointrd.training.losses.divergence`.
        """
        weights = self.by_output(sample_weight, "sample_weight", same=True)
        total = 0.0
        for task, given, p, q, scale, weight in zip(
            self.tasks, self.divergences, full, small, self.weights, weights, strict=True
        ):
            kind = task.compared if given is None else KINDS_OF_DIVERGENCES.get(given)
            if callable(given):
                value = losses.weighted_mean(given(*(ops.cast(one, loss_dtype()) for one in (p, q))), weight)
            elif kind == NUMBERS:
                value = losses.squared_error(p, q, weight)
            elif kind == BINARY:
                value = losses.bernoulli(p, q, task.probabilities, epsilon, weight)
            else:
                value = losses.divergence(p, q, task.probabilities, epsilon, weight)
            total = total + scale * value
        return total

    def weighted(self, values: Sequence, sample_weight: Any = None):
        """The weighted sum over the outputs of the means of what each image has, a scalar.

        Args:
            values: `(batch, ...)` for each output.
            sample_weight: Weights of the images, or `None`.
        """
        weights = self.by_output(sample_weight, "sample_weight", same=True)
        means = map(losses.weighted_mean, values, weights)
        return sum(scale * mean for scale, mean in zip(self.weights, means, strict=True))


def _as_list(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _copy(metric):
    """A metric of its own for each output."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.Metric) else metric


def as_logits(output, kind: str, ending: str | None):
    """Logits of an output: itself, or the logarithms of its probabilities."""
    output = ops.cast(output, loss_dtype())
    if ending is None:
        return output
    logits = ops.log(output + 1e-7)
    return logits - ops.log(1 - output + 1e-7) if kind == BINARY else logits


def serialize_divergence(divergence: Divergence) -> Any:
    """As `get_config` needs it."""
    if isinstance(divergence, Mapping):
        return {name: serialize_divergence(one) for name, one in divergence.items()}
    if isinstance(divergence, (list, tuple)):
        return [serialize_divergence(one) for one in divergence]
    return divergence if isinstance(divergence, (str, type(None))) else keras.saving.serialize_keras_object(divergence)


def deserialize_divergence(config: Any, custom_objects=None) -> Any:
    """What `serialize_divergence` was given."""
    if isinstance(config, (str, type(None))) or callable(config):
        return config
    if isinstance(config, Mapping) and "class_name" in config:
        return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
    if isinstance(config, Mapping):
        return {name: deserialize_divergence(one, custom_objects) for name, one in config.items()}
    return [deserialize_divergence(one, custom_objects) for one in config]


def _check_divergence(task: Task, divergence: Any) -> None:
    if divergence is None or callable(divergence):
        return
    if divergence not in DIVERGENCES.values():
        raise ValueError(
            f"Expected `divergence` to be one of {', '.join(DIVERGENCES.values())}, or a function of the full and the "
            f"small network's output. Received: divergence={divergence!r}."
        )
    wrong = {DIVERGENCES[CLASSES]: SIGMOID, DIVERGENCES[BINARY]: SOFTMAX}.get(divergence)
    if task.ending == wrong and wrong is not None or (divergence == DIVERGENCES[CLASSES] and task.channels == 1):
        raise ValueError(
            f"Expected `divergence` to fit output '{task.name}', {task.channels} channel(s) that end in "
            f"{task.ending or 'no activation'}. Received: divergence='{divergence}'."
        )
