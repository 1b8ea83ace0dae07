"""Recipes by name, each at several scales.

A name says method, network, how many times narrower, and data: `resnet20_cifar10`, `plain_resnet20_cifar10`,
`jointrd_resnet20_cifar10`, `narrow_resnet20_a2_cifar10` (`kd_narrow_...` with a teacher's outputs as targets,
`rkd_narrow_...`, `vid_narrow_...` and the like by the other methods of `tfjointrd.distillers`; `dml_narrow_...` and
`kdcl_narrow_...` beside the full network, from which it learns and which learns from it),
`an_resnet20_a2_cifar10`, `slimmable_resnet20_a2_cifar10` (every width on the labels), and, by both papers at once,
`jointrd_an_resnet20_a2_cifar10`. `search_resnet20_a2_cifar10` learns widths that cost what those of alpha 2 do,
`dan_resnet20_a2_cifar10` is the adjoined network of these widths, `random_resnet20_a2_cifar10` one of random widths of
that cost. At paper scale `resnet20_cifar10` has the settings of Residual Distillation, `standard_resnet20_cifar10`
those of Adjoined Networks; at the others they are the same. `PLAIN` lists the prefixes of recipes for networks without
shortcuts.

`pruned_resnet20_cifar10` is the trained `resnet20_cifar10` with 2.1 times fewer multiply-accumulates, fine-tuned;
`pruned_kd_...` with the outputs of the unpruned network as targets; `pruned_plain_...` that of `plain_...`;
`pruned_jointrd_...` that of `jointrd_...`, fine-tuned by JointRD with the same teacher; `pruned_taylor_...` and so on
by another criterion than `l2`. `pruned_gradually_...` loses its channels step by step in the same training,
`pruned_gradually_group_...` with the norms of its channels in the loss.

ImageNet and Imagenette are read from their files image by image. `tune_...` are the trainings by which the learning
rates of scale `study` were chosen.

There are recipes for what the papers train, and small stand-ins. `python -m tfjointrd train` trains anything else.

    python -m tfjointrd recipes
    python -m tfjointrd run an_resnet20_a2_cifar10 --scale laptop --out runs
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from tfjointrd.experiments import settings
from tfjointrd.experiments.recipes import METHODS, RANDOM, SCALES, Recipe

_RECIPES: dict[str, dict[str, dict]] = {}  # name -> scale -> fields of `Recipe`, which is made when it is asked for


def names(pattern: str = "*") -> list[str]:
    """Names of the registered recipes.

    Args:
        pattern: Shell pattern that they match, e.g. `*_cifar10`.
    """
    return [name for name in _RECIPES if fnmatch.fnmatch(name, pattern)]


def get(name: str, scale: str = "laptop", seed: int = 0) -> Recipe:
    """A recipe by its name.

    Args:
        name: One of `names()`.
        scale: `smoke` (seconds, to see that it runs), `laptop` (minutes to hours on a few cores), `study` (to
            convergence, with settings chosen on held-out images) or `paper` (the papers' own settings).
        seed: Seed of weights, data order and augmentation.

    Raises:
        ValueError: If there is none; the message names the nearest ones.

    Example:

    >>> get("an_resnet20_a2_cifar10").method
    'adjoined'
    """
    if name not in _RECIPES:
        near = difflib.get_close_matches(name, _RECIPES, n=3, cutoff=0.5)
        raise ValueError(
            f"Expected the name of a recipe; `python -m tfjointrd recipes` lists them. Received: '{name}'."
            + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    if scale not in _RECIPES[name]:
        raise ValueError(
            f"Expected `scale` to be one of {', '.join(scales(name))} for '{name}'. Received: scale='{scale}'."
        )
    return Recipe(**_RECIPES[name][scale], seed=seed)


def network_and_data(name: str) -> tuple[str, str]:
    """The network and the data set of a recipe; of one that begins with the network of another, that one's."""
    fields = next(iter(_RECIPES[name].values()))
    network = fields["network"]
    return network_and_data(network)[0] if network in _RECIPES else network, fields["data"]


def scales(name: str) -> tuple[str, ...]:
    """The scales that a recipe has, from the smallest on."""
    return tuple(scale for scale in SCALES if scale in _RECIPES[name])


def register(name: str, scales: Mapping[str, Mapping], **fields) -> None:
    """Registers a recipe.

    Args:
        name: Its name.
        scales: Fields of `Recipe` that belong to a scale, for some of `smoke`, `laptop`, `study` and `paper`.
        **fields: Fields of `Recipe` that are the same at all scales.

    Raises:
        ValueError: If the name is taken, or there is no such scale.
    """
    if name in _RECIPES:
        raise ValueError(f"Expected a new name. Received: '{name}', which is registered.")
    if not scales or set(scales) - set(SCALES):
        raise ValueError(f"Expected settings for some of {', '.join(SCALES)}. Received: {', '.join(scales)}.")
    _RECIPES[name] = {scale: {**fields, **own, "name": name, "scale": scale} for scale, own in scales.items()}


# === How a network is trained: by name ===

_ALPHAS = (2, 4, 8)

# The ways to distil of Adjoined Networks' Table 2 and others, beside Hinton's, by their names in recipes. DKD's weight
# differs from pair to pair in the authors' code; this is that of ResNet-56 and ResNet-20.
DISTILLED = {
    **{name: name for name in ("fitnets", "at", "rkd", "cc", "vid", "ft", "review_kd", "overhaul")},
    "dkd": "dkd:others_weight=2",
}
COHORTS = ("dml", "kdcl")  # names of `tfjointrd.distillers.PEER_METHODS`
DISTILLED_DATA = ("digits", "cifar10")

# How a network without shortcuts is trained. `jointrd` is the combination that holds: Dirac convolutions, routing
# through the teacher's later stages, and the distance to its features. `jointrd_routing` leaves the features out,
# `feature_kd_dirac` the routing; `jointrd_projections` and `feature_kd_dirac_projections` keep the shortcuts that halve
# the resolution, as the authors' own student does; variants of `jointrd_routing` change one thing in it;
# `jointrd_ordinary` has ordinary convolutions; the others are what they are compared with. In `jointrd_routing_joint`
# the loss is the mean over the paths, as the authors' is where the teacher is trained beside; at laptop scale it is the
# sum, with which the network in saved_models was trained.
PLAIN: dict[str, dict] = {
    "plain": {"method": "plain"},
    "dirac": {"method": "plain", "dirac": True},
    "kd": {"method": "distilled", "kd_weight": 0.9},
    "kd_dirac": {"method": "distilled", "kd_weight": 0.9, "dirac": True},
    "feature_kd": {"method": "distilled", "feature_weight": settings.FEATURE_WEIGHT},
    "feature_kd_dirac": {"method": "distilled", "feature_weight": settings.FEATURE_WEIGHT, "dirac": True},
    "feature_kd_dirac_projections": {
        **{"method": "distilled", "feature_weight": settings.FEATURE_WEIGHT, "dirac": True},
        "keep_projections": "downsampling",
    },
    "jointrd": {"method": "jointrd", "dirac": True, "feature_weight": settings.FEATURE_WEIGHT},
    "jointrd_projections": {
        **{"method": "jointrd", "dirac": True, "feature_weight": settings.FEATURE_WEIGHT},
        "keep_projections": "downsampling",
    },
    "jointrd_kd": {"method": "jointrd", "dirac": True, "feature_weight": settings.FEATURE_WEIGHT, "kd_weight": 0.9},
    "jointrd_ordinary": {"method": "jointrd"},
    "jointrd_routing": {"method": "jointrd", "dirac": True},
    "jointrd_routing_projections": {"method": "jointrd", "dirac": True, "keep_projections": "downsampling"},
    "jointrd_routing_kd": {"method": "jointrd", "dirac": True, "kd_weight": 0.9},
    "jointrd_routing_to_zero": {"method": "jointrd", "dirac": True, "tail_floor": 0.0, "tail_fade": 0.5},
    "jointrd_routing_joint": {"method": "jointrd", "dirac": True, "teacher_mode": "joint", "path_scale": "mean"},
}


# The most telling ones, for networks other than those that all are trained with.
MAIN = ("plain", "dirac", "kd_dirac", "feature_kd_dirac", "jointrd", "jointrd_projections")


def _register(name: str, scales: Mapping[str, Mapping], **fields) -> None:
    """Registers a recipe, at scale `study` with the learning rate that was chosen for its like."""
    if "study" not in scales:
        register(name, scales, **fields)
        return
    deep = scales["study"]["epochs"] == settings.STUDY_DEEP["epochs"]
    rates = settings.STUDY_RATES_DEEP if deep else settings.STUDY_RATES
    study = {**scales["study"], "learning_rate": rates[settings.family(fields)]}
    register(name, {**scales, "study": study}, **fields)


def _register_plain(network: str, data: str, scales: Mapping[str, Mapping], prefixes: Iterable[str]) -> None:
    """A network with its shortcuts, and without them in all ways named; with the settings of Residual Distillation."""
    fields = {"network": network, "data": data}
    teacher = {"teacher": f"{network}_{data}"}
    _register(f"{network}_{data}", scales, method="standard", **fields)
    plain = {f"{prefix}_{network}": PLAIN[prefix] for prefix in prefixes}
    # The control: what the same teacher's features do for a network that keeps its shortcuts.
    plain[f"feature_kd_residual_{network}"] = {
        "method": "standard_distilled",
        "feature_weight": settings.FEATURE_WEIGHT,
    }
    # Both papers at once, as `jointrd` but with ordinary convolutions: those with an identity cannot be adjoined.
    both = {"method": "jointrd_adjoined", "feature_weight": settings.FEATURE_WEIGHT}
    plain |= {f"jointrd_an_{network}_a{alpha}": {**both, "alpha": alpha} for alpha in _ALPHAS}
    for name, own in plain.items():
        taught = "teacher" in METHODS[own["method"]].names() and own.get("teacher_mode") != "joint"
        own_scales = {scale: {**common, **own} for scale, common in scales.items()}
        if own.get("teacher_mode") == "joint":
            own_scales["laptop"]["path_scale"] = "sum"
        if scales["paper"] is settings.JOINTRD_PAPER_IMAGENET:
            if "jointrd" in own["method"]:
                own_scales["paper"] = {**settings.TAILS_PAPER_IMAGENET, **own_scales["paper"]}
            if "feature_weight" in own:
                own_scales["paper"]["feature_weight"] = settings.FEATURE_WEIGHT_IMAGENET
        _register(f"{name}_{data}", own_scales, **fields, **own, **(teacher if taught else {}))


def _register_widths(network: str, data: str, scales: Mapping[str, Mapping], teacher: str) -> None:
    """Narrow networks alone, by distillation, and adjoined, with the settings of Adjoined Networks.

    Widths are rounded down, as in the paper, or searched.
    """
    fields = {"network": network, "data": data}
    adjoined = _with_epsilon(scales)
    for alpha in _ALPHAS:
        name = f"{network}_a{alpha}_{data}"
        candidates = tuple(2**i for i in range(alpha.bit_length() + 1))  # one step beyond the widths of equal cost
        _register(f"narrow_{name}", scales, method="narrow", alpha=alpha, **fields)
        own = {"method": "narrow_distilled", "kd_weight": 0.9, "alpha": alpha, "teacher": teacher}
        _register(f"kd_narrow_{name}", scales, **fields, **own)
        if alpha == 2 and data in DISTILLED_DATA:
            for prefix, way in DISTILLED.items():
                own = {"method": "narrow_distilled", "distill": (way,), "alpha": alpha, "teacher": teacher}
                _register(f"{prefix}_narrow_{name}", scales, **fields, **own)
            for way in COHORTS:
                own = {"method": "narrow_cohort", "distill": (way,), "alpha": alpha}
                _register(f"{way}_narrow_{name}", scales, **fields, **own)
        _register(f"an_{name}", adjoined, method="adjoined", alpha=alpha, **fields)
        _register(f"slimmable_{name}", scales, method="adjoined", objective="slimmable", alpha=alpha, **fields)
        _register(f"search_{name}", adjoined, method="search", alpha=alpha, alphas=candidates, **fields)
        _register(f"dan_{name}", adjoined, method="adjoined", alpha=alpha, widths=f"search_{name}", **fields)
        own = {"alpha": alpha, "alphas": candidates, "widths": RANDOM}
        _register(f"random_{name}", adjoined, method="adjoined", **fields, **own)


def _register_pruned(network: str, data: str, scales: Mapping[str, Mapping], criteria: Iterable[str] = ()) -> None:
    """Networks of other recipes, with shortcuts and without, pruned and fine-tuned."""
    residual = f"{network}_{data}"
    joint = {
        scale: {"feature_weight": settings.FEATURE_WEIGHT_IMAGENET, **settings.TAILS_PAPER_IMAGENET, **common}
        if common is settings.PRUNED_PAPER_IMAGENET
        else {"feature_weight": settings.FEATURE_WEIGHT, **common}
        for scale, common in scales.items()
    }
    found: dict[str, dict[str, Any]] = {
        "": {"method": "pruned", "network": residual},
        "gradually_": {"method": "pruned_gradually", "network": residual},
        "gradually_group_": {"method": "pruned_gradually", "network": residual, "regularizer": "group"},
        "kd_": {"method": "pruned_distilled", "network": residual, "teacher": residual, "kd_weight": 0.9},
        "plain_": {"method": "pruned", "network": f"plain_{residual}"},
        "jointrd_": {"method": "pruned_jointrd", "network": f"jointrd_{residual}", "teacher": residual},
        **{f"{name}_": {"method": "pruned", "network": residual, "importance": name} for name in criteria},
    }
    for prefix, own in found.items():
        register(f"pruned_{prefix}{residual}", joint if prefix == "jointrd_" else scales, data=data, **own)


def _with_epsilon(scales: Mapping[str, Mapping]) -> dict[str, Mapping]:
    return {**scales, "paper": {**scales["paper"], **settings.EPSILON_PAPER}}


def _scales(kind: str, paper: Mapping) -> dict[str, Mapping]:
    return {**_BELOW_PAPER[kind], "paper": paper}


_BELOW_PAPER: dict[str, dict[str, Mapping]] = {
    "digits": {"smoke": settings.SMOKE, "laptop": settings.LAPTOP_DIGITS, "study": settings.STUDY_DIGITS},
    "cifar": {"smoke": settings.SMOKE, "laptop": settings.LAPTOP, "study": settings.STUDY},
    "cifar deep": {"smoke": settings.SMOKE, "laptop": settings.LAPTOP_DEEP, "study": settings.STUDY_DEEP},
    "full size": {"smoke": settings.SMOKE, "laptop": settings.LAPTOP, "study": settings.STUDY_FULL_SIZE},
    "imagenette": {"smoke": settings.SMOKE_PHOTOGRAPHS, "laptop": settings.LAPTOP_IMAGENETTE},
    "imagenet": {"smoke": settings.SMOKE_PHOTOGRAPHS, "laptop": settings.LAPTOP_IMAGENET},
}

# === What there is ===

_JOINTRD, _JOINTRD_IMAGENET = settings.JOINTRD_PAPER, settings.JOINTRD_PAPER_IMAGENET
_AN, _AN_IMAGENET = settings.AN_PAPER, settings.AN_PAPER_IMAGENET

# Residual Distillation: network, data, settings, and how it is trained without shortcuts. CIFAR (Table 3) and ImageNet
# (Table 4) by the paper's networks and by small ones.
for _network, _data, _kind, _paper, _prefixes in (
    *((name, "digits", "digits", _JOINTRD, PLAIN) for name in ("resnet20", "resnet56")),
    ("resnet20", "cifar10", "cifar", _JOINTRD, PLAIN),
    ("resnet56", "cifar10", "cifar deep", _JOINTRD, PLAIN),
    *((name, "cifar10", "cifar", _JOINTRD, MAIN) for name in ("resnet32", "resnet44")),
    ("resnet110", "cifar10", "cifar deep", _JOINTRD, MAIN),
    ("resnet20", "fashion_mnist", "full size", _JOINTRD, MAIN),
    *(
        (name, data, "cifar", _JOINTRD, MAIN)
        for name in ("wide_resnet18", "wide_resnet34", "wide_resnet50")
        for data in ("cifar10", "cifar100")
    ),
    ("resnet56", "cifar100", "cifar deep", _JOINTRD, MAIN),
    *((name, "imagenette", "imagenette", _JOINTRD_IMAGENET, PLAIN) for name in ("resnet18", "resnet34", "resnet50")),
    *(
        (name, "imagenet2012", "imagenet", _JOINTRD_IMAGENET, (*MAIN, "kd"))  # which Table 4 has beside JointRD
        for name in ("resnet18", "resnet34", "resnet50")
    ),
):
    _register_plain(_network, _data, _scales(_kind, _paper), _prefixes)

# Adjoined Networks: network, data, settings (Tables 1 to 4).
for _network, _data, _kind, _paper in (
    *((name, "digits", "digits", _AN) for name in ("resnet20", "resnet56")),
    *((name, "cifar10", "cifar", _AN) for name in ("resnet20", "resnet32", "resnet44")),
    *((name, "cifar10", "cifar deep", _AN) for name in ("resnet56", "resnet110")),
    ("resnet20", "fashion_mnist", "full size", _AN),
    ("resnet56", "cifar100", "cifar deep", settings.AN_PAPER_CIFAR100),
    *((name, "cifar100", "cifar", settings.AN_PAPER_CIFAR100) for name in ("xresnet18", "xresnet50")),
    ("densenet121", "cifar100", "cifar deep", settings.AN_PAPER_CIFAR100),
    *((name, "imagenette", "imagenette", _AN_IMAGENET) for name in ("resnet18", "xresnet50", "xresnet100")),
    *((name, "imagenet2012", "imagenet", _AN_IMAGENET) for name in ("xresnet50", "xresnet100")),
):
    # Alone, with these settings: at paper scale `resnet20_cifar10` has those of Residual Distillation.
    _alone = f"{_network}_{_data}"
    if _alone in _RECIPES:
        _register(f"standard_{_alone}", _scales(_kind, _paper), method="standard", network=_network, data=_data)
    else:
        _register(_alone, _scales(_kind, _paper), method="standard", network=_network, data=_data)
    _register_widths(_network, _data, _scales(_kind, _paper), _alone)

# DAN-50 and DAN-100: widths from a search on a smaller set (Imagewoof in the paper), at paper scale with its price of
# multiply-accumulates, in the units of an honest count; see `tfjointrd.training.DAN`.
for _network, _gamma in (("xresnet50", 1.5e-10), ("xresnet100", 6.2e-13)):
    _name = f"search_{_network}_imagenette"
    _priced = _scales("imagenette", {**_AN_IMAGENET, "gamma": _gamma})
    register(_name, _with_epsilon(_priced), method="search", network=_network, data="imagenette")
    _own = {"method": "adjoined", "network": _network, "data": "imagenet2012", "widths": _name}
    register(f"dan_{_network}_imagenet2012", _with_epsilon(_scales("imagenet", _AN_IMAGENET)), **_own)

# Pruned networks: network, data, settings, and criteria where papers compare them. Residual Distillation says in
# section 1 that a network without shortcuts benefits from pruning as much as its ResNet, on CIFAR-100 and ImageNet.
for _network, _data, _kind, _paper, _criteria in (
    ("resnet20", "digits", "digits", settings.PRUNED_PAPER, ()),
    ("resnet20", "cifar10", "cifar", settings.PRUNED_PAPER, settings.CRITERIA),
    ("resnet56", "cifar10", "cifar deep", settings.PRUNED_PAPER, settings.CRITERIA),
    ("resnet56", "cifar100", "cifar deep", settings.PRUNED_PAPER, ()),
    *((name, "imagenette", "imagenette", settings.PRUNED_PAPER_IMAGENET, ()) for name in ("resnet18", "resnet50")),
):
    _register_pruned(_network, _data, settings.fine_tuned(_BELOW_PAPER[_kind], _paper), _criteria)

# The trainings by which the learning rates of scale `study` were chosen: 15 epochs, scored on the held-out images.
for _network, _family, _rate in itertools.product(("resnet20", "resnet56"), settings.STUDY_RATES, settings.TUNED_RATES):
    _tuned = {"learning_rate": _rate, "scored_on": "held_out", "held_out_for_validation": 0.1}
    register(
        f"tune_{_family}_{_network}_{_rate}_cifar10",
        {"smoke": {**settings.SMOKE, **_tuned, "epochs": 1}, "study": {**settings.STUDY, **_tuned, "epochs": 15}},
        network=_network,
        data="cifar10",
        **(PLAIN.get(_family) or {"method": _family}),
    )
