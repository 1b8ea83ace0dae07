"""The trainings at scale `study` in their order, and what both papers claim of them, written down before they ran."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tfjointrd.experiments import card as cards
from tfjointrd.experiments import catalog
from tfjointrd.experiments.card_images import same_images

# === The order: the most informative first, seed by seed ===

# Learning rates of the networks of 56 layers. The plain one comes first: with the others' rate it would be a straw man.
TUNING = tuple(f"tune_plain_resnet56_{rate}_cifar10" for rate in (0.05, 0.1, 0.2))
# The other ways to distil of Adjoined Networks' Table 2, and pruning, each beside the small networks of `NARROW`.
DISTILLED = tuple(f"{prefix}_narrow_resnet20_a2_cifar10" for prefix in (*catalog.DISTILLED, *catalog.COHORTS))
PRUNED = tuple(
    f"{name}resnet20_cifar10"
    for name in (
        *("pruned_", "pruned_random_", "pruned_gradually_", "pruned_taylor_", "plain_", "pruned_plain_", "jointrd_"),
        *("pruned_jointrd_", "pruned_kd_", "pruned_gradually_group_", "pruned_fpgm_", "pruned_l1_", "pruned_gamma_"),
        *("pruned_lamp_", "pruned_nisp_", "pruned_hrank_"),
    )
)
TUNING_OTHERS = tuple(
    f"tune_{family}_resnet56_{rate}_cifar10" for family in ("standard", "dirac") for rate in (0.1, 0.2)
)
NARROW = tuple(
    f"{name}_cifar10" for name in ("resnet20", "narrow_resnet20_a2", "kd_narrow_resnet20_a2", "an_resnet20_a2")
)
PLAIN = tuple(
    f"{prefix}resnet56_cifar10"
    for prefix in (
        "",
        "plain_",
        "dirac_",
        "kd_dirac_",
        "feature_kd_dirac_",
        "jointrd_routing_",
        "jointrd_",
        "jointrd_projections_",
    )
)
CONTROL = ("feature_kd_residual_resnet56_cifar10",)  # does the teacher help the plain network more than a ResNet?
WIDTHS = tuple(
    f"{name}_cifar10" for name in ("search_resnet20_a2", "dan_resnet20_a2", "random_resnet20_a2", "an_resnet20_a4")
)
FASHION = tuple(name.replace("cifar10", "fashion_mnist") for name in NARROW)

ORDER: tuple[tuple[str, int], ...] = (
    *((name, 0) for name in (*TUNING, *NARROW, *DISTILLED, *PRUNED, *TUNING_OTHERS, *PLAIN, *CONTROL, *WIDTHS)),
    *((name, 1) for name in (*NARROW, *PLAIN, *CONTROL, *WIDTHS)),
    *((name, 2) for name in NARROW),
    *((name, seed) for seed in (0, 1, 2) for name in FASHION),
)

# === What is claimed ===


@dataclass(frozen=True)
class Claim:
    """A claim about a difference of accuracies, and what would count as holding.

    Attributes:
        statement: The claim.
        source: Where the paper makes it.
        terms: What is added up: `(sign, recipe, network)`.
        at_least: The mean over the seeds, in points of top-1, from which on it holds.
        expected: What was expected before the trainings ran, and why.
    """

    statement: str
    source: str
    terms: tuple[tuple[int, str, str], ...]
    at_least: float
    expected: str


def _gain(better: tuple[str, str], worse: tuple[str, str]) -> tuple[tuple[int, str, str], ...]:
    """The accuracy of one network less that of another; each as the beginning of a recipe's name, and network."""
    return tuple((sign, f"{recipe}_cifar10", network) for sign, (recipe, network) in ((1, better), (-1, worse)))


def _jointrd(name: str) -> tuple[str, str]:
    return f"{name}resnet56", "model"


# Seeds spread by about 0.25 to 0.3 points at convergence (assumed). Three paired seeds can show a gain of 1 point;
# to show that two networks are equal within 0.5 points takes about five.
CLAIMS = (
    Claim(
        "A plain network trained by JointRD is as accurate as its ResNet.",
        "Residual Distillation, abstract (76.08 % against 76.11 %, ImageNet, 50 layers)",
        _gain(_jointrd("jointrd_"), _jointrd("")),
        -0.5,
        "Open. After 3 epochs JointRD was ahead, because it learns faster; at convergence the ResNet may lead.",
    ),
    Claim(
        "JointRD trains a plain network better than ordinary training does.",
        "Residual Distillation, section 1",
        _gain(_jointrd("jointrd_"), _jointrd("plain_")),
        1.0,
        "Holds, by several points: a plain network of 56 layers trains badly.",
    ),
    Claim(
        "JointRD trains a plain network better than distillation by the teacher's outputs does.",
        "Residual Distillation, abstract (76.08 % against 71.47 %)",
        _gain(_jointrd("jointrd_"), _jointrd("kd_dirac_")),
        0.5,
        "Open. Both students have Dirac convolutions here, which narrows the gap.",
    ),
    Claim(
        "The features of the teacher help a plain network that has Dirac convolutions already.",
        "Residual Distillation, Figure 1 (SF and TF)",
        _gain(_jointrd("feature_kd_dirac_"), _jointrd("dirac_")),
        0.5,
        "Holds.",
    ),
    Claim(
        "Routing through the teacher's later stages adds to its features.",
        "Residual Distillation, section 1 and Figure 1",
        _gain(_jointrd("jointrd_"), _jointrd("feature_kd_dirac_")),
        0.5,
        "Does not hold: after 15 epochs at depth 20 and 3 at depth 56 nothing showed.",
    ),
    Claim(
        "The teacher's features help the plain network more than they help a ResNet.",
        "Residual Distillation says that the teacher makes up for the missing shortcuts; the control is ours",
        (
            *_gain(_jointrd("feature_kd_dirac_"), _jointrd("dirac_")),
            *_gain(_jointrd(""), _jointrd("feature_kd_residual_")),
        ),
        0.5,
        "Open.",
    ),
    Claim(
        "The small network of an adjoined pair is more accurate than the same network trained alone.",
        "Adjoined Networks, Tables 1 and 3",
        _gain(("an_resnet20_a2", "small"), ("narrow_resnet20_a2", "model")),
        0.5,
        "Open. After 15 epochs the gain was 0.3, within the spread.",
    ),
    Claim(
        "The small network of an adjoined pair is more accurate than the same network distilled.",
        "Adjoined Networks, Table 2",
        _gain(("an_resnet20_a2", "small"), ("kd_narrow_resnet20_a2", "model")),
        0.5,
        "Open.",
    ),
    Claim(
        "The small network of an adjoined pair is more accurate than a pruned one of fewer multiply-accumulates.",
        "Adjoined Networks, Table 1 and Figure 4",
        _gain(("an_resnet20_a2", "small"), ("pruned_resnet20", "model")),
        0.5,
        "Does not hold: fine-tuning comes on top of the full network's training: the pruned one sees more images.",
    ),
    Claim(
        "A plain network that JointRD trained prunes as well as its ResNet.",
        "Residual Distillation, on pruning",
        _gain(("pruned_jointrd_resnet20", "model"), ("pruned_resnet20", "model")),
        -0.5,
        "Open.",
    ),
    Claim(
        "Adjoining regularises: the full network becomes more accurate than when trained alone.",
        "Adjoined Networks, Table 4",
        _gain(("an_resnet20_a2", "full"), ("resnet20", "model")),
        0.5,
        "Does not hold: a ResNet-20 does not overfit in 60 epochs, so there is little to regularise.",
    ),
    Claim(
        "Widths that were searched are better than the same width everywhere, at equal multiply-accumulates.",
        "Adjoined Networks, section 5 and Table 1 (DAN)",
        _gain(("dan_resnet20_a2", "small"), ("an_resnet20_a2", "small")),
        0.5,
        "Open. After 15 epochs the gain was 0.3.",
    ),
    Claim(
        "Widths that were searched are better than random ones, at equal multiply-accumulates.",
        "Adjoined Networks, section 5; the control is ours",
        _gain(("dan_resnet20_a2", "small"), ("random_resnet20_a2", "small")),
        0.5,
        "Open. After 15 epochs the gain was 0.4.",
    ),
)


def differences(claim: Claim, out: str | PathLike, scale: str = "study") -> dict[int, float]:
    """What a claim's terms add up to, for each seed that all of them were trained with, in points of top-1.

    Args:
        claim: The claim.
        out: Folder of the recipes' folders.
        scale: The scale of the trainings. Cards of other settings do not count, nor do those of different images.
    """
    found: list[dict[int, float]] = []
    terms: list[dict] = []
    for sign, name, network in claim.terms:
        folder = Path(out) / name
        if not (folder / cards.CARD).is_file():
            return {}
        try:
            card = cards.read(folder, catalog.get(name, scale))
        except ValueError:  # of another training
            return {}
        terms.append(card)
        if not same_images(terms[0], card):
            return {}
        seeds = card["seeds"]
        found.append({int(seed): 100 * sign * entry["accuracy"][network]["keras"] for seed, entry in seeds.items()})
    common = set.intersection(*(set(accuracies) for accuracies in found))
    return {seed: sum(accuracies[seed] for accuracies in found) for seed in sorted(common)}


def verdict(claim: Claim, out: str | PathLike, scale: str = "study") -> str:
    """Whether a claim held, with the mean difference and its range over the seeds; `not run` if nothing was trained."""
    values: Sequence[float] = list(differences(claim, out, scale).values())
    if not values:
        return "not run"
    mean = statistics.mean(values)
    spread = f", {min(values):+.2f} to {max(values):+.2f}" if len(values) > 1 else ""
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
    held = "held" if mean >= claim.at_least else "not held"
    return f"{held}: {mean:+.2f} points ({seeds}{spread}), at least {claim.at_least:+.1f} was asked for"
