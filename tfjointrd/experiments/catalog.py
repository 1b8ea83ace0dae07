"""Recipes by name, each at several scales.

A name says method, network, how many times narrower, and data: `resnet20_cifar10`, `plain_resnet20_cifar10`,
`jointrd_resnet20_cifar10`, `narrow_resnet20_a2_cifar10` (`kd_narrow_...` with a teacher's outputs as targets),
`an_resnet20_a2_cifar10`, and, by both papers at once, `jointrd_an_resnet20_a2_cifar10`. `search_resnet20_a2_cifar10`
learns widths that cost what those of alpha 2 do, `dan_resnet20_a2_cifar10` is the adjoined network of these widths,
`random_resnet20_a2_cifar10` one of random widths of that cost. At paper scale `resnet20_cifar10` has the settings of
Residual Distillation, `standard_resnet20_cifar10` those of Adjoined Networks; at the others they are the same. `PLAIN`
lists what stands for the method where the network is plain. ImageNet and
Imagenette are read from their files image by image. `tune_...` are the trainings by which the learning rates of scale
`study` were chosen.

    python -m tfjointrd recipes
    python -m tfjointrd run an_resnet20_a2_cifar10 --scale laptop --out runs
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Mapping

from tfjointrd.experiments.recipes import METHODS, RANDOM, SCALES, Recipe

_RECIPES: dict[str, dict[str, dict]] = {}  # name -> scale -> fields of `Recipe`, which is made when it is asked for

# === Settings: what a scale means ===

# Tuned once, for ResNet-20 on CIFAR-10 (JPEG q75 copy), and the same for every method, so that a table compares methods
# and not settings. Validation accuracy after 5 epochs, one seed, 2 cores: 79.1 % with learning rate 0.1, warm-up 0.1,
# weight decay 5e-4; 80.1 % with 0.2, 0.2, 5e-4; 79.8 % with 0.2, 0.2, 2.5e-4. Measured with `fit` directly; by recipe:
# `python -m tfjointrd train --data cifar10 --epochs 5 --learning-rate 0.2 --warmup 0.2 --weight-decay 5e-4 --out DIR`.
LAPTOP = {
    "epochs": 15,
    "batch_size": 128,
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "learning_rate": 0.2,
    "warmup": 0.2,
    "weight_decay": 5e-4,
}
# Deep networks take three times as long for a step.
LAPTOP_DEEP = {**LAPTOP, "epochs": 3}
# 1,437 images make few steps an epoch.
LAPTOP_DIGITS = {**LAPTOP, "epochs": 30, "batch_size": 64}
# Photographs at 64 pixels, so that a ResNet-18 can be trained on two cores. Neither timed nor tuned; learning rate and
# batch size keep the ratio of LAPTOP.
LAPTOP_IMAGENETTE = {**LAPTOP, "epochs": 15, "batch_size": 64, "learning_rate": 0.1, "image_size": 64}
# As many images an epoch as Imagenette has, other ones each time.
LAPTOP_IMAGENET = {**LAPTOP_IMAGENETTE, "images": 9469}
# Trainings to convergence that two cores can afford: CIFAR averaged down to 16 pixels, 45,000 images to learn from, and
# 5,000 by which settings were chosen; the test images are scored once, after the last epoch.
STUDY = {**LAPTOP, "epochs": 60, "image_size": 16, "held_out_for_validation": 0.1}
STUDY_DEEP = {**STUDY, "epochs": 40}
STUDY_FULL_SIZE = {**STUDY, "image_size": None}
STUDY_DIGITS = {**STUDY_FULL_SIZE, "batch_size": 64}
STUDY_IMAGENETTE = {**LAPTOP_IMAGENETTE, "epochs": 60, "held_out_for_validation": 0.1}
STUDY_IMAGENET = {**LAPTOP_IMAGENET, "epochs": 60}
# The highest learning rates there, by what is trained: those of 0.1, 0.2 and 0.4 whose networks of 20 layers were the
# most accurate after 15 epochs on the held-out images, one seed (`run tune_standard_resnet20_0.2_cifar10 --scale study`
# and so on, CIFAR-10 (JPEG q75 copy), one NVIDIA H200): standard 77.56, 78.90, 78.72 %; narrow 75.58, 75.68, 76.56 %;
# adjoined, full and small, 76.92 and 75.32, 78.16 and 77.10, 78.62 and 77.08 %. The standard error of one such figure
# is 0.6 points, so that neighbours tell nothing apart. Plain networks of 20 layers were not tuned.
STUDY_RATES = {"standard": 0.2, "plain": 0.2, "dirac": 0.2, "narrow": 0.4, "adjoined": 0.4}
# Of 56 layers, as yet those of 20.
STUDY_RATES_DEEP = {"standard": 0.2, "plain": 0.2, "dirac": 0.2, "narrow": 0.4, "adjoined": 0.4}
TUNED_RATES = (0.025, 0.05, 0.1, 0.2, 0.4)
SMOKE = {**LAPTOP, "epochs": 3, "batch_size": 32, "images": 512, "learning_rate": 0.05}
SMOKE_PHOTOGRAPHS = {**SMOKE, "epochs": 2, "batch_size": 16, "images": 48, "image_size": 32}

# Residual Distillation for CIFAR: the authors' code (200 epochs, steps at 100 and 150).
JOINTRD_PAPER = {
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (100, 150),
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "initializer": "fan_out",
}
# Residual Distillation for ImageNet, 224 pixels: the authors' code. The paper has no Imagenette; its settings here are
# those of ImageNet.
JOINTRD_PAPER_IMAGENET = {
    "epochs": 120,
    "batch_size": 512,
    "optimizer": "sgd",
    "schedule": "steps",
    "milestones": (30, 60, 90),
    "learning_rate": 0.2,
    "weight_decay": 1e-4,
    "initializer": "fan_out",
    "image_size": 224,
}
# The tails fade over 60 of 120 epochs.
TAILS_PAPER_IMAGENET = {"tail_floor": 5e-3, "tail_fade": 0.5}
# Weight of the feature loss at 32 pixels, and at 224, where a feature map has more pixels to sum over.
FEATURE_WEIGHT, FEATURE_WEIGHT_IMAGENET = 1e-3, 1e-4
# Adjoined Networks for CIFAR: the authors' code. Its augmentation (rotation, warp, light) is not among ours.
AN_PAPER = {
    "epochs": 100,
    "batch_size": 32,
    "optimizer": "adam",
    "schedule": "one_cycle",
    "learning_rate": 4e-3,
    "warmup": 0.1,
    "weight_decay": 1e-2,
    "initializer": "lecun_normal",
}
AN_PAPER_CIFAR100 = {**AN_PAPER, "epochs": 200}
# For ImageNet, whose crops the authors take from 35 % of the area on, ours from 8 %. Imagenette as above.
AN_PAPER_IMAGENET = {**AN_PAPER, "batch_size": 200, "image_size": 224}
# The term in the divergence of adjoined networks, Eqn 3. At the other scales it is computed from logits.
EPSILON_PAPER = {"kl_epsilon": 1e-6}


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
        raise ValueError(f"Expected `scale` to be one of {', '.join(_RECIPES[name])}. Received: scale='{scale}'.")
    return Recipe(**_RECIPES[name][scale], seed=seed)


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


# === The recipes ===

_CIFAR_NETWORKS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
_OTHER_NETWORKS = (
    *("wide_resnet18", "wide_resnet34", "wide_resnet50"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("xresnet18", "xresnet34", "xresnet50", "xresnet100", "xresnet101", "xresnet152"),
)
_IMAGENET_NETWORKS = ("resnet18", "resnet34", "resnet50")  # those of Residual Distillation at 224 pixels
_ALPHAS = (2, 4, 8)

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
    "feature_kd": {"method": "distilled", "feature_weight": FEATURE_WEIGHT},
    "feature_kd_dirac": {"method": "distilled", "feature_weight": FEATURE_WEIGHT, "dirac": True},
    "feature_kd_dirac_projections": {
        **{"method": "distilled", "feature_weight": FEATURE_WEIGHT, "dirac": True},
        "keep_projections": "downsampling",
    },
    "jointrd": {"method": "jointrd", "dirac": True, "feature_weight": FEATURE_WEIGHT},
    "jointrd_projections": {
        **{"method": "jointrd", "dirac": True, "feature_weight": FEATURE_WEIGHT},
        "keep_projections": "downsampling",
    },
    "jointrd_kd": {"method": "jointrd", "dirac": True, "feature_weight": FEATURE_WEIGHT, "kd_weight": 0.9},
    "jointrd_ordinary": {"method": "jointrd"},
    "jointrd_routing": {"method": "jointrd", "dirac": True},
    "jointrd_routing_projections": {"method": "jointrd", "dirac": True, "keep_projections": "downsampling"},
    "jointrd_routing_kd": {"method": "jointrd", "dirac": True, "kd_weight": 0.9},
    "jointrd_routing_to_zero": {"method": "jointrd", "dirac": True, "tail_floor": 0.0, "tail_fade": 0.5},
    "jointrd_routing_joint": {"method": "jointrd", "dirac": True, "teacher_mode": "joint", "path_scale": "mean"},
}


def _family(fields: Mapping) -> str:
    """What is trained by a recipe, for the choice of its learning rate at scale `study`."""
    if fields["method"] in ("narrow", "narrow_distilled"):
        return "narrow"
    if fields["method"] in ("adjoined", "search", "jointrd_adjoined"):
        return "adjoined"
    if fields["method"] in ("standard", "standard_distilled"):
        return "standard"
    return "dirac" if fields.get("dirac") else "plain"


def _register(name: str, scales: Mapping[str, Mapping], **fields) -> None:
    """Registers a recipe, at scale `study` with the learning rate that was chosen for its like."""
    rates = STUDY_RATES_DEEP if scales["study"]["epochs"] == STUDY_DEEP["epochs"] else STUDY_RATES
    if "image_size" not in scales["laptop"]:  # not for photographs
        scales = {**scales, "study": {**scales["study"], "learning_rate": rates[_family(fields)]}}
    register(name, scales, **fields)


def _register_all_methods(
    network: str,
    data: str,
    laptop: Mapping,
    study: Mapping,
    jointrd_paper: Mapping,
    an_paper: Mapping,
    smoke: Mapping = SMOKE,
) -> None:
    """Each method for one network and data set."""
    fields = {"network": network, "data": data}
    scales = {"smoke": smoke, "laptop": laptop, "study": study, "paper": jointrd_paper}
    _register(f"{network}_{data}", scales, method="standard", **fields)
    plain = {f"{prefix}_{network}": own for prefix, own in PLAIN.items()}
    # Both papers at once, as `jointrd` but with ordinary convolutions: those with an identity cannot be adjoined.
    both = {"method": "jointrd_adjoined", "feature_weight": FEATURE_WEIGHT}
    plain |= {f"jointrd_an_{network}_a{alpha}": {**both, "alpha": alpha} for alpha in _ALPHAS}
    for name, own in plain.items():
        taught = "teacher" in METHODS[own["method"]].names() and own.get("teacher_mode") != "joint"
        teacher = {"teacher": f"{network}_{data}"} if taught else {}
        settings = {scale: {**common, **own} for scale, common in scales.items()}
        if own.get("teacher_mode") == "joint":
            settings["laptop"]["path_scale"] = "sum"
        if jointrd_paper is JOINTRD_PAPER_IMAGENET:
            if "jointrd" in own["method"]:
                settings["paper"] = {**TAILS_PAPER_IMAGENET, **settings["paper"]}
            if "feature_weight" in own:
                settings["paper"]["feature_weight"] = FEATURE_WEIGHT_IMAGENET
        _register(f"{name}_{data}", settings, **fields, **own, **teacher)
    # The control: what the same teacher's features do for a network that keeps its shortcuts.
    control = {"method": "standard_distilled", "teacher": f"{network}_{data}"}
    weights = {scale: FEATURE_WEIGHT for scale in scales}
    if jointrd_paper is JOINTRD_PAPER_IMAGENET:
        weights["paper"] = FEATURE_WEIGHT_IMAGENET
    settings = {scale: {**common, "feature_weight": weights[scale]} for scale, common in scales.items()}
    _register(f"feature_kd_residual_{network}_{data}", settings, **fields, **control)
    widths = {"smoke": smoke, "laptop": laptop, "study": study, "paper": an_paper}
    _register(f"standard_{network}_{data}", widths, method="standard", **fields)
    _register_widths(network, data, widths)


def _with_epsilon(scales: Mapping[str, Mapping]) -> dict[str, Mapping]:
    return {**scales, "paper": {**scales["paper"], **EPSILON_PAPER}}


def _candidates(alpha: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(alpha.bit_length() + 1))


def _register_widths(network: str, data: str, scales: Mapping[str, Mapping]) -> None:
    """Narrow networks alone, by distillation, and adjoined; widths are rounded down, as in the paper, or searched."""
    fields = {"network": network, "data": data}
    adjoined = _with_epsilon(scales)
    for alpha in _ALPHAS:
        name = f"{network}_a{alpha}_{data}"
        _register(f"narrow_{name}", scales, method="narrow", alpha=alpha, **fields)
        own = {"method": "narrow_distilled", "kd_weight": 0.9, "alpha": alpha, "teacher": f"{network}_{data}"}
        _register(f"kd_narrow_{name}", scales, **fields, **own)
        _register(f"an_{name}", adjoined, method="adjoined", alpha=alpha, **fields)
        # The candidates of a search go one step beyond the widths whose cost they are to have.
        _register(f"search_{name}", adjoined, method="search", alpha=alpha, alphas=_candidates(alpha), **fields)
        _register(f"dan_{name}", adjoined, method="adjoined", alpha=alpha, widths=f"search_{name}", **fields)
        own = {"alpha": alpha, "alphas": _candidates(alpha), "widths": RANDOM}
        _register(f"random_{name}", adjoined, method="adjoined", **fields, **own)


for _network in (*_CIFAR_NETWORKS, *_OTHER_NETWORKS):
    _register_all_methods(_network, "digits", LAPTOP_DIGITS, STUDY_DIGITS, JOINTRD_PAPER, AN_PAPER)
for _network in (*_CIFAR_NETWORKS, "wide_resnet18", "wide_resnet34", "wide_resnet50"):
    _deep = _network in ("resnet56", "resnet110")
    _own = (LAPTOP_DEEP, STUDY_DEEP) if _deep else (LAPTOP, STUDY)
    _register_all_methods(_network, "cifar10", *_own, JOINTRD_PAPER, AN_PAPER)
    _register_all_methods(_network, "cifar100", *_own, JOINTRD_PAPER, AN_PAPER_CIFAR100)
_register_all_methods("resnet20", "fashion_mnist", LAPTOP, STUDY_FULL_SIZE, JOINTRD_PAPER, AN_PAPER)
for _network in _IMAGENET_NETWORKS:
    for _data, *_own in (
        ("imagenette", LAPTOP_IMAGENETTE, STUDY_IMAGENETTE),
        ("imagenet2012", LAPTOP_IMAGENET, STUDY_IMAGENET),
    ):
        _register_all_methods(
            _network, _data, *_own, JOINTRD_PAPER_IMAGENET, AN_PAPER_IMAGENET, smoke=SMOKE_PHOTOGRAPHS
        )
# The networks of Adjoined Networks (Tables 3 and 4) beyond the CIFAR ResNets, with its settings.
_DIGITS, _CIFAR = (SMOKE, LAPTOP_DIGITS, STUDY_DIGITS), (SMOKE, LAPTOP, STUDY)
_IMAGENETTE = (SMOKE_PHOTOGRAPHS, LAPTOP_IMAGENETTE, STUDY_IMAGENETTE)
_IMAGENET = (SMOKE_PHOTOGRAPHS, LAPTOP_IMAGENET, STUDY_IMAGENET)
for _network, _data, _own, _paper in (
    *((name, "digits", _DIGITS, AN_PAPER) for name in ("densenet121", "densenet169", "densenet201")),
    ("xresnet18", "cifar100", _CIFAR, AN_PAPER_CIFAR100),
    ("xresnet50", "cifar100", _CIFAR, AN_PAPER_CIFAR100),
    ("densenet121", "cifar100", (SMOKE, LAPTOP_DEEP, STUDY_DEEP), AN_PAPER_CIFAR100),
    ("xresnet50", "imagenette", _IMAGENETTE, AN_PAPER_IMAGENET),
    ("xresnet100", "imagenette", _IMAGENETTE, AN_PAPER_IMAGENET),
    ("xresnet50", "imagenet2012", _IMAGENET, AN_PAPER_IMAGENET),
    ("xresnet100", "imagenet2012", _IMAGENET, AN_PAPER_IMAGENET),
):
    _scales = dict(zip(SCALES, (*_own, _paper), strict=True))
    _register(f"{_network}_{_data}", _scales, method="standard", network=_network, data=_data)
    _register_widths(_network, _data, _scales)
# DAN-50 and DAN-100: widths from a search on a smaller set (Imagewoof in the paper), at paper scale with its price of
# multiply-accumulates, in the units of an honest count; see `tfjointrd.training.DAN`.
for _network, _gamma in (("xresnet50", 1.5e-10), ("xresnet100", 6.2e-13)):
    _search = dict(zip(SCALES, (*_IMAGENETTE, {**AN_PAPER_IMAGENET, "gamma": _gamma}), strict=True))
    _scales = dict(zip(SCALES, (*_IMAGENET, AN_PAPER_IMAGENET), strict=True))
    _name = f"search_{_network}_imagenette"
    register(_name, _with_epsilon(_search), method="search", network=_network, data="imagenette")
    register(
        f"dan_{_network}_imagenet2012",
        _with_epsilon(_scales),
        method="adjoined",
        network=_network,
        data="imagenet2012",
        widths=_name,
    )
# The trainings by which the learning rates of scale `study` were chosen: 15 epochs, scored on the held-out images.
for _network, _family_name in itertools.product(("resnet20", "resnet56"), STUDY_RATES):
    for _rate in TUNED_RATES:
        _own = {"epochs": 15, "learning_rate": _rate, "scored_on": "held_out"}
        register(
            f"tune_{_family_name}_{_network}_{_rate}_cifar10",
            {"smoke": {**SMOKE, "held_out_for_validation": 0.1, **_own, "epochs": 1}, "study": {**STUDY, **_own}},
            network=_network,
            data="cifar10",
            **(PLAIN.get(_family_name) or {"method": _family_name}),
        )
