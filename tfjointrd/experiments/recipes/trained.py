"""The fields of each method that begins with a trained network. `tfjointrd.experiments.trainers` has how they train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfjointrd.experiments.recipes.base import Recipe, method
from tfjointrd.experiments.recipes.methods import Budgeted, Distilled, Narrow, Routed
from tfjointrd.experiments.recipes.option import changed, option
from tfjointrd.pixel_ranges import PIXEL_RANGES

TARGETS = ("target_macs", "target_parameters", "target_latency_ms", "ratio")
TARGET_MACS = 0.476

# === What several methods have ===


@dataclass(frozen=True, kw_only=True)
class Trained(Recipe):
    """A training that begins with a trained network."""

    pixel_range: str | None = option(
        None,
        "The pixels that the network was trained on, if they were brought to that range outside of it; it gets a layer "
        f"that does so. One of {', '.join(PIXEL_RANGES)}; by default 0..255, which is checked. Give "
        "`--pixel-range=-1..1` with an equals sign.",
        choices=(None, *PIXEL_RANGES),
        kind=str,
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class Pruned(Trained):
    """A training of a trained network that is pruned; stands ahead of other classes, whose fields it changes."""

    files: ClassVar[dict[str, str]] = {"network": ".keras", "latency_table": "JSON"}

    importance: str = option(
        "l2",
        "By what channels are ranked; see `tfjointrd.prune`. A criterion that needs images gets up to 2,048 of the "
        "training's own, without augmentation.",
    )
    target_macs: float | None = option(
        None,
        "The multiply-accumulates that are left: a whole number, or up to 1 a part of the network's. By default, where "
        f"there is no other target, {TARGET_MACS}: 2.1 times fewer, as papers that prune a ResNet-56 have it.",
        kind=float,
        above=0,
    )
    target_parameters: float | None = option(None, "The same for the number of weights.", kind=float, above=0)
    target_latency_ms: float | None = option(
        None, "The same for the milliseconds of an image, by `latency_table`.", kind=float, above=0
    )
    latency_table: str | None = changed(Budgeted, "latency_table", None)
    ratio: float | None = option(
        None, "The part of the channels to drop, in place of a target.", kind=float, above=0, below=1
    )
    scope: tuple[str, ...] = option(
        ("global",),
        "What is ranked together: `global`, all channels; `layer`, those of a layer, each of which loses the same "
        "part. Or `PATTERN=RATIO`, once or more: the part that layers lose, in place of a target.",
        kind=str,
    )
    round_to: int = changed(Narrow, "round_to", 8)
    keep: tuple[str, ...] = option((), "Names or patterns of layers that stay at full width.", kind=str)
    min_channels: int | None = option(
        None, "The fewest channels that a layer keeps; by default `round_to`.", kind=int, least=1
    )
    # As those of Torch-Pruning fine-tune on CIFAR; see `tfjointrd.experiments.settings`.
    epochs: int = changed(Recipe, "epochs", 10, least=0)
    learning_rate: float = changed(Recipe, "learning_rate", 0.01)

    def __post_init__(self):
        """Takes `scope` in the forms of `tfjointrd.prune` too."""
        if isinstance(self.scope, Mapping):
            object.__setattr__(self, "scope", tuple(f"{pattern}={ratio}" for pattern, ratio in self.scope.items()))
        elif isinstance(self.scope, str):
            object.__setattr__(self, "scope", (self.scope,))
        super().__post_init__()

    def check(self):
        """Checks fields against each other."""
        # These import Keras, which lists of options do without.
        from tfjointrd.surgery.importance import importance_names
        from tfjointrd.surgery.pruning_plan import one_target

        super().check()
        if self.importance not in importance_names():
            raise ValueError(
                f"Expected `importance` to be one of {importance_names()}. Received: importance={self.importance!r}."
            )
        budget = self.budget()
        one_target({name: budget[name] for name in TARGETS}, budget["scope"])
        if (self.target_latency_ms is None) != (self.latency_table is None):
            raise ValueError(
                "Expected `latency_table` and `target_latency_ms` together. Received: "
                f"latency_table={self.latency_table!r}, target_latency_ms={self.target_latency_ms}."
            )
        if self.initializer != "he_normal":
            raise ValueError(
                "Expected no `initializer`, since a trained network keeps its weights. Received: "
                f"method='{self.method}', initializer='{self.initializer}'."
            )

    def budget(self) -> dict:
        """What `tfjointrd.prune` is given of it.

        Raises:
            ValueError: If `scope` is none of its forms.
        """
        scope = self._scope()
        targets = {name: getattr(self, name) for name in TARGETS}
        if isinstance(scope, str) and set(targets.values()) == {None}:
            targets["target_macs"] = TARGET_MACS
        others = {name: getattr(self, name) for name in ("latency_table", "round_to", "keep", "min_channels")}
        return {**targets, "scope": scope, **others}

    def _scope(self) -> str | dict[str, float]:
        if len(self.scope) == 1 and "=" not in self.scope[0]:
            return self.scope[0]
        pairs = [text.rpartition("=") for text in self.scope]
        try:
            if not pairs or not all(pattern for pattern, _, _ in pairs):
                raise ValueError
            return {pattern: float(ratio) for pattern, _, ratio in pairs}
        except ValueError:
            raise ValueError(
                "Expected `scope` to be 'global', 'layer' or PATTERN=RATIO, e.g. 'stage1_*=0.3'. Received: "
                f"scope={self.scope}."
            ) from None


# === Methods ===


@method("pruned", "a trained network (.keras file) with fewer channels, at a budget, fine-tuned")
class PrunedRecipe(Pruned):
    """A trained network, pruned to a budget by `tfjointrd.prune` and fine-tuned."""


@method("pruned_gradually", "the same, while it trains: channels go step by step")
class PrunedGraduallyRecipe(Pruned):
    """A trained network that is pruned to a budget while it trains on; see `tfjointrd.training.Pruning`."""

    regularizer: str | None = option(
        None,
        "What makes channels small before they are dropped: `group`, the norms of all weights that go with a channel; "
        "`gamma`, the scales of batch normalisations.",
        choices=(None, "group", "gamma"),
        kind=str,
    )
    strength: float = option(1e-4, "The regulariser's weight in the loss.", least=0)
    begin: float = option(0.0, "The part of the training before channels are dropped.", least=0, below=1)
    end: float = option(0.5, "The part of the training after which the budget is reached.", above=0, below=1)

    def check(self):
        """Checks fields against each other."""
        super().check()
        if self.begin >= self.end:
            raise ValueError(f"Expected `begin` below `end`. Received: begin={self.begin}, end={self.end}.")
        if not self.epochs or (self.epochs - 1) / self.epochs < self.end:
            raise ValueError(
                f"Expected more `epochs`: channels are dropped at the start of epochs, up to end={self.end} of the "
                f"training. Received: epochs={self.epochs}."
            )


@method("pruned_distilled", "the same, with the outputs or features of the unpruned network as targets")
class PrunedDistilledRecipe(Pruned, Distilled):
    """The pruned network, with the outputs or features of a teacher as targets."""

    files = {**Distilled.files, **Pruned.files}
    needs_teacher = False


@method("pruned_jointrd", "the same, taught through the later stages of a trained teacher")
class PrunedJointRDRecipe(Pruned, Routed):
    """The pruned network, taught through the later stages of a teacher."""

    files = {**Routed.files, **Pruned.files}
    needs_teacher = False


@method("transfer", "a trained network (.keras file) with a new classifier, fine-tuned on other data")
class TransferRecipe(Trained):
    """A trained network with a new classifier; see `tfjointrd.transfer`."""

    batch_size: int = changed(Recipe, "batch_size", 64)
    learning_rate: float = changed(Recipe, "learning_rate", 0.02)

    def check(self):
        """Checks fields against each other."""
        super().check()
        if not self.network.endswith(".keras"):
            raise ValueError(
                "Expected `network` to be the .keras file of a trained network, for method 'transfer'. "
                f"Received: network='{self.network}'."
            )
