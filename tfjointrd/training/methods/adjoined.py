"""Adjoined training: a network and its narrow twins learn together, on one set of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from tfjointrd.layers.adjoined import AdjoinedLayer
from tfjointrd.layers.batch_normalization import check_synchronized, replicas
from tfjointrd.layers.positions import listed
from tfjointrd.surgery.adjoined_graph import FULL, SMALL, AdjoinedGraph, check_adjoinable, compact
from tfjointrd.surgery.graph import Graph, functional
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tasks import tasks_of
from tfjointrd.training import schedules
from tfjointrd.training.losses import per_replica
from tfjointrd.training.monitors import check_monitors
from tfjointrd.training.objective import Divergence, Objective, deserialize_divergence, serialize_divergence
from tfjointrd.training.scheduled_model import ScheduledModel, serialized

# What `objective` takes: what the small networks learn from.
ADJOINED, SLIMMABLE = "adjoined", "slimmable"


def path_of(alpha: float) -> str:
    """The name of one of several small networks."""
    return f"{SMALL}_a{alpha:g}" if isinstance(alpha, (int, float)) else f"{SMALL}_a{alpha}"


@keras.saving.register_keras_serializable(package="tfjointrd")
class Adjoined(ScheduledModel):
    """A full and one or several small networks on shared weights; see `adjoin`, which makes one from a network.

    Trains on CE(p) + lambda(t) KL(p, q), where p and q are the probabilities of the full and the small network; with
    several small networks, or several outputs, on the sum of their terms. An ordinary `keras.Model`: `compile`, `fit`,
    `evaluate`, `predict`, callbacks and `.keras` files (loaded after `import tfjointrd`) work as usual. Losses of
    layers, such as those of an `activity_regularizer`, are added: those of each network, and those of the shared trunk
    once.

    CE and KL are for classes, one of which is right. Other outputs have another loss and another divergence. Each is a
    mean over the batch, and over positions if the output is a map:

    - yes or no, once or for each channel (a sigmoid, a binary loss, or one channel with labels 0 and 1): binary
      cross-entropy, and p log(p / q) + (1 - p) log((1 - p) / (1 - q)), the mean over the channels;
    - numbers (a loss for regression, or labels that are neither of these): the loss, by default the mean squared error,
      and (p - q)², the mean over the channels.

    With `objective="slimmable"` every network learns from the labels, as in Slimmable Networks: CE(p) + CE(q), or with
    several small networks the sum over all, in one step. Their switchable batch normalisation is
    `batch_normalization="separate"`.

    Args:
        base: The full network, functional or Sequential, with one input.
        keep: For each small network, by the name of its path, layer name -> positions (or the number of first
            positions, or a boolean mask) of the output channels that it keeps. See `tfjointrd.surgery.slim`.
        kl_weight: lambda(t): a `Schedule` or a number; min(4t², 1) by default.
        batch_normalization: `"separate"` gives each network weights and statistics of its own. With `"shared"` the
            small networks use slices of the full network's weights. In inference they use its statistics, which do not
            fit them: `tfjointrd.recalibrate_batchnorm(small, data)` measures their own. `fit` and `evaluate` do not
            recalibrate, so their accuracies of small networks may be no better than guessing.
        stop_gradient: Whether KL has no gradient through the full network's output, which is then only the target.
        epsilon: The term that Eqn 3 adds to both probabilities, 1e-6 in the paper. `None` computes KL from logits,
            which needs none; 1e-6 where networks return probabilities.
        divergence: The divergence: `"kullback_leibler"`, `"bernoulli"` or `"squared_error"`, the three above, or a
            function `(full, small) -> (batch, ...)` of outputs as the network returns them. For several outputs also a
            list, or a dict by their names. By default the divergence for the kind of output, as above.
        kept_full: For each small network, why layers stay full, by layer name.
        objective: `"adjoined"` or `"slimmable"`, as above. `"slimmable"` has no `kl_weight`, `stop_gradient`, `epsilon`
            and `divergence`, but metrics still include KL.
        name: The model's name.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`.

    Returns:
        `{"full": ..., "small": ...}`, each `(batch, classes)`, logits or probabilities as the full network returns;
        with several small networks `"small_a2"` and so on, with several outputs `"full_NAME"` and so on.

    Attributes:
        network: The functional network with all outputs.
        paths: Names of the networks, the full one's first.
        kept_full: Why layers stay full, by layer name; with several small networks by path first.

    Metrics:
        Each metric given to `compile` is reported for all, e.g. `full_accuracy` and `small_accuracy`; so are their
        cross-entropies `full_loss` and `small_loss`, and `small_kl`, KL without its weight. `val_loss` contains KL with
        its current weight, which is almost zero at first. So give callbacks that look for the best epoch
        `monitor="val_small_accuracy", mode="max"`. There is no `val_accuracy`, since it would not name a network. `fit`
        raises an error for callbacks that monitor it.

    Raises:
        ValueError: See `adjoin`; or if a batch normalisation is not synchronised where several devices train.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Definition 1. Slimmable Neural Networks
        (https://arxiv.org/abs/1812.08928), Algorithm 1, for `objective="slimmable"`.
    """

    slimmable = False

    def __init__(
        self,
        base: keras.Model,
        keep: Mapping[str, Mapping[str, Iterable[int] | int]],
        kl_weight: schedules.Schedule | float | None = None,
        *,
        batch_normalization: str = "separate",
        stop_gradient: bool = False,
        epsilon: float | None = None,
        divergence: Divergence = None,
        kept_full: Mapping[str, Mapping[str, str]] | None = None,
        objective: str = ADJOINED,
        name: str | None = None,
    ):
        super().__init__(name=name)
        given = {"kl_weight": kl_weight, "stop_gradient": stop_gradient, "epsilon": epsilon, "divergence": divergence}
        self.slimmable = _is_slimmable(objective, given)
        positions = {path: {layer: listed(kept) for layer, kept in layers.items()} for path, layers in keep.items()}
        options = {"stop_gradient": stop_gradient, "epsilon": epsilon, "divergence": divergence, "kept_full": kept_full}
        self._set_up(
            base,
            0.0 if self.slimmable else kl_weight,
            batch_normalization,
            lambda graph, mode: AdjoinedGraph(graph, positions, mode),
            **options,
        )
        self._arguments["keep"] = {
            path: {layer: compact(kept) for layer, kept in layers.items()} for path, layers in positions.items()
        }
        self._arguments["objective"] = objective

    def _set_up(
        self, base, kl_weight, batch_normalization, adjoined_graph, *, stop_gradient, epsilon, divergence, kept_full
    ):
        """Checks and keeps the arguments that all kinds of adjoined networks share, and builds the network."""
        self.take_over_loss(base)
        base = functional(base, "base")
        check_synchronized(base)
        if epsilon is not None and not epsilon > 0:
            raise ValueError(f"Expected `epsilon` above 0 or None. Received: epsilon={epsilon}.")
        kl_weight = schedules.QuadraticRamp() if kl_weight is None else kl_weight
        self.kl_weight = schedules.not_negative(kl_weight, "kl_weight")
        self.stop_gradient, self.epsilon = bool(stop_gradient), epsilon
        graph = read_graph(base)
        check_adjoinable(graph)
        self.objective = Objective(tasks_of(graph), divergence)
        self._surgery = adjoined_graph(graph, batch_normalization)
        self._arguments = {
            "base": serialized(base),
            "batch_normalization": batch_normalization,
            "stop_gradient": self.stop_gradient,
            "epsilon": epsilon,
            "divergence": serialize_divergence(divergence),
            "kept_full": {path: dict(reasons) for path, reasons in (kept_full or {}).items()},
        }
        self.network = self._surgery.network(name=f"{base.name}_pair")
        self._surgery.forget_weights()
        self.paths = [FULL, *self._surgery.kept]
        self._losses_seen = {f"{path}_loss": keras.metrics.Mean(name=f"{path}_loss") for path in self.paths}
        self._losses_seen |= {f"{path}_kl": keras.metrics.Mean(name=f"{path}_kl") for path in self.paths[1:]}
        self.built = True

    @property
    def kept_full(self) -> dict[str, Any]:
        """Why layers stay full: layer name -> reason; with several small networks path -> layer name -> reason."""
        reasons = {path: dict(self._arguments["kept_full"].get(path, {})) for path in self.paths[1:]}
        return reasons if len(reasons) > 1 else next(iter(reasons.values()))

    @property
    def graph(self) -> Graph:
        """The full network's layers and calls, without weights."""
        return self._surgery.graph

    def objectives(self):
        """The full network's losses, and how far the small ones are from it."""
        return [self.objective]

    def call(self, inputs, training=None):
        """Returns the outputs of all networks."""
        return self.network(inputs, training=training)

    # === Labels, losses and metrics of several outputs ===

    def for_all(self, value, argument: str = "y") -> dict | None:
        """Labels or weights for each output of each network, or `None`."""
        return self.objective.by_keys(value, argument, [self.output_keys(path) for path in self.paths])

    def output_keys(self, path: str) -> list[str]:
        """Keys of a network's outputs: `full` or `small`, with the output's name where there are several."""
        return self._surgery.output_keys(path)

    def check_callbacks(self, callbacks):
        """Refuses those that look for a metric without saying of which network."""
        rising = "kl_weight" if "kl_weight" in self.changing() else None
        check_monitors(callbacks, self.all_output_keys(), self.metrics_given(), rising, self.paths[-1])

    def all_output_keys(self) -> list[str]:
        """Keys of all networks' outputs, which the names of their metrics begin with."""
        return [key for path in self.paths for key in self.output_keys(path)]

    def route_metrics(self, metrics):
        """Every metric, once for each output of each network."""
        return self.objective.route(metrics, [self.output_keys(path) for path in self.paths])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """CE(p) + lambda(t) KL(p, q) (Eqn 3), or CE(p) + CE(q), plus the layers' own losses."""
        loss = self._cross_entropy(FULL, y, y_pred, sample_weight)
        loss = loss + self.small_losses(y, y_pred, sample_weight, self.step, self.total_steps)
        if training:
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def outputs_of(self, path: str, outputs: Mapping) -> list:
        """One network's outputs, in their order."""
        return [outputs[key] for key in self.output_keys(path)]

    def _cross_entropy(self, path: str, y, outputs, sample_weight=None):
        """The loss of one network's outputs, CE for classes."""
        return self.objective.loss(y, self.outputs_of(path, outputs), sample_weight)

    def small_losses(self, y, outputs, sample_weight, step, total_steps):
        """What the small networks learn from, a scalar, of all networks' outputs at `step` of `total_steps`."""
        if self.slimmable:
            return sum(self._cross_entropy(path, y, outputs, sample_weight) for path in self.paths[1:])
        total = sum(self._divergence(path, outputs, sample_weight) for path in self.paths[1:])
        return self.kl_weight(step, total_steps) * per_replica(total)

    def _divergence(self, path: str, outputs, sample_weight=None):
        """KL(p, q) of one small network, the sum over its outputs."""
        full, small = (self.outputs_of(one, outputs) for one in (FULL, path))
        full = [ops.stop_gradient(p) for p in full] if self.stop_gradient else full
        return self.objective.divergence(full, small, sample_weight, self.epsilon)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of all networks with the same labels."""
        images = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        for path in self.paths:
            loss = self._cross_entropy(path, y, y_pred, sample_weight) * replicas()
            self._losses_seen[f"{path}_loss"].update_state(loss, sample_weight=images)
            if path != FULL:
                kl = self._divergence(path, y_pred, sample_weight)
                self._losses_seen[f"{path}_kl"].update_state(kl, sample_weight=images)
        return super().compute_metrics(x, self.for_all(y), y_pred, self.for_all(sample_weight, "sample_weight"))

    # === What comes out of it ===

    def full(self, name: str | None = None) -> keras.Model:
        """The full network as it is trained now: an ordinary `keras.Model` with its own copy of the weights."""
        return self._surgery.full(self.network, name or self._surgery.graph.name)

    def small(self, alpha: float | None = None, name: str | None = None) -> keras.Model:
        """A small network as it is trained now: an ordinary, physically narrow `keras.Model`.

        Args:
            alpha: Which one of several, as given in `alphas`.
            name: Its name.

        Raises:
            ValueError: If there is none of this `alpha`, or several and it is not given.
        """
        path = SMALL if alpha is None else path_of(alpha)
        if path not in self.paths[1:]:
            known = [one.removeprefix(f"{SMALL}_a") for one in self.paths[1:] if one != SMALL]
            asked = f"one of {', '.join(known)}" if known else "left out, since there is one small network"
            raise ValueError(f"Expected `alpha` to be {asked}. Received: alpha={alpha!r}.")
        return self._surgery.small(self.network, path, name or f"{self._surgery.graph.name}_{path}")

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {
            **self._arguments,
            "kl_weight": None if self.slimmable else keras.saving.serialize_keras_object(self.kl_weight),
            "frozen": [name for name, layer in _parts(self.network) if not layer.trainable],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        base = keras.saving.deserialize_keras_object(config["base"], custom_objects=custom_objects)
        divergence = deserialize_divergence(config.get("divergence"), custom_objects)
        options = {key: value for key, value in config.items() if key != "frozen"}
        model = cls(**{**options, "base": base, "divergence": divergence})
        for name, layer in _parts(model.network) if "frozen" in config else ():
            frozen = {name, name.partition("/")[0]} & set(config["frozen"])  # a layer's parts are frozen with it
            if layer.trainable == bool(frozen):
                layer.trainable = not layer.trainable
        return model


def _is_slimmable(objective: str, given: Mapping[str, Any]) -> bool:
    """Whether every network learns from the labels, for which arguments of the divergence mean nothing."""
    if objective not in (ADJOINED, SLIMMABLE):
        raise ValueError(
            f"Expected `objective` to be '{ADJOINED}' or '{SLIMMABLE}'. Received: objective={objective!r}."
        )
    foreign = {key: value for key, value in given.items() if value is not None and value is not False}
    if objective == SLIMMABLE and foreign:
        raise ValueError(
            f"Expected {', '.join(f'`{key}`' for key in foreign)} for objective '{ADJOINED}' only: leave it out, or "
            f"take that objective. Received: objective='{SLIMMABLE}', "
            f"{', '.join(f'{key}={value!r:.100}' for key, value in foreign.items())}."
        )
    return objective == SLIMMABLE


def _parts(network: keras.Model) -> Iterator[tuple[str, keras.Layer]]:
    """The layers of an adjoined network by name, each ahead of those of single paths within it."""
    for layer in network.layers:
        yield layer.name, layer
        for path, part in {FULL: layer.full, **layer.own}.items() if isinstance(layer, AdjoinedLayer) else ():
            yield f"{layer.name}/{path}", part
