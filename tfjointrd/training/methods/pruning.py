"""Pruning while training: channels are made small, dropped step by step up to a budget, and what is left trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from tfjointrd.data.batches import batches
from tfjointrd.layers.batch_normalization import check_synchronized
from tfjointrd.layers.weight_names import weight_name
from tfjointrd.surgery.budgets import read_table
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.frozen import warn_of_frozen_pruned
from tfjointrd.surgery.graph import functional
from tfjointrd.surgery.importance.criterion import name_of, resolve, scores_of
from tfjointrd.surgery.importance.feature_maps import image_shape
from tfjointrd.surgery.output_activation import named_outputs
from tfjointrd.surgery.pruning_plan import PruningPlan
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.slim import slim
from tfjointrd.surgery.swap import with_fused_batch_normalization, with_keras_batch_normalization
from tfjointrd.surgery.tasks import tasks_of
from tfjointrd.surgery.tied_sets import TiedSets
from tfjointrd.surgery.unit_masks import UnitMasks
from tfjointrd.training.losses import per_replica
from tfjointrd.training.methods.channel_penalties import GroupPenalty, ScalePenalty
from tfjointrd.training.methods.living_channels import Alive, DropChannels, Living, warn_of_earlier_weights
from tfjointrd.training.objective import Objective
from tfjointrd.training.precision import loss_dtype
from tfjointrd.training.scheduled_model import ScheduledModel, serialized

REGULARIZERS = ("group", "gamma")


@keras.saving.register_keras_serializable(package="tfjointrd")
class Pruning(ScheduledModel):
    """Trains a network while it is pruned to a budget.

    `begin` and `end` are parts of the training. At the start of each epoch between them, the channels that rank lowest
    are dropped: all of their weights, in all tied layers, become zero and stay zero. The cost falls from C, that of the
    full network, to the budget B as C - (C - B) (1 - (1 - u)³), where u is the part of the way from `begin` to `end`.
    The network recovers in the rest of the training. Up to `end` a regulariser may make channels small before they are
    dropped.

    An ordinary `keras.Model`: `compile`, `fit`, `evaluate`, `predict`, callbacks and `.keras` files work as usual.
    `derive()` is the result, an ordinary narrow network. Its function is that of the training, unless a layer
    normalises over all channels, including those that are zero.

    Args:
        model: The network, functional or Sequential, trained or new. It is copied, and not changed.
        importance: How channels are ranked; see `tfjointrd.prune`.
        regularizer: `"group"`: the sum over channels of the norm of all weights that go with a channel. `"gamma"`: the
            sum of the absolute scales of batch normalisations. `None`: nothing.
        strength: The regulariser's weight in the loss.
        begin: The part of the training before channels are dropped.
        end: The part of the training after which the budget is reached.
        data: Images, with labels where `importance` needs them. It is not saved: a model that was loaded is given its
            `data` as an attribute.
        name: The model's name.
        **budget: As for `tfjointrd.prune`: `target_macs`, `target_parameters`, `target_latency_ms` with
            `latency_table`, or `ratio`; `scope`, `round_to`, `keep` and `min_channels`.

    Call arguments:
        inputs: What the network takes.

    Returns:
        What the network returns.

    Attributes:
        network: The full network, with zeros in place of what was dropped; on TensorFlow's fused batch normalisation.
        alive: For each unit of the tied sets 1, or 0 once it was dropped; a non-trainable weight.

    Metrics:
        `fit` adds the remaining cost to the metrics of each epoch, as a part of the full network's cost: `left_macs`,
        or `left_parameters`, `left_latency_ms`, `left_channels` if the budget is in these.

    Raises:
        ValueError: As for `tfjointrd.prune`; if `begin` and `end` are not parts of the training in this order,
            `regularizer` is not one of those described or has nothing to act on, or `strength` is negative. By `fit`:
            if there are too few epochs to reach the budget at the start of one; if `importance` needs `data` or other
            data, or scores no channel of the network. To find this out, `fit` computes scores once before the training,
            on the first batch of `data`.

    Example:

    >>> pruning = Pruning(tfjointrd.models.cifar_resnet(8), target_macs=0.5, regularizer="group", strength=1e-4)
    >>> pruning.compile("adam", metrics=["accuracy"])
    >>> small = pruning.derive()  # after `pruning.fit(...)`

    Reference:
        To prune, or not to prune (https://arxiv.org/abs/1710.01878), Eqn 1, for the course of the cost; Network
        Slimming (https://arxiv.org/abs/1708.06519), Eqn 1, for `"gamma"`; Learning Structured Sparsity
        (https://arxiv.org/abs/1608.03665), Eqn 2, over tied channels as in DepGraph (https://arxiv.org/abs/2301.12900),
        for `"group"`.
    """

    def __init__(
        self,
        model: keras.Model,
        importance: Any = "l2",
        *,
        regularizer: str | None = None,
        strength: float = 1e-4,
        begin: float = 0.0,
        end: float = 0.5,
        data: Any = None,
        name: str | None = None,
        **budget,
    ):
        super().__init__(name=name)
        self._check(regularizer, strength, begin, end)
        self.take_over_loss(model)
        model = functional(model)
        check_synchronized(model)
        graph = read_graph(model)
        if isinstance(budget.get("keep"), Iterable) and not isinstance(budget["keep"], str):
            budget["keep"] = list(budget["keep"])  # which a file can hold
        budget["latency_table"] = read_table(budget.get("latency_table"))
        resolve(importance, 0 if data is None else data)  # `fit` asks for them; a loaded one gets them later
        self.importance, self.data = importance, data
        self.regularizer, self.strength, self.begin, self.end = regularizer, float(strength), float(begin), float(end)
        self.objective = Objective(tasks_of(graph))
        self._arguments = {"model": serialized(model), **budget}
        self.network = with_fused_batch_normalization(graph.build())
        self._plan = PruningPlan(read_graph(self.network), **budget)
        warn_of_frozen_pruned(graph, [layer for tied in self._plan.sets if not tied.stays for layer in tied.layers])
        masks = UnitMasks(self._plan.sets)
        self.alive = self.add_weight(
            name="alive",
            shape=(masks.size,),
            initializer="ones",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )
        self.pruned_in = self.add_weight(
            name="pruned_in",
            shape=(),
            initializer=keras.initializers.Constant(-1),
            trainable=False,
            dtype="int",
            aggregation="only_first_replica",
        )
        self.total_epochs = self.add_weight(
            name="total_epochs",
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="int",
            aggregation="only_first_replica",
        )
        self._masks = masks
        # In a plain namespace Keras does not take them for weights of this model, besides those of its network.
        self._masked = SimpleNamespace(alive=Alive(self.alive))
        self._masked.variables = self._constrained()
        self._masked.penalty = self._regularized()
        self._plan.sets.forget_weights()
        self.built = True

    @staticmethod
    def _check(regularizer, strength, begin, end):
        if regularizer not in (None, *REGULARIZERS):
            raise ValueError(
                f"Expected `regularizer` to be one of {REGULARIZERS}, or None. Received: regularizer={regularizer!r}."
            )
        if not (_is_number(strength) and 0 <= strength < float("inf")):
            raise ValueError(f"Expected `strength`, a number from 0. Received: strength={strength!r}.")
        if not (_is_number(begin) and _is_number(end) and 0 <= begin < end < 1):
            raise ValueError(
                "Expected `begin` and `end`, parts of the training, in rising order, from 0 and below 1. Received: "
                f"begin={begin!r}, end={end!r}."
            )

    def objectives(self):
        """The losses of the network."""
        return [self.objective]

    # === Weights of dropped channels ===

    def _constrained(self) -> dict[tuple[str, str], Any]:
        """The weights that have entries for channels, by layer and name, each now with its mask.

        Frozen ones too, since a dropped channel goes on where neither what makes nor what takes it is zero. Statistics
        are no part of what a channel computes.
        """
        sources = self._plan.sets.channels.graph.sources
        found = {}
        for (layer, weight), axes in self._masks.axes().items():
            for variable in sources[layer].weights if not weight.startswith("moving_") else ():
                if weight_name(sources[layer], variable) == weight:
                    variable.constraint = Living(self._masked.alive, axes, variable.constraint)
                    found[layer, weight] = variable
        return found

    def _regularized(self) -> Callable | None:
        """The regulariser."""
        held = self._plan.steps.reasons
        variables = {key: variable for key, variable in self._masked.variables.items() if variable.trainable}
        sites = [
            site for site in self._plan.sets.sites() if (site.layer, site.weight) in variables and site.tied not in held
        ]
        if self.regularizer == "group":
            return GroupPenalty(sites, variables)
        if self.regularizer is None:
            return None
        found = ScalePenalty(sites, variables)
        if found.empty:
            raise ValueError(
                "Expected a network with scales of batch normalisations for regularizer='gamma'. Received: "
                f"'{self.network.name}' without any that can be pruned and trained."
            )
        return found

    def penalty(self):
        """The regulariser's value, without its weight; a scalar."""
        return ops.zeros((), loss_dtype()) if self._masked.penalty is None else self._masked.penalty()

    # === Training ===

    def route_metrics(self, metrics):
        """Metrics of each output."""
        return self.objective.route(metrics)

    def changing(self):
        """Names of the arguments by which the loss changes over the training."""
        return [*super().changing(), *(["regularizer"] if self.regularizer else [])]

    def own_callbacks(self):
        """What drops channels at the start of epochs."""
        return [DropChannels()]

    def check_callbacks(self, callbacks):
        """Warns of those that go back to an epoch before the budget was reached."""
        warn_of_earlier_weights(callbacks)

    def begin_training(self):
        """A new training drops channels from its first epoch on."""
        self.pruned_in.assign(-1)

    def train_step(self, *arguments):
        """One step, as Keras takes it; on JAX a constraint sees of all variables only those that are trained."""
        if keras.backend.backend() != "jax":
            return super().train_step(*arguments)
        state, data = arguments
        found = zip(self.non_trainable_variables, state[1], strict=True)
        with self._masked.alive.being(next(value for variable, value in found if variable is self.alive)):
            return super().train_step(state, data)

    def check_importance(self) -> None:
        """Computes scores once, since what is wrong with them would end a training at its first drop."""
        criterion, data = resolve(self.importance, self.data), None
        if getattr(criterion, "needs_data", False) or self.data is not None:
            if isinstance(self.data, Iterator):
                raise ValueError(
                    "Expected `data` that can be gone through again at every drop, such as arrays, a list of batches "
                    f"or a data set. Received: a {type(self.data).__name__}, which ends."
                )
            data = [next(batches(self.data, 32, shape=image_shape(self.network)))]
        scores_of(self.network, self._plan.sets, criterion, data)
        self._plan.sets.forget_weights()

    def check_epochs(self, epochs: int) -> None:
        """Refuses trainings that end before the budget is reached.

        Raises:
            ValueError: If so.
        """
        if not any(self.way(epoch, epochs) == 1 for epoch in range(epochs)):
            raise ValueError(
                f"Expected more `epochs`: channels are dropped at the start of epochs, up to end={self.end} of the "
                f"training, and the last epoch starts at {(epochs - 1) / epochs:.2f}. Received: epochs={epochs}."
            )

    def way(self, epoch: int, epochs: int) -> float:
        """The part of the way to the budget that is gone once an epoch has started."""
        gone = min(max((epoch / epochs - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return 1 - (1 - gone) ** 3

    def drop(self, amount: float = 1.0) -> None:
        """Drops the channels that rank lowest until that part of the way to the budget is gone.

        `fit` calls it. What was dropped before stays so.

        Args:
            amount: From 0 to 1.
        """
        alive = ops.convert_to_numpy(self.alive.value)
        before = self._masks.counts(alive)
        counts = self._plan.counts(self._scores(alive), name_of(self.importance), amount, before)
        self.alive.assign(self._masks.of_sets(self._plan.steps.kept(counts)))
        self.keep_zeros()

    def keep_zeros(self) -> None:
        """Sets the weights of dropped channels to zero, where something else than a step has changed them."""
        for variable in self._masked.variables.values():
            variable.assign(variable.constraint.masked(variable))

    def _scores(self, alive: np.ndarray) -> dict[str, np.ndarray]:
        """The importance of what is left, as the network without the rest has it; -1 for what was dropped.

        Scores that were given are those of the full network.
        """
        criterion, kept, found = resolve(self.importance, self.data), self._masks.by_set(alive), {}
        if isinstance(criterion, Mapping):
            found = {
                name: scores.copy() for name, scores in scores_of(self.network, self._plan.sets, criterion).items()
            }
            for name in found.keys() & kept.keys():
                found[name][np.delete(np.arange(len(found[name])), kept[name])] = -1
            return found
        small = self._left()
        left = TiedSets(Channels(read_graph(small)))
        scores = scores_of(small, left, criterion, self.data)
        for tied, own in zip(self._plan.sets, left, strict=True):
            if own.name in scores:
                units = kept.get(tied.name, np.arange(len(tied)))
                found[tied.name] = np.full(len(tied), -1.0)
                found[tied.name][units] = scores[own.name]
        return found

    def call(self, inputs, training=None):
        """What the network returns."""
        return self.network(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss on the labels, and up to `end` the regulariser."""
        outputs = named_outputs(self.objective.names, y_pred)
        loss = self.objective.loss(y, list(outputs.values()), sample_weight)
        if training:
            if self.regularizer:
                before = ops.cast(ops.cast(self.step, "float32") < self.end * self.total_steps, loss_dtype())
                loss = loss + per_replica(self.strength * before * self.penalty())
            self.count_step()
        return loss + per_replica(sum(self.losses)) if self.losses else loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of the network; of several outputs by their names."""
        return super().compute_metrics(x, *self.objective.for_metrics(y, y_pred, sample_weight))

    # === What comes out of it ===

    def architecture(self) -> dict[str, Any]:
        """What is left, as `tfjointrd.surgery.prune_architecture` describes it."""
        alive = ops.convert_to_numpy(self.alive.value)
        described = self._plan.described(self._masks.counts(alive), self._masks.by_set(alive))
        return {"importance": name_of(self.importance), **described}

    def left(self) -> tuple[str, float]:
        """What the budget is in, and the part of the full network's that is left."""
        counts = self._masks.counts(ops.convert_to_numpy(self.alive.value))
        return self._plan.counted, self._plan.cost(counts) / self._plan.full

    def derive(self, name: str | None = None) -> keras.Model:
        """The narrow network of the channels that are left, with their weights, of Keras' own layers.

        Args:
            name: Its name; that of the network by default.
        """
        return with_keras_batch_normalization(self._left(name))

    def _left(self, name: str | None = None) -> keras.Model:
        alive = ops.convert_to_numpy(self.alive.value)
        return slim(self.network, self._plan.sets.kept_positions(self._masks.by_set(alive)), name)

    # === Saving ===

    def get_config(self):
        """The configuration from which the model can be made again, without `data`."""
        return {
            **self._arguments,
            "importance": self.importance
            if isinstance(self.importance, str)
            else keras.saving.serialize_keras_object(self.importance),
            "regularizer": self.regularizer,
            "strength": self.strength,
            "begin": self.begin,
            "end": self.end,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again, with new weights."""
        read = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects)
            for key in ("model", "importance")
        }
        return cls(**{**config, **read})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
