"""What an output of a network is for: classes, yes or no, or numbers; its default loss, and which labels it takes.

Trainings and files all ask here. The kind of an output follows from the first of these that tells:

1. what the network ends in: a softmax gives classes, a sigmoid yes or no;
2. the loss: one of Keras' categorical losses, binary losses or losses for regression;
3. the labels: see `tfjointrd.data.labels`;
4. the number of channels: yes or no for one, classes for several.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.data.labels import BINARY, CLASSES, NUMBERS, Labels, check_labels, numeric
from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.output_activation import SIGMOID, SOFTMAX, UNNORMALIZED, final_activation, output_names
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.rules.activations import ends_in

_KINDS_OF_ENDINGS: dict[str | None, str] = {SOFTMAX: CLASSES, SIGMOID: BINARY}
_REGRESSION = (
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    *("huber", "log_cosh", "poisson", "cosine_similarity"),
)


@dataclass(frozen=True)
class Task:
    """What one output of a network is for.

    Attributes:
        name: The output's name.
        shape: Its shape, `(batch, ..., channels)`.
        ending: What it ends in: `"softmax"`, `"sigmoid"` or `None`; see `final_activation`.
        kind: `"classes"`, `"binary"` or `"numbers"`; `None` where only the labels will tell.
        loss: The name of the loss that was given, `None` for the default.
        partner: The kind of the output that it is compared with, where that one's network tells.
    """

    name: str
    shape: tuple[int | None, ...]
    ending: str | None = None
    kind: str | None = None
    loss: str | None = None
    partner: str | None = None

    @property
    def channels(self) -> int | None:
        """The number of classes, or of numbers."""
        return self.shape[-1]

    @property
    def assumed(self) -> str:
        """The kind; where nothing has told it, that which the number of channels suggests."""
        return self.kind or (BINARY if self.channels == 1 else CLASSES)

    @property
    def compared(self) -> str:
        """The kind by which it is compared with another network's: that of what it ends in comes first."""
        return _KINDS_OF_ENDINGS.get(self.ending) or self.assumed

    @property
    def probabilities(self) -> bool:
        """Whether the output is probabilities."""
        return self.ending is not None

    def beside(self, other: Task) -> Task:
        """The task of the same output when it is compared with another network's."""
        return replace(self, partner=_KINDS_OF_ENDINGS.get(other.ending))

    def with_loss(self, loss: Any) -> Task:
        """The task of the same output under a loss; of an unknown one, or `None` for the default, the labels tell.

        Raises:
            ValueError: If it is for several classes, and the output has one channel.
        """
        of_loss = kind_of_loss(loss)
        kind = _KINDS_OF_ENDINGS.get(self.ending) or of_loss or self.partner
        if self.ending == SIGMOID and of_loss == CLASSES:  # sigmoids of classes, which Keras' losses normalise
            kind = CLASSES
        if self.channels == 1 and of_loss == CLASSES:
            raise ValueError(
                f"Expected a `loss` for output '{self.name}' with one channel, such as "
                "`keras.losses.BinaryCrossentropy`. Received: "
                f"{_loss_name(loss)}, which needs an output for each class."
            )
        return replace(self, kind=kind, loss=None if loss is None else _loss_name(loss))

    def with_labels(self, y: Any, place: str = "") -> Task:
        """The task of the same output with these labels, which are looked at.

        Args:
            y: Labels.
            place: Where they come from, for messages: `" of `validation_data`"`.

        Raises:
            ValueError: If they do not fit; the message says what to do.
        """
        if self.loss and self.kind is None:  # a loss of the user's own, which may want any labels
            numeric(y, place)
            try:
                return replace(self, kind=check_labels(y, self.shape, None, place).kind)
            except ValueError:
                return self
        found = check_labels(y, self.shape, self.kind, place)
        if found.kind == CLASSES and self.channels != 1:
            self._check_form(found, y, place)
        return replace(self, kind=found.kind)

    def _check_form(self, found: Labels, y: Any, place: str) -> None:
        """Whether labels of classes come in the form that the loss takes."""
        shape = np.shape(y)
        if self.loss is None:
            sums = np.asarray(y, "float64").sum(axis=-1) if found.one_hot else np.ones(1)
            if sums.size and np.abs(sums - 1).max() > 1e-2:
                raise ValueError(
                    f"Expected one-hot labels{place} whose sum over the classes is 1, since one class of several is "
                    f"right. Received: labels of shape {shape} with sums between {sums.min():g} and {sums.max():g}. "
                    "Where several may be right, end the network in a sigmoid, or pass the `loss`."
                )
            return
        form = None
        if self.loss == "sparse_categorical_crossentropy" and found.one_hot:
            form = "whole numbers as labels{}"
        elif self.loss in ("categorical_crossentropy", "categorical_focal_crossentropy") and not found.one_hot:
            form = f"one-hot labels{{}} of {self.channels} classes"
        elif _kind_of_name(self.loss) in (BINARY, NUMBERS) and not found.one_hot:
            form = f"a label{{}} for each of {self.channels} channels"
        if form:
            fitting = type(replace(self, kind=CLASSES).default_loss(found.one_hot)).__name__
            raise ValueError(
                f"Expected {form.format(place)}, since the loss is {self.loss}. Received: labels of shape {shape}. "
                f"Pass `loss=keras.losses.{fitting}(from_logits={not self.probabilities})` for them."
            )

    def default_loss(self, one_hot: bool = False) -> keras.losses.Loss:
        """Cross-entropy on probabilities or logits as the output is, or the mean squared error of numbers.

        Args:
            one_hot: Whether there is a label for each class.
        """
        if self.assumed == NUMBERS:
            return keras.losses.MeanSquaredError()
        if self.assumed == BINARY:
            return keras.losses.BinaryCrossentropy(from_logits=not self.probabilities)
        if one_hot:
            return keras.losses.CategoricalCrossentropy(from_logits=not self.probabilities)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not self.probabilities)


def tasks_of(network: keras.Model | Graph) -> list[Task]:
    """The task of each output, as far as the network tells.

    Raises:
        ValueError: If an output is a softmax of one channel, or probabilities whose sum is not 1.
    """
    graph = network if isinstance(network, Graph) else read_graph(network)
    found = []
    for name, ref in zip(output_names(graph), graph.output_refs(), strict=True):
        shape, ending = tuple(graph.shapes[ref]), final_activation(graph, ref)
        if ending == SOFTMAX and shape[-1] == 1:
            raise ValueError(
                f"Expected output '{name}' of '{graph.name}' to tell images apart. Received: a softmax of one channel, "
                "which is always 1. Use a sigmoid, or no activation."
            )
        if ending == UNNORMALIZED:
            raise ValueError(
                f"Expected output '{name}' of '{graph.name}' to be logits, numbers, or probabilities whose sum is 1. "
                "Received: numbers from 0 on whose sum is always the same, and not 1. Take the mean of several "
                "softmaxes instead of their sum."
            )
        if ending is None and ends_in(graph.layers[ref.layer]) == "sparsemax":
            warnings.warn(
                f"Output '{name}' of '{graph.name}' ends in Keras' sparsemax, whose sums over the classes are not 1 in "
                "this version of Keras. It is taken for logits. A sparsemax of your own whose sums are 1 is taken for "
                "probabilities.",
                stacklevel=stacklevel_outside_the_package(),
            )
        found.append(Task(name, shape, ending, _KINDS_OF_ENDINGS.get(ending)))
    return found


def classifying(network: keras.Model) -> dict[str, bool]:
    """Whether each output, by its name, names a class by its largest channel.

    A softmax does, and several channels without an activation, unless the loss that the network was compiled with is
    for something else.
    """
    graph = read_graph(network)
    names, loss = output_names(graph), getattr(network, "loss", None)
    if isinstance(loss, Mapping):
        loss = [loss.get(name) for name in names]
    losses = list(loss) if isinstance(loss, (list, tuple)) and len(loss) == len(names) else [loss] * len(names)
    found = {}
    for name, ref, own in zip(names, graph.output_refs(), losses, strict=True):
        ending = final_activation(graph, ref)
        likely = ending in (SOFTMAX, UNNORMALIZED) or (ending is None and kind_of_loss(own) in (CLASSES, None))
        found[name] = likely and graph.shapes[ref][-1] not in (None, 1)
    return found


def default_loss(network: keras.Model | Graph) -> keras.losses.Loss:
    """The default loss of a network with one output and integer labels."""
    (task,) = tasks_of(network)
    return task.default_loss()


def kind_of_loss(loss: Any) -> str | None:
    """What one of Keras' losses is for; `None` for others.

    Args:
        loss: A `keras.losses.Loss`, a function, or the name of one.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    return next((kind for name in _keras_names(loss) if (kind := _kind_of_name(name))), None)


def _kind_of_name(name: str) -> str | None:
    """What the Keras loss of a name is for."""
    if "categorical" in name or name == "kl_divergence":
        return CLASSES
    if "binary" in name:
        return BINARY
    return NUMBERS if name in _REGRESSION else None


def _loss_name(loss: Any) -> str:
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    own: str = getattr(loss, "name", "") or getattr(loss, "__name__", "loss")
    return next(iter(_keras_names(loss)), own)


def _keras_names(loss: Any) -> list[str]:
    """Names of the Keras loss that a loss is, or is a kind of."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, keras.losses.Loss):
        function = getattr(loss, "function", None)  # of a function that was made a loss
        classes = [cls for cls in type(loss).__mro__ if cls.__module__.startswith("keras.")]
        found = [_snake(cls.__name__) for cls in classes if cls.__name__ not in ("Loss", "LossFunctionWrapper")]
        return found or (_keras_names(function) if function is not None else [])
    if str(getattr(loss, "__module__", "")).startswith("keras."):
        return [_snake(getattr(loss, "__name__", ""))]
    return []


def _snake(name: str) -> str:
    return re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=KL)(?=D)", "_", name).lower()


def compiled_loss(network: keras.Model) -> tuple[Any, Any]:
    """The loss and the loss weights that a network was compiled with, `None` for those that it was not.

    A function without a name, which no file can hold, is not returned, and a warning says so.
    """
    loss = getattr(network, "loss", None) if getattr(network, "compiled", False) else None
    if loss is None:
        return None, None
    nameless = [one for one in keras.tree.flatten(loss) if not _named(one)]
    if nameless:
        warnings.warn(
            f"'{network.name}' was compiled with the loss {nameless[0]!r}, which has no name that a file could hold "
            "and is not used. The loss is the default one, unless you pass `loss` to `compile`.",
            stacklevel=stacklevel_outside_the_package(),
        )
        return None, None
    try:
        weights = network.get_compile_config().get("loss_weights")
    except Exception:  # of an optimizer or a metric that cannot be serialised
        weights = None
    return loss, weights


def _named(loss: Any) -> bool:
    if loss is None or isinstance(loss, (str, keras.losses.Loss, Mapping, Sequence)):
        return True
    return getattr(loss, "__name__", "<lambda>") != "<lambda>"
