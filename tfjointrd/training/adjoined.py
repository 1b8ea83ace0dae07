"""Adjoined training: a network and its narrow twin learn together, on one set of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import keras
from keras import ops

from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.surgery.adjoin import AdjoinedGraph, compact, first_filters, stem_and_first_stage
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Graph, functional
from tfjointrd.surgery.patterns import matching
from tfjointrd.training import schedules
from tfjointrd.training.base import ScheduledModel
from tfjointrd.training.losses import default_loss, ends_in_softmax, kullback_leibler, per_replica

PATHS = ("full", "small")


def adjoin(
    model: keras.Model,
    alpha: int = 2,
    keep: Iterable[str] | None = None,
    kl_weight: schedules.Schedule | float | None = None,
    name: str | None = None,
) -> Adjoined:
    """Turns a network into an adjoined one: the full and a small network on shared weights, trained by one `fit`.

    Every layer of the small network keeps the first `filters // alpha` filters of the full one (Eqn 2).

    Args:
        model: A functional or Sequential classifier with one input and one output, from `tfjointrd.models`,
            `keras.applications` or your own. It is not changed; the adjoined network starts from its weights.
        alpha: How many times narrower the layers of the small network are, at least 2.
        keep: Names or patterns (`"stage2_*"`) of layers that stay at full width. By default the stem and the first
            stage, as in the paper; `()` narrows every layer that can be.
        kl_weight: lambda(t) of Eqn 3: a `tfjointrd.training.Schedule` or a number; min(4t², 1) by default.
        name: The name of the adjoined network.

    Returns:
        An `Adjoined` network: compile it, fit it, then take `full()` and `small()`.

    Raises:
        ValueError: If `alpha` is not a whole number from 2 on, or leaves a layer no channel; if the network is not
            functional, has several outputs, or holds a layer that is not known or a `DiracConv2D`; if a pattern matches
            no layer.

    Example:

    >>> adjoined = adjoin(tfjointrd.models.resnet20(), alpha=2)
    >>> adjoined.compile(optimizer="sgd", metrics=["accuracy"])
    >>> small = adjoined.small()

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 to 3.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int) or alpha < 2:
        raise ValueError(f"Expected `alpha` to be a whole number from 2 on. Received: alpha={alpha}.")
    graph = Graph.of(model)
    graph.single_output()
    channels = Channels(graph)
    full = stem_and_first_stage(graph) if keep is None else matching(graph.layers, keep)
    wanted = first_filters(channels, alpha, full)
    return Adjoined(model, wanted, kl_weight=kl_weight, name=name or f"adjoined_{model.name}")


@keras.saving.register_keras_serializable(package="tfjointrd")
class Adjoined(ScheduledModel):
    """A full and a small network on shared weights; see `adjoin`, which makes one from a network and alpha.

    Trains on CE(p) + lambda(t) KL(p, q), where p and q are the probabilities of the full and the small network.
    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual.

    Args:
        base: The full network, functional or Sequential, with one input and one output.
        keep: Layer name -> positions (or the number of first positions) of the output channels that the small network
            keeps. See `tfjointrd.surgery.slim`.
        kl_weight: lambda(t): a `Schedule` or a number; min(4t², 1) by default.
        name: The model's name.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        `{"full": ..., "small": ...}`, each `(batch, classes)`, logits or probabilities as the full network returns.

    Attributes:
        network: The functional network with both outputs.

    Metrics:
        Each metric given to `compile` is reported for both, e.g. `full_accuracy` and `small_accuracy`.

    Raises:
        ValueError: See `adjoin`; or if a batch normalisation is not synchronised where several devices train.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Definition 1.
    """

    def __init__(
        self,
        base: keras.Model,
        keep: Mapping[str, Iterable[int] | int],
        kl_weight: schedules.Schedule | float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        base = functional(base, "base")
        check_synchronized(base)
        self.kl_weight = schedules.QuadraticRamp() if kl_weight is None else schedules.get(kl_weight)
        self.probabilities = ends_in_softmax(base)
        keep = {layer: range(kept) if isinstance(kept, int) else kept for layer, kept in keep.items()}
        graph = Graph.of(base)
        _check_no_dirac(graph)
        self._surgery = AdjoinedGraph(graph, keep)
        self._arguments = {
            "base": keras.saving.serialize_keras_object(base),
            "keep": {layer: compact(kept) for layer, kept in keep.items()},
        }
        self.network = self._surgery.network(name=f"{base.name}_pair")
        self._surgery.forget_weights()
        self._loss_function = default_loss(base)
        self._default_loss = self._loss_function
        self.built = True

    @property
    def graph(self) -> Graph:
        """The full network's layers and calls, without weights."""
        return self._surgery.graph

    def num_classes(self) -> int:
        """Number of classes."""
        return self.network.outputs[0].shape[-1]

    def call(self, inputs, training=None):
        """Returns the outputs of both networks."""
        return self.network(inputs, training=training)

    def set_loss(self, loss):
        """Takes the cross-entropy of the full network."""
        self._loss_function = self._default_loss if loss is None else loss

    def route_metrics(self, metrics):
        """Every metric, once for each network."""
        if metrics is None or isinstance(metrics, dict):
            return metrics
        return {path: [_copy(metric) for metric in metrics] for path in PATHS}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """CE(p) + lambda(t) KL(p, q) (Eqn 3), plus the layers' own losses."""
        loss = self._loss_function(y, ops.cast(y_pred["full"], "float32"), sample_weight)
        loss = loss + self.weighted_divergence(y_pred, sample_weight, self.step, self.total_steps)
        if training:
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def weighted_divergence(self, outputs, sample_weight, step, total_steps):
        """lambda(t) KL(p, q), a scalar, of the outputs of both networks at `step` of `total_steps`."""
        p, q = (ops.cast(outputs[path], "float32") for path in PATHS)
        if not self.probabilities:
            p, q = ops.softmax(p), ops.softmax(q)
        return self.kl_weight(step, total_steps) * per_replica(kullback_leibler(p, q, sample_weight))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of both networks with the same labels."""
        return super().compute_metrics(x, self.for_both(y), y_pred, self.for_both(sample_weight))

    @staticmethod
    def for_both(value):
        """`value` for each network, or `None`."""
        return None if value is None else dict.fromkeys(PATHS, value)

    def full(self, name: str | None = None) -> keras.Model:
        """The full network as it is trained now: an ordinary `keras.Model` with its own copy of the weights."""
        return self._surgery.full(self.network, name or self._surgery.graph.name)

    def small(self, name: str | None = None) -> keras.Model:
        """The small network as it is trained now: an ordinary, physically narrow `keras.Model`."""
        return self._surgery.small(self.network, name or f"{self._surgery.graph.name}_small")

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            **self._arguments,
            "kl_weight": keras.saving.serialize_keras_object(self.kl_weight),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        base = keras.saving.deserialize_keras_object(config["base"], custom_objects=custom_objects)
        return cls(base, config["keep"], kl_weight=config["kl_weight"], name=config["name"])


def _check_no_dirac(graph: Graph) -> None:
    found = [name for name, spec in graph.layers.items() if spec.cls is DiracConv2D]
    if found:
        raise ValueError(
            "Expected a network of ordinary convolutions, which `tfjointrd.fold` makes of a DiracConv2D. Received: "
            f"'{graph.name}' with the DiracConv2D '{found[0]}'"
            + (f" and {len(found) - 1} others." if len(found) > 1 else ".")
        )


def _copy(metric):
    """A metric of its own for each network."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.Metric) else metric
