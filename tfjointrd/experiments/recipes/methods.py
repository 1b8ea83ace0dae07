"""The fields of each method that begins with a new network; `trained` has the others.

`tfjointrd.experiments.trainers` has, under the same names, how they train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tfjointrd.experiments.recipes.base import RANDOM, Recipe, method
from tfjointrd.experiments.recipes.option import option

# === What several methods have ===


@dataclass(frozen=True, kw_only=True)
class Narrow(Recipe):
    """What is narrower by a factor."""

    alpha: int = option(
        2, "How many times narrower the network is after its first stage; its cost is the budget of a search.", least=1
    )
    round_to: int = option(
        1,
        "Multiple that widths are rounded to; 1 rounds down, as in the paper. For `pruned` the default is 8.",
        least=1,
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class _KeepsProjections(Recipe):
    keep_projections: bool | str = option(
        False,
        "Whether a plain network keeps the shortcuts that have weights, or only those that change the resolution, "
        "`downsampling`.",
        choices=(False, True, "downsampling"),
    )


@dataclass(frozen=True, kw_only=True)
class _Plain(_KeepsProjections):
    dirac: bool = option(
        False, "Whether the convolutions of a plain network are trained as an identity plus a correction."
    )


@dataclass(frozen=True, kw_only=True)
class _Taught(Recipe):
    files: ClassVar[dict[str, str]] = {"teacher": ".keras"}
    needs_teacher: ClassVar[bool] = True

    teacher: str | None = option(
        None,
        "The teacher, which takes pixels from 0 to 255: a `.keras` file; in named recipes also the name of the "
        "recipe that trains it. For `pruned_...` it is by default the network before it was pruned.",
        kind=str,
    )
    kd_weight: float = option(0.0, "Weight of the teacher's outputs as targets.", least=0, most=1)
    temperature: float = option(4.0, "Temperature of these targets.", above=0)
    feature_weight: float = option(0.0, "Weight of the distance to the teacher's last feature map.", least=0)
    distill: tuple[str, ...] = option(
        (),
        "Further ways to distil by their names, as `kd rkd`, with the settings of their papers, or others, as "
        "`dkd:others_weight=2`; see `tfjointrd.distillers.METHODS`. For `narrow_cohort` one of `dml`, the default, "
        "and `kdcl`.",
        kind=str,
        later=True,
    )

    def check(self):
        super().check()
        if self.distill:
            self._check_distill()
        if self.teacher is None and self.needs_teacher and getattr(self, "teacher_mode", "frozen") == "frozen":
            raise ValueError(
                f"Expected `teacher`, a trained network's .keras file or recipe, for method '{self.method}'."
            )

    def _check_distill(self) -> None:
        # imports Keras, which lists of options do without
        from tfjointrd.training.distillers import PEER_METHODS, get, name_and_options

        ways = [name_and_options(way)[0] for way in self.distill]
        cohorts = [name for name in ways if name in PEER_METHODS]
        if cohorts:
            raise ValueError(
                f"Expected ways by which a teacher trains a student for method '{self.method}'. Received: "
                f"'{cohorts[0]}', which trains a cohort; that is method 'narrow_cohort'."
            )
        weights = {"kd": self.kd_weight, "overhaul": self.feature_weight}
        named = [*ways, *(name for name, weight in weights.items() if weight)]
        for name in self.distill:
            get(name)
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                "Expected each way to distil once; `kd_weight` is that of 'kd', `feature_weight` that of 'overhaul'. "
                f"Received: distill={self.distill}, kd_weight={self.kd_weight}, feature_weight={self.feature_weight}."
            )


@dataclass(frozen=True, kw_only=True)
class Distilled(_Taught):
    """What has the outputs or features of a teacher as targets."""

    def check(self):
        """Checks fields against each other."""
        super().check()
        if not (self.kd_weight or self.feature_weight or self.distill):
            raise ValueError(
                f"Expected `kd_weight` or `feature_weight` above 0, or `distill`, for method '{self.method}'. "
                "Received: kd_weight=0, feature_weight=0."
            )


@dataclass(frozen=True, kw_only=True)
class Routed(_Taught):
    """What is taught through the later stages of a teacher."""

    teacher_mode: str = option(
        "frozen",
        "`frozen`, or `joint`: the network with shortcuts is trained beside the plain one, from the same initial "
        "weights, and `teacher` is left out. For method `jointrd`.",
        choices=("frozen", "joint"),
    )
    tail_schedule: str = option(
        "cosine",
        "How the weight of the teacher's tails falls from 1: `cosine`, `linear`, or `constant`, which is always "
        "`tail_floor`.",
        choices=("cosine", "linear", "constant"),
    )
    tail_floor: float = option(0.5, "Lowest weight of the teacher's tails.", least=0, most=1)
    tail_fade: float = option(
        0.3, "The part of the training over which the tails' weight falls to it.", above=0, most=1
    )
    path_scale: str = option("sum", "`sum` of the paths' losses, or their `mean`.", choices=("sum", "mean"))

    def check(self):
        """Checks fields against each other."""
        super().check()
        if self.teacher_mode == "joint" and not (self.method == "jointrd" and self.teacher is None):
            raise ValueError(
                "Expected `teacher_mode` 'joint' with method 'jointrd' and without `teacher`. Received: "
                f"method='{self.method}', teacher={self.teacher!r}."
            )


@dataclass(frozen=True, kw_only=True)
class _Pair(Narrow):
    kl_epsilon: float | None = option(
        None,
        "The term that the divergence of full and small network adds to both probabilities, 1e-6 in Adjoined Networks. "
        "By default it is computed from logits.",
        kind=float,
        above=0,
        below=1,
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class Budgeted(_Pair):
    """What has a budget, as a search has."""

    files: ClassVar[dict[str, str]] = {"latency_table": "JSON"}

    alphas: tuple[float, ...] = option((1, 2, 4), "The candidates of a search, rising.", kind=float, later=True)
    budget: str = option(
        "macs",
        "What a budget is in: `macs`, `parameters` or `latency_ms`.",
        choices=("macs", "parameters", "latency_ms"),
        later=True,
    )
    target: float | None = option(
        None,
        "The budget, in place of what `alpha` names; up to 1 it is a part of what the full network has. Required where "
        "`budget` is `latency_ms`.",
        kind=float,
        above=0,
        later=True,
    )
    latency_table: str | None = option(
        None,
        "The file of a table of latencies, for a budget in milliseconds; see `tfjointrd.report.layer_latencies`.",
        kind=str,
        later=True,
    )
    ties: str = option(
        "shared",
        "Whether layers that an addition ties have one gate, `shared`, or each its own, `free`.",
        choices=("shared", "free"),
        later=True,
    )
    gate_warmup: float = option(
        0.2, "The part of a search before widths begin to be learned.", least=0, below=1, later=True
    )
    gamma: float = option(
        0.0,
        "Weight of the expected multiply-accumulates of a search, in place of a budget where it is above 0.",
        least=0,
        later=True,
    )

    def check(self):
        """Checks fields against each other."""
        from tfjointrd.layers.gates import check_alphas  # imports Keras, which lists of options do without

        super().check()
        check_alphas(self.alphas)
        if self.gamma and (self.target is not None or self.budget != "macs"):
            raise ValueError(
                "Expected either `gamma` or a budget. Received: "
                f"gamma={self.gamma}, budget='{self.budget}', target={self.target}."
            )
        if (self.budget == "latency_ms") != (self.latency_table is not None):
            raise ValueError(
                "Expected `latency_table` and budget 'latency_ms' together. Received: "
                f"latency_table={self.latency_table!r}, budget='{self.budget}'."
            )
        if self.budget == "latency_ms" and self.target is None:
            raise ValueError("Expected `target` in milliseconds for budget 'latency_ms'. Received: target=None.")


# === Methods ===


@method("standard", "the network as it is")
class StandardRecipe(Recipe):
    """The network as it is."""


@method("plain", "the network without its shortcuts")
class PlainRecipe(_Plain):
    """The network without its shortcuts."""


@method("distilled", "the plain network, with the outputs or features of a trained teacher as targets")
class DistilledRecipe(Distilled, _Plain):
    """The plain network, with the outputs or features of a teacher as targets."""


@method("standard_distilled", "the same with its shortcuts")
class StandardDistilledRecipe(Distilled):
    """The network as it is, with the outputs or features of a teacher as targets."""


@method("jointrd", "the plain network, taught through the later stages of a trained teacher")
class JointRDRecipe(Routed, _Plain):
    """The plain network, taught through the later stages of a teacher."""


@method("narrow", "the network, narrower after its first stage")
class NarrowRecipe(Narrow):
    """The network, every layer after the first stage `alpha` times narrower."""


@method("narrow_distilled", "the same, with the outputs of a trained teacher as targets")
class NarrowDistilledRecipe(Distilled, Narrow):
    """The narrow network, with the outputs of a teacher as targets."""


@method("narrow_cohort", "the narrow and the full network at once, which teach each other by their outputs")
class NarrowCohortRecipe(Narrow):
    """The narrow network beside the full one, which is new too; each learns from the other."""

    distill: tuple[str, ...] = option(
        ("dml",), "How they teach each other: `dml` or `kdcl`; see `tfjointrd.distillers.PEER_METHODS`.", kind=str
    )

    def check(self):
        """Checks how they teach each other."""
        from tfjointrd.training.distillers import PEER_METHODS  # imports Keras, which lists of options do without

        super().check()
        if len(self.distill) != 1 or self.distill[0] not in PEER_METHODS:
            raise ValueError(
                f"Expected `distill` to be one of {', '.join(PEER_METHODS)} for method '{self.method}'. Received: "
                f"distill={self.distill}."
            )


@method("adjoined", "the full and the narrow network on shared weights")
class AdjoinedRecipe(Budgeted):
    """The full and the narrow network on shared weights."""

    files = {"widths": ".keras", **Budgeted.files}
    widths: str | None = option(
        None,
        "The widths of the small network, in place of `alpha`: a `.keras` file of a network that has them, or "
        "`random`, with the budget of a search; in named recipes also the name of the recipe that searches for them.",
        kind=str,
        later=True,
    )

    objective: str = option(
        "adjoined",
        "What the small network learns from: the full one's outputs (`adjoined`), or the labels, as in Slimmable "
        "Networks (`slimmable`).",
        choices=("adjoined", "slimmable"),
        later=True,
    )

    def check(self):
        """Checks fields against each other."""
        super().check()
        if self.objective == "slimmable" and self.kl_epsilon is not None:
            raise ValueError(
                "Expected `kl_epsilon` for objective 'adjoined' only. Received: objective='slimmable', "
                f"kl_epsilon={self.kl_epsilon}."
            )
        given = self.given(("alphas", "budget", "target", "latency_table", "gamma", "ties", "gate_warmup"))
        if given and self.widths != RANDOM:
            raise ValueError(
                f"Expected {', '.join(f'`{name}`' for name in given)} for method 'search' or widths 'random' only. "
                f"Received: method='{self.method}', {', '.join(f'{name}={value!r}' for name, value in given.items())}."
            )


@method("search", "the same, with widths that are learned")
class SearchRecipe(Budgeted):
    """The full and a narrow network on shared weights, with widths that are learned."""

    held_out: float = option(
        0.0,
        "The part of the training images from which only the gates learn; by default gates and weights learn from all.",
        least=0,
        below=1,
        later=True,
    )


@method("jointrd_adjoined", "as adjoined, without shortcuts, taught through the later stages of a trained teacher")
class JointRDAdjoinedRecipe(Routed, _Pair, _KeepsProjections):
    """The full and the narrow network on shared weights, without shortcuts and by JointRD.

    Its convolutions are ordinary ones, since an identity plus a correction has no adjoined form.
    """
