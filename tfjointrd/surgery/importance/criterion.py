"""What an importance criterion is, and the table of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.tied_sets import Slices, TiedSet, TiedSets

REDUCTIONS = ("mean", "max", "first")
NORMALIZATIONS = ("mean", "max", None)

Scores = dict[str, np.ndarray]


class Criterion:
    """Scores the units of tied sets; the base class of all criteria.

    A criterion gives a set several vectors of scores, one for each weight or tensor that it looks at. They are reduced
    to one, which is then made comparable with those of other sets.

    Args:
        reduction: `"mean"` or `"max"` over the vectors of a set, or the `"first"`, that of the layer by which the set
            is named, as in papers that score filters by themselves. The mean did best, by little, on a trained
            ResNet-20 (`benchmarks/pruning_reductions.py`).
        normalize: By what the scores of a set are divided: their `"mean"`, their `"max"`, or nothing (`None`).

    Attributes:
        needs_data: Whether it is computed on images.
        needs_slices: Whether `members` looks at the parts of weights; else it gets none.
    """

    needs_data, needs_slices = False, True

    def __init__(self, reduction: str = "mean", normalize: str | None = "mean"):
        if reduction not in REDUCTIONS:
            raise ValueError(f"Expected `reduction` to be one of {REDUCTIONS}. Received: reduction={reduction!r}.")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"Expected `normalize` to be one of {NORMALIZATIONS}. Received: normalize={normalize!r}.")
        self.reduction, self.normalize = reduction, normalize

    def measure(self, model: keras.Model, sets: TiedSets, data: Any) -> Any:
        """What the criterion has to know of the whole network, such as gradients.

        Args:
            model: The network.
            sets: Its tied sets.
            data: Images, with labels where the criterion needs them, as `tfjointrd.data.batches` takes them; or `None`.

        Returns:
            Whatever `members` takes.
        """
        return None

    def members(self, tied: TiedSet, slices: list[Slices], measured: Any) -> list[np.ndarray]:
        """The vectors of scores of a set, each `(units,)`; none where the criterion says nothing of the set.

        Args:
            tied: The set.
            slices: The parts of all weights that belong to its units.
            measured: What `measure` returned.
        """
        raise NotImplementedError

    def combined(self, members: list[np.ndarray]) -> np.ndarray:
        """One vector of scores from those of the members of a set."""
        if self.reduction == "first":
            scores = members[0]
        else:
            scores = (np.mean if self.reduction == "mean" else np.max)(members, axis=0)
        scale = 1.0 if self.normalize is None else (np.mean if self.normalize == "mean" else np.max)(scores)
        return scores / scale if scale > 0 else scores

    def get_config(self) -> dict[str, Any]:
        """The arguments by which the criterion can be made again: attributes that are called as they are."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Criterion:
        """Makes the criterion again."""
        return cls(**config)


class _Own(Criterion):
    """A user's function of the slices of a set."""

    def __init__(self, function: Callable[[list[Slices]], np.ndarray]):
        super().__init__(normalize=None)
        self.function = function

    def members(self, tied, slices, measured):
        """What the function returns, as it is."""
        scores = np.asarray(self.function(slices), float)
        if scores.shape != (len(tied),):
            raise ValueError(
                f"Expected `importance` to return a score for each of the {len(tied)} channels of '{tied.name}'. "
                f"Received: shape {scores.shape}."
            )
        return [scores]


_CRITERIA: dict[str, Callable[[], Criterion]] = {}


def register_importance(name: str, criterion: Callable[[], Criterion]) -> None:
    """Gives a criterion a name by which `prune`, `sort_channels` and `adjoin(order=...)` find it.

    Args:
        name: The name.
        criterion: A subclass of `Criterion`, or a function that makes one.

    Raises:
        ValueError: If it makes no criterion.

    Example:

    >>> class L3(Criterion):
    ...     def members(self, tied, slices, measured):
    ...         return [np.sum(np.abs(one.values) ** 3, axis=1) for one in slices if one.is_kernel]
    >>> register_importance("l3", L3)
    >>> small = tfjointrd.prune(network, "l3", target_macs=0.5)
    """
    if not callable(criterion) or not isinstance(criterion(), Criterion):
        raise ValueError(f"Expected `criterion` to make a `Criterion`. Received: criterion={criterion!r}.")
    _CRITERIA[name] = criterion


def importance_names() -> list[str]:
    """The names of all criteria."""
    return sorted(_CRITERIA)


def resolve(importance: Any, data: Any = None) -> Criterion | Mapping:
    """A criterion from all forms that users give one in.

    Args:
        importance: A name, a `Criterion`, a function of slices, or scores by set.
        data: What was given for criteria that need images.

    Raises:
        ValueError: If it is none of these, or needs data and there are none.
    """
    if isinstance(importance, Mapping):
        return importance
    if isinstance(importance, str) and importance in _CRITERIA:
        found = _CRITERIA[importance]()
    elif isinstance(importance, Criterion):
        found = importance
    elif callable(importance) and not isinstance(importance, type):
        found = _Own(importance)
    else:
        raise ValueError(
            f"Expected `importance` to be one of {importance_names()}, a `Criterion`, a function of slices, or scores "
            f"by set. Received: {importance!r:.200}."
        )
    if found.needs_data and data is None:
        raise ValueError(
            f"Expected `data` for importance {name_of(importance)!r}, which is computed on images. Received: data=None."
        )
    return found


def name_of(importance: Any) -> str:
    """A name for what was given as importance."""
    if isinstance(importance, str):
        return importance
    if isinstance(importance, Mapping):
        return "given scores"
    return getattr(importance, "__name__", type(importance).__name__)


def channel_importance(model: keras.Model, importance: Any = "l2", data: Any = None) -> Scores:
    """Scores every channel of a network that could be dropped, together with all that are tied to it.

    Args:
        model: A functional or Sequential network.
        importance: A name (`tfjointrd.surgery.importance.importance_names()`), a criterion with options such as
            `tfjointrd.surgery.importance.L2(reduction="max")`, or a function that takes the list of `Slices` of a tied
            set, the parts of all weights that belong to its channels, and returns a score for each channel.
        data: Images, with labels for `"taylor"`, in any form that `tfjointrd.data.batches` describes; for criteria that
            need them.

    Returns:
        By the name of each tied set (see `tfjointrd.surgery.tied_sets`), its channels' scores, `(units,)` float.
        `prune` and `sort_channels` take it in place of a criterion. Sets that have to stay, and those of which the
        criterion says nothing, are left out.

    Raises:
        ValueError: If the criterion is not known or says nothing of any set; if data or labels are missing; if weights
            are NaN or all zero; if all scores are zero or one is not a finite number from 0 on.

    Example:

    >>> scores = channel_importance(tfjointrd.models.cifar_resnet(8), "l1")
    >>> scores["stage2_block1_conv1"].shape
    (32,)
    """
    criterion = resolve(importance, data)
    return scores_of(model, TiedSets(Channels(read_graph(model))), criterion, data)


def scores_of(model: keras.Model, sets: TiedSets, criterion: Criterion | Mapping, data: Any = None) -> Scores:
    """As `channel_importance`, for a network whose tied sets are known."""
    if isinstance(criterion, Mapping):
        return _checked(_given(sets, criterion), "importance")
    free = [tied for tied in sets if tied.stays is None]
    sets.weights()  # refused before long work if they say nothing
    if not free:
        return {}
    slices = sets.slices() if criterion.needs_slices else {}
    measured, found = criterion.measure(model, sets, data), {}
    for tied in free:
        members = criterion.members(tied, slices.get(tied.name, []), measured)
        if members:
            found[tied.name] = criterion.combined([np.asarray(one, float) for one in members])
    if not found:
        raise ValueError(
            f"Expected a network with something that importance '{type(criterion).__name__}' scores, such as the scale "
            f"of a batch normalisation. Received: '{model.name}', where it finds nothing to score."
        )
    return _checked(found, name_of(getattr(criterion, "function", criterion)))


def _given(sets: TiedSets, scores: Mapping[str, Sequence[float]]) -> Scores:
    sizes = {tied.name: len(tied) for tied in sets if tied.stays is None}
    found = {name: np.asarray(values, float) for name, values in scores.items()}
    for name, values in found.items():
        if values.shape != (sizes.get(name),):
            expected = f"{sizes[name]} scores for '{name}'" if name in sizes else f"sets of {sorted(sizes)}"
            raise ValueError(f"Expected `importance` to hold {expected}. Received: '{name}' of shape {values.shape}.")
    return found


def _checked(scores: Scores, name: str) -> Scores:
    for tied, values in scores.items():
        if not (np.isfinite(values).all() and np.all(values >= 0)):
            raise ValueError(
                f"Expected scores to be finite numbers from 0 on. Received: {values.tolist()!r:.200} from {name} for "
                f"'{tied}'."
            )
    if scores and not any(np.any(values) for values in scores.values()):
        raise ValueError(f"Expected scores that differ between channels. Received: zero for all, from {name}.")
    return scores
