"""Differentiable adjoined networks: the widths of the small network are learned, under a budget."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfjointrd.layers.gates import check_alphas
from tfjointrd.layers.positions import listed
from tfjointrd.surgery import expected_cost
from tfjointrd.surgery.adjoined_graph import compact, take_own_weights
from tfjointrd.surgery.budgets import read_table
from tfjointrd.surgery.gated import SMALL, GatedGraph
from tfjointrd.surgery.new_weights import with_new_weights
from tfjointrd.surgery.slim import slim
from tfjointrd.training import schedules
from tfjointrd.training.losses import per_replica
from tfjointrd.training.methods.adjoined import Adjoined
from tfjointrd.training.methods.budget import Budget
from tfjointrd.training.methods.gate_images import HELD, as_held, check_held_out, held_of, side_by_side
from tfjointrd.training.objective import Divergence, deserialize_divergence
from tfjointrd.training.optimizers import OptimizerPair
from tfjointrd.training.scheduled_model import ScheduledModel

PENALTY = "small_penalty"


@keras.saving.register_keras_serializable(package="tfjointrd")
class DAN(Adjoined):
    """A full network and a small one whose widths are learned; see `search`, which makes one from a network.

    Trains on CE(p) + lambda(t) (KL(p, q) + gamma n_f), where q is the output of a mixture of all candidate widths and
    n_f the expected multiply-accumulates. An ordinary `keras.Model`: `compile`, `fit`, `evaluate` and `.keras` files
    work as usual. Then `architecture()` returns the chosen widths, `small()` returns the narrow network with the
    weights of the search, and `derive()` returns the adjoined network of these widths, to be trained.

    While training, the small network's channels are scaled by Gumbel-softmax weights of the candidates that have them.
    `evaluate` and `predict` compute the network that `small()` returns: each gate chooses its most probable candidate,
    and with a budget what `choices()` makes of these.

    Batch normalisations of the small path have one set of statistics for the mixture. Candidates differ in their number
    of channels. A channel before the gate is the same for all of them, so separate statistics would be the same
    numbers. A choice changes the inputs of later layers; `recalibrate_batchnorm` measures the statistics that follow.

    Args:
        base: The full network, functional or Sequential, with one input.
        candidates: For each of `alphas`, layer name -> positions (or the number of first positions) of the output
            channels that it keeps.
        alphas: The candidates' numbers in rising order, by which choices are named.
        gamma: The weight of n_f in multiply-accumulates, as in Eqn 6; in place of a budget. The 1e-13 (DAN-50) and
            1e-19 (DAN-100) of the authors' code belong to a count that doubles at every block. For our count they
            correspond to 1.5e-10 and 6.2e-13, at 224 pixels.
        target_macs: The multiply-accumulates that the small network may have: a whole number, or up to 1.0 a part of
            the full network's. The weight of the penalty is adjusted until the expected cost reaches this target. By
            default the middle between the narrowest and the widest candidates.
        target_parameters: The same for the number of weights.
        target_latency_ms: The same for milliseconds of one image by `latency_table`.
        latency_table: Layer name -> `[input width, output width, milliseconds]`, or a JSON file of that; measured by
            `tfjointrd.report.layer_latencies`, or on a phone.
        temperature: The temperature of Gumbel-softmax: a `Schedule` or a number; 15 e^(-4.5 t) by default.
        warm_up: The part of the training before widths begin to be learned.
        ties: `"shared"`: layers whose channels are tied have one gate. `"free"`: each has its own, and all become as
            wide as the widest choice.
        noise, frozen, hard, seed: As for `tfjointrd.layers.GumbelSoftmax`.
        kl_weight, batch_normalization, stop_gradient, epsilon, divergence, kept_full: As for `Adjoined`.
        name: The model's name.

    Attributes:
        gates: The layer with the logits `eta`, the temperature and the noise.
        groups: The groups of layers whose widths are chosen together, one for each row of probabilities.
        costs: `"macs"` and `"parameters"` as functions of the candidates' weights; see
            `tfjointrd.surgery.expected_cost`.

    Metrics:
        As for `Adjoined`; `small_macs` (or `small_parameters`), the expected cost as a part of the full network's; and
        `small_penalty`, the part of the loss from the budget: lambda(t) gamma n_f, or with a target the expected cost
        times its current price. The price is negative while the network costs less than the target, so that the gates
        choose wider layers. `loss` can be negative then, and means nothing by itself.

    Raises:
        ValueError: See `search`.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 5.
    """

    def __init__(
        self,
        base: keras.Model,
        candidates: Sequence[Mapping[str, Iterable[int] | int]],
        alphas: Sequence[float],
        *,
        gamma: float | None = None,
        target_macs: float | None = None,
        target_parameters: float | None = None,
        target_latency_ms: float | None = None,
        latency_table: Mapping[str, Sequence[Sequence[float]]] | str | os.PathLike | None = None,
        temperature: schedules.Schedule | float | None = None,
        warm_up: float = 0.2,
        ties: str = "shared",
        noise: str = "gumbel",
        frozen: bool = False,
        hard: bool = False,
        seed: int | None = None,
        kl_weight: schedules.Schedule | float | None = None,
        batch_normalization: str = "separate",
        stop_gradient: bool = False,
        epsilon: float | None = None,
        divergence: Divergence = None,
        kept_full: Mapping[str, Mapping[str, str]] | None = None,
        name: str | None = None,
    ):
        ScheduledModel.__init__(self, name=name)
        self.alphas = check_alphas(alphas)
        if len(candidates) != len(self.alphas):
            raise ValueError(f"Expected `candidates` for alphas={self.alphas}. Received: {len(candidates)} of them.")
        positions = [{layer: listed(kept) for layer, kept in one.items()} for one in candidates]
        table = read_table(latency_table)
        gumbel = {"noise": noise, "frozen": bool(frozen), "hard": bool(hard), "seed": seed}
        self._set_up(
            base,
            kl_weight,
            batch_normalization,
            lambda graph, mode: self._gated(GatedGraph(graph, positions, self.alphas, ties, mode, **gumbel), table),
            stop_gradient=stop_gradient,
            epsilon=epsilon,
            divergence=divergence,
            kept_full=kept_full,
        )
        self.gates, self.groups = self._surgery.gates, tuple(self._surgery.groups)
        temperature = schedules.ExponentialDecay() if temperature is None else temperature
        self.temperature = schedules.positive(temperature, "temperature")
        if not 0 <= warm_up < 1:
            raise ValueError(f"Expected `warm_up`, a part of the training, in [0, 1). Received: warm_up={warm_up}.")
        self.warm_up, self._both = warm_up, None
        budgets = {"target_macs": target_macs, "target_parameters": target_parameters}
        budgets = {"gamma": gamma, **budgets, "target_latency_ms": target_latency_ms}
        self.budget = Budget(self.costs, budgets)
        self.multiplier = self.add_weight(
            name="multiplier",
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            aggregation="only_first_replica",
        )
        name_of_cost = f"small_{self.budget.name}"
        self._losses_seen |= {name: keras.metrics.Mean(name=name) for name in (name_of_cost, PENALTY)}
        self._arguments |= {
            "candidates": [{layer: compact(kept) for layer, kept in one.items()} for one in positions],
            "alphas": self.alphas,
            **budgets,
            "latency_table": table,
            "warm_up": warm_up,
            "ties": ties,
            **gumbel,
        }

    def _gated(self, graph: GatedGraph, table) -> GatedGraph:
        """Counts the costs while the graph still knows its weights."""
        self.costs = {"macs": expected_cost.macs(graph), "parameters": expected_cost.parameters(graph)}
        if table is not None:
            self.costs["latency_ms"] = expected_cost.latency(graph, table)
        return graph

    @property
    def target(self) -> float | None:
        """The budget as a part of the full network's cost; `None` with `gamma`."""
        return self.budget.target

    # === Training ===

    def compile(self, optimizer="rmsprop", *args, gate_optimizer=None, **kwargs):
        """As for `ScheduledModel`.

        Args:
            optimizer: That of the weights, which Keras' callbacks set the learning rate of.
            *args: As for `ScheduledModel`.
            gate_optimizer: That of the gates' logits; Adam with learning rate 0.01 and no weight decay by default.
            **kwargs: As for `ScheduledModel`.
        """
        gates = keras.optimizers.Adam(0.01) if gate_optimizer is None else keras.optimizers.get(gate_optimizer)
        weights = keras.optimizers.get(optimizer)
        pair = OptimizerPair(weights, gates, [self.gates.eta], "gate_optimizer", together=False)
        super().compile(pair, *args, **kwargs)

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, held_out=None, **kwargs):
        """Trains as `Adjoined` does.

        Args:
            x: As for `keras.Model.fit`, and so are all others but one.
            y: Labels.
            batch_size: Images a step.
            epochs: Number of epochs in all.
            verbose: What is printed.
            callbacks: Callbacks.
            held_out: Images and labels that the gates learn from, while the weights learn from the others: `(x, y)`
                beside arrays, or a data set of the kind of `x`. By default both learn from all images, as in the paper.
            **kwargs: As for `keras.Model.fit`.

        Raises:
            ValueError: If `held_out` is of another kind than `x`, comes with weights or steps per epoch, or is for a
                network with several outputs or trained on several devices.

        Reference:
            DARTS (https://arxiv.org/abs/1806.09055), section 2.3, first order, for `held_out`. It alternates steps of
            gates and weights; here both are taken at once, from the same weights.
        """
        if held_out is not None:
            check_held_out(len(self.objective.tasks), kwargs)
            order = {"shuffle": kwargs.get("shuffle", True), "epoch": kwargs.get("initial_epoch", 0)}
            both = side_by_side(x, y, held_out, batch_size, **order)
            self._check_labels(x, y)
            held = held_out if isinstance(held_out, (tuple, list)) else (held_out, None)
            self._check_labels(*held, place=" of `held_out`", again=False)
            x, y, batch_size, self._both = both, None, None, both
        try:
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)
        finally:
            self._both = None
            self.before_evaluation()

    def changing(self):
        """Names of the arguments by which the loss changes; a budget's penalty is steered over the whole training."""
        return [*super().changing(), *(["warm_up"] if self.warm_up else []), *(["target"] if self.target else [])]

    def begin_training(self) -> None:
        """Steers the penalty anew: what an earlier training summed up is not this one's."""
        self.multiplier.assign(0.0)

    def before_evaluation(self) -> None:
        """Lets evaluation compute the network that `small()` returns."""
        if self.target is not None and np.isfinite(self.probabilities()).all():
            self.gates.chosen.assign(np.array(self.choices(), "int32"))

    def make_test_function(self, force=False):
        """As Keras does, ahead of evaluation of the network that `small()` returns."""
        self.before_evaluation()
        return super().make_test_function(force)

    def make_predict_function(self, force=False):
        """As Keras does, ahead of prediction by the network that `small()` returns."""
        self.before_evaluation()
        return super().make_predict_function(force)

    def _check_labels(self, x, *arguments, **options):
        """Looks at labels; those of two sets side by side were looked at one by one."""
        return x if self._both is not None and x is self._both else super()._check_labels(x, *arguments, **options)

    def call(self, inputs, training=None):
        """Returns the outputs of both networks; in training with new noise, and for held-out images if there are."""
        two = isinstance(inputs, (tuple, list)) and len(inputs) == 2
        images, held_out = inputs if two else (inputs, None)
        if not training:
            held = {} if held_out is None else self.network(held_out, training=False)
            return {**self.network(images, training=False), **as_held(held)}
        self.gates.gumbel.resample()
        self.gates.temperature.assign(self.temperature(self.step, self.total_steps))
        begun = ops.cast(ops.cast(self.step, "float32") >= self.warm_up * self.total_steps, "float32")
        if held_out is None:
            self.gates.learning.assign(begun)
            return self.network(images, training=True)
        self.gates.learning.assign(ops.zeros_like(begun))
        outputs = self.network(images, training=True)
        self.gates.learning.assign(begun)
        # Weights have no gradient here, and statistics stay as they are: what is assigned ends with the scope.
        fixed = [(v, v.value if v is self.gates.eta else ops.stop_gradient(v.value)) for v in self.variables]
        with keras.StatelessScope(state_mapping=fixed):
            return {**outputs, **as_held(self.network(held_out, training=True))}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """CE(p) + lambda(t) (KL(p, q) + gamma n_f) (Eqn 6), plus the layers' own losses.

        With held-out images, the gates learn from lambda(t) (KL + gamma n_f) of these.
        """
        weight, share = self.kl_weight(self.step, self.total_steps), self.budget.expected(self.gates)
        self._losses_seen[f"small_{self.budget.name}"].update_state(share)  # on JAX, metrics do not see weights
        penalty = weight * ops.cast(self.budget.penalty(self.gates, self.multiplier, training), weight.dtype)
        self._losses_seen[PENALTY].update_state(penalty)
        if training and self.target is not None:
            excess = self.budget.excess(share) * ops.cast(weight, share.dtype) / ops.maximum(self.total_steps, 1.0)
            self.multiplier.assign(self.multiplier + excess)
        if isinstance(y, (tuple, list)) and f"{HELD}{SMALL}" in y_pred:
            held = held_of(y_pred)
            penalty, y = penalty + weight * self._divergence(SMALL, held), y[0]
        return super().compute_loss(x, y, y_pred, sample_weight, training) + per_replica(penalty)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of both networks; of held-out images none."""
        if f"{HELD}{SMALL}" in y_pred:
            x, y = x[0], y[0]
            y_pred = {key: value for key, value in y_pred.items() if not key.startswith(HELD)}
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # === What comes out of it ===

    def probabilities(self) -> np.ndarray:
        """The probability of each candidate for each of `groups`, `(groups, candidates)`."""
        return ops.convert_to_numpy(self.gates.probabilities())

    def choices(self) -> list[int]:
        """For each of `groups`, the position of the chosen candidate in `alphas`.

        The most probable one; with a budget, changed where that costs the least probability until the budget is kept
        and no further widening fits.
        """
        choices = ops.convert_to_numpy(self.gates.likeliest()).argmax(axis=1).tolist()
        return self.budget.fitted(choices, np.log(self.probabilities() + 1e-9))

    def widths_of(self, choices: Sequence[int]) -> dict[str, int]:
        """Layer name -> width, for the position of a candidate for each of `groups`; for `adjoin(widths=...)`."""
        return self._surgery.widths(choices)

    def architecture(self) -> dict[str, Any]:
        """What was chosen, as a plain dict that JSON takes.

        Returns:
            `alphas`: by the first layer of each group, the chosen alpha; `widths`: by layer, the width, which
            `tfjointrd.adjoin(model, widths=...)` takes, and `full_widths`, those of the full network; `macs` and
            `parameters` of the small network and of the full one (`full_macs`, `full_parameters`); `expected_macs` and
            `expected_parameters`, what a random choice by the gates' probabilities costs; with a latency table the
            same of `latency_ms`, where `full_latency_ms` is that of the widest candidates.
        """
        choices = self.choices()
        found: dict[str, Any] = {
            "alphas": {group.name: self.alphas[j] for group, j in zip(self.groups, choices, strict=True)},
            "widths": self.widths_of(choices),
            "full_widths": self._surgery.full_widths(),
        }
        for name, cost in self.costs.items():
            exact = float if name == "latency_ms" else round
            found[name], found[f"full_{name}"] = exact(cost.of_choices(choices)), exact(cost.full)
            found[f"expected_{name}"] = cost.of(self.probabilities())
        return found

    def small(self, name: str | None = None) -> keras.Model:  # type: ignore[override]  # it has one alpha a layer
        """The narrow network that was chosen, with the weights and statistics that it has from the search.

        Its batch normalisations have the statistics of the mixture; see `tfjointrd.recalibrate_batchnorm`.
        """
        widest = super().small()
        return slim(widest, self._surgery.positions_in_widest(self.choices()), name or widest.name)

    def derive(self, inherit_weights: bool = False, name: str | None = None) -> Adjoined:
        """The adjoined network of the chosen widths.

        Args:
            inherit_weights: Whether it starts from the weights of the search. Up to the first layer that is narrower,
                the small network has the full one's normalisation then. By default it starts from new weights, as in
                the paper, but for frozen layers, which keep theirs.
            name: Its name.

        Returns:
            An `Adjoined` network, to be compiled and trained.
        """
        graph = self._surgery.graph
        choices = self.choices()
        if not any(choices) and self.alphas[0] == 1:
            raise ValueError(
                "Expected a search that makes a layer narrower. Received: alpha 1 for all; train it, with a lower "
                "budget or a higher `gamma`."
            )
        full = self.full()
        base = full if inherit_weights else with_new_weights(graph, full)
        options = {key: self._arguments[key] for key in ("batch_normalization", "stop_gradient", "epsilon")}
        pair = Adjoined(
            base,
            {SMALL: self._surgery.positions(choices)},
            self.kl_weight,
            divergence=deserialize_divergence(self._arguments["divergence"]),
            kept_full={SMALL: self.kept_full},
            name=name or f"adjoined_{graph.name}",
            **options,
        )
        pair._taken_over = self._taken_over
        if inherit_weights:
            take_own_weights(pair.network, SMALL, self.small())
        return pair

    # === Saving ===

    def get_compile_config(self):
        """The arguments of `compile`, serialised."""
        config = super().get_compile_config()
        if config:
            pair = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            own = pair.get_config()
            config = {**config, "optimizer": own["first"], "gate_optimizer": own["second"]}
        return config

    def get_config(self):
        """The configuration from which the model can be made again."""
        return {**super().get_config(), "temperature": keras.saving.serialize_keras_object(self.temperature)}
