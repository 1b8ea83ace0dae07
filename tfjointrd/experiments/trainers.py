"""The ways to train: what is fitted for a recipe, and which networks come out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.data import DatasetInfo
from tfjointrd.experiments.networks import load_network, network_of, trained_network
from tfjointrd.experiments.pruned_start import importance_of
from tfjointrd.experiments.recipes import RANDOM, Recipe
from tfjointrd.experiments.recipes.methods import (
    AdjoinedRecipe,
    Budgeted,
    Distilled,
    DistilledRecipe,
    JointRDAdjoinedRecipe,
    JointRDRecipe,
    Narrow,
    NarrowCohortRecipe,
    PlainRecipe,
    Routed,
)
from tfjointrd.experiments.recipes.trained import PrunedGraduallyRecipe
from tfjointrd.report import profile
from tfjointrd.surgery import dirac, fold, remove_shortcuts, slim
from tfjointrd.surgery.swap import with_fused_batch_normalization, with_keras_batch_normalization
from tfjointrd.surgery.widths import widths_of
from tfjointrd.training import (
    DAN,
    Adjoined,
    Cohort,
    Constant,
    CosineFade,
    Distillation,
    JointRD,
    LinearFade,
    Pruning,
    adjoin,
    distillers,
)
from tfjointrd.training.methods.search import search

NEARLY = 0.02  # of a budget may be left over; after each hundred draws as much again

Trainer = Callable[[Any, keras.Model], keras.Model]  # takes recipes of its own methods


@dataclass(frozen=True)
class Method:
    """A way to train: what is fitted, and which networks come out of it.

    Attributes:
        trainer: `(recipe, network) -> model` whose `fit` trains.
        networks: `model -> {name: network}`, the networks to deploy; they hold Keras' own layers only.
    """

    trainer: Trainer
    networks: Callable[[keras.Model], dict[str, keras.Model]]


def _single(model: keras.Model) -> dict[str, keras.Model]:
    return {"model": with_keras_batch_normalization(fold(model))}


def _narrow(recipe: Narrow, network: keras.Model) -> keras.Model:
    small = adjoin(network, recipe.alpha, round_to=recipe.round_to).small(name=f"{network.name}_narrow")
    return with_fused_batch_normalization(keras.models.clone_model(small))  # the clone has new weights


def _plain(recipe: PlainRecipe | DistilledRecipe | JointRDRecipe, network: keras.Model) -> keras.Model:
    plain = remove_shortcuts(network, recipe.keep_projections)
    return with_fused_batch_normalization(dirac(plain) if recipe.dirac else plain)


def _plain_pair(recipe: JointRDAdjoinedRecipe, network: keras.Model) -> Adjoined:
    plain = with_fused_batch_normalization(remove_shortcuts(network, recipe.keep_projections))
    return adjoin(plain, recipe.alpha, round_to=recipe.round_to, epsilon=recipe.kl_epsilon)


def _teacher(recipe: Any) -> keras.Model:
    """The teacher; of a pruned network by default what it was."""
    return trained_network(recipe) if recipe.teacher is None else load_network(recipe.teacher)


def _distilled(recipe: Distilled, network: keras.Model) -> keras.Model:
    students: dict[str, Trainer] = {"distilled": _plain, "narrow_distilled": _narrow}
    student = students.get(recipe.method, _standard)(recipe, network)
    return Distillation(student, _teacher(recipe), _methods(recipe))


def _cohort(recipe: NarrowCohortRecipe, network: keras.Model) -> Cohort:
    return Cohort([_narrow(recipe, network), with_fused_batch_normalization(network)], *recipe.distill)


def _methods(recipe: Distilled | Routed) -> list[distillers.Distiller]:
    """What a student learns from its teacher by, besides the labels."""
    found = [distillers.KD(recipe.temperature, recipe.kd_weight)] * bool(recipe.kd_weight)
    found += [distillers.Overhaul(recipe.feature_weight)] * bool(recipe.feature_weight)
    options = {"kd": {"temperature": recipe.temperature}}
    return found + [distillers.get(name, **options.get(name, {})) for name in recipe.distill]


def _jointrd(recipe: Routed, network: keras.Model) -> keras.Model:
    students: dict[str, Trainer] = {"jointrd_adjoined": _plain_pair, "jointrd": _plain}
    student = students.get(recipe.method, _standard)(recipe, network)
    joint = recipe.teacher_mode == "joint"
    return JointRD(
        student,
        with_fused_batch_normalization(network) if joint else _teacher(recipe),
        tail_weight={
            "cosine": CosineFade(recipe.tail_floor, recipe.tail_fade),
            "linear": LinearFade(recipe.tail_floor, recipe.tail_fade),
            "constant": Constant(recipe.tail_floor),
        }[recipe.tail_schedule],
        methods=_methods(recipe),
        teacher_mode=recipe.teacher_mode,
        path_scale=recipe.path_scale,
        strict=recipe.get("keep_projections") is False,
    )


def _jointrd_networks(model: JointRD) -> dict[str, keras.Model]:
    networks = _single(model.student)
    return {**networks, "teacher": with_keras_batch_normalization(model.teacher)} if model.joint else networks


def _adjoined(recipe: AdjoinedRecipe, network: keras.Model) -> Adjoined:
    options: dict[str, Any] = {"epsilon": recipe.kl_epsilon, "objective": recipe.objective}
    if recipe.widths is None:
        return adjoin(network, recipe.alpha, round_to=recipe.round_to, **options)
    if recipe.widths == RANDOM:
        widths = _random_widths(recipe, network)
    else:
        widths = widths_of(network, load_network(recipe.widths))
    return adjoin(network, widths=widths, **options)


def _search(recipe: Budgeted, network: keras.Model) -> DAN:
    budget: dict[str, Any]
    if recipe.gamma:
        budget = {"gamma": recipe.gamma}
    elif recipe.target is not None:
        budget = {f"target_{recipe.budget}": recipe.target}
    else:
        uniform = profile(adjoin(network, recipe.alpha, round_to=recipe.round_to).small())
        budget = {f"target_{recipe.budget}": {"macs": uniform.macs, "parameters": uniform.parameters}[recipe.budget]}
    return search(
        network,
        recipe.alphas,
        round_to=recipe.round_to,
        ties=recipe.ties,
        warm_up=recipe.gate_warmup,
        latency_table=recipe.latency_table,
        seed=recipe.seed,
        epsilon=recipe.kl_epsilon,
        **budget,
    )


def _random_widths(recipe: Budgeted, network: keras.Model) -> dict[str, int]:
    """Widths drawn by the seed, each alpha as probable as another, until they cost nearly what the budget allows."""
    dan, rng = _search(replace(recipe, gamma=0.0), network), np.random.default_rng(recipe.seed)
    cost = dan.budget.cost
    target: Any = dan.target  # a number, since there is no `gamma`
    limit, best = target * cost.full * (1 + 1e-6), None
    for draw in range(10_000):
        choices = rng.integers(0, len(recipe.alphas), len(dan.groups)).tolist()
        spent = cost.of_choices(choices)
        if spent <= limit and (best is None or spent > best[0]):
            best = spent, choices
        if best is not None and best[0] > (1 - NEARLY * (1 + draw // 100)) * limit:
            return dan.widths_of(best[1])
    raise ValueError(
        f"Expected a budget that random widths of '{network.name}' can keep to. Received: alpha={recipe.alpha}, "
        f"target={recipe.target}, which is {limit:,.6g} {recipe.budget}."
    )


def _adjoined_networks(model: Adjoined) -> dict[str, keras.Model]:
    networks = {"full": model.full(), "small": model.small()}
    return {name: with_keras_batch_normalization(network) for name, network in networks.items()}


def _standard(recipe: Recipe, network: keras.Model) -> keras.Model:
    return with_fused_batch_normalization(network)


def _pruned_gradually(recipe: PrunedGraduallyRecipe, network: keras.Model) -> Pruning:
    names = ("regularizer", "strength", "begin", "end")
    return Pruning(network, importance_of(recipe), **{name: getattr(recipe, name) for name in names}, **recipe.budget())


METHODS: dict[str, Method] = {
    "standard": Method(_standard, _single),
    "plain": Method(_plain, _single),
    "distilled": Method(_distilled, lambda model: _single(model.student)),
    "jointrd": Method(_jointrd, _jointrd_networks),
    "narrow": Method(_narrow, _single),
    "standard_distilled": Method(_distilled, lambda model: _single(model.student)),
    "narrow_distilled": Method(_distilled, lambda model: _single(model.student)),
    "narrow_cohort": Method(_cohort, lambda model: _single(model.networks[0])),
    "adjoined": Method(_adjoined, _adjoined_networks),
    "search": Method(_search, _adjoined_networks),
    "jointrd_adjoined": Method(_jointrd, lambda model: _adjoined_networks(model.student)),
    "pruned": Method(_standard, _single),
    "pruned_gradually": Method(_pruned_gradually, lambda model: {"model": model.derive()}),
    "pruned_distilled": Method(_distilled, lambda model: _single(model.student)),
    "pruned_jointrd": Method(_jointrd, _jointrd_networks),
    "transfer": Method(_standard, _single),
}


def make_trainer(recipe: Recipe, info: DatasetInfo, kept: Mapping[str, Iterable[int]] | None = None) -> keras.Model:
    """The model whose `fit` is a recipe's training, with new weights or those of a trained network.

    Args:
        recipe: The recipe; teacher and widths, if it has them, are files.
        info: What is known of its data set.
        kept: The channels that a recipe keeps which prunes; see `tfjointrd.slim`.

    Raises:
        ValueError: If the network does not exist, or does not fit the data or the method.
        FileNotFoundError: If a file does not exist.
    """
    network = network_of(recipe, info)
    return METHODS[recipe.method].trainer(recipe, network if kept is None else slim(network, kept))
