"""`adjoin`: from a network to an adjoined one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfjointrd.surgery.adjoined_graph import SMALL, check_adjoinable
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.frozen import warn_of_shared_frozen_layers
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.sort_channels import sort_channels
from tfjointrd.surgery.widths import Alpha, first_filters, staying, wanted_of, with_ties
from tfjointrd.training import schedules
from tfjointrd.training.methods.adjoined import ADJOINED, Adjoined, path_of
from tfjointrd.training.objective import Divergence


def adjoin(
    model: keras.Model,
    alpha: Alpha | None = None,
    keep: Iterable[str] | None = None,
    *,
    alphas: Iterable[float] | None = None,
    widths: Mapping[str, int | Iterable[int]] | None = None,
    order: Any = None,
    data: Any = None,
    round_to: int = 8,
    kl_weight: schedules.Schedule | float | None = None,
    batch_normalization: str = "separate",
    stop_gradient: bool = False,
    epsilon: float | None = None,
    divergence: Divergence = None,
    objective: str = ADJOINED,
    name: str | None = None,
) -> Adjoined:
    """Turns a network into an adjoined one: the full and a small network on shared weights, trained by one `fit`.

    Every layer of the small network keeps the first `filters / alpha` filters of the full one (Eqn 2).

    Args:
        model: A functional or Sequential network for images, from `tfjointrd.models`, `keras.applications` or your
            own, with one input and one or several outputs. It is not changed; the adjoined network starts from its
            weights.
        alpha: How many times narrower the layers of the small network are. A number from 1 on, 2 by default; numbers by
            layer name or pattern (`{"stage3_*": 4}`); or a function `(layer name, width) -> number`. Layers that match
            no pattern stay full, and the last match counts.
        keep: Names or patterns (`"stage2_*"`) of layers that stay at full width. By default the stem and the first
            stage, as in the paper, or none if `alpha` is given layer by layer. `()` narrows every layer that can be
            narrowed.
        alphas: Several numbers in place of `alpha`, for as many small networks from one training.
        widths: Layer name -> width in place of `alpha`, e.g. `architecture()["widths"]` of a search, or positions of
            the channels to keep, e.g. `tfjointrd.surgery.prune_architecture(...)["kept"]`. Other layers stay full, and
            no width is rounded.
        order: The importance by which channels are sorted first, so that the small network keeps the best ones. A short
            form of `sort_channels(model, order, data)`, useful for a trained network.
        data: Images, with labels where `order` needs them.
        round_to: Widths are rounded to the nearest multiple of this number, and are at least this number. With 1 they
            are rounded down, as in the papers.
        kl_weight: As for `Adjoined`, and so are the next four.
        batch_normalization: `"separate"` or `"shared"`.
        stop_gradient: Whether KL has no gradient through the full network's output.
        epsilon: The term that Eqn 3 adds to both probabilities, or `None`.
        divergence: The measure that compares the outputs of the full and the small network.
        objective: With `"slimmable"` every network learns from the labels, as in Slimmable Networks, and not by the
            divergence. Slimmable Networks narrow every layer (`keep=()`), and each width has its own batch
            normalisations, as here. Layers that stay full at the beginning are computed once, and their batch
            normalisations serve all widths. In Universally Slimmable Networks the small networks learn from the outputs
            of the full one ("in-place distillation"). `kl_weight=1.0, stop_gradient=True` has the same gradient.
        name: The name of the adjoined network.

    Returns:
        An `Adjoined` network: compile it, fit it, then take `full()` and `small()`, or `small(alpha=...)` of several.
        Layers that stay full are listed in its `kept_full`, with the reason.

    Frozen layers:
        A frozen base (`trainable=False`, as transfer learning leaves it) stays as it is, and the small network uses
        slices of weights that were never trained to work alone. Only its own batch normalisations learn. That is far
        from enough, and a warning says so. EfficientNet-Lite0 with ImageNet weights was tuned to 93.8 % on ten classes.
        After three epochs its small network had 40.5 % with a frozen base, and 60.5 % if all layers learned
        (`benchmarks/frozen_base.py`; 2,000 images, statistics recalibrated, one seed). Set `base.trainable = True`
        before `adjoin` and train with a low learning rate. If the base has to stay frozen, call
        `tfjointrd.recalibrate_batchnorm` on `small()`, and pass `stop_gradient=True`, so that imitation does not change
        the classifier that both networks share.

    Raises:
        ValueError: If `alpha` is no number from 1 on, or leaves a layer no channel or all layers full; if `widths` do
            not fit the layers; if the network is not functional, takes no images, is adjoined already, or holds a layer
            that is not known, has no narrow form, or is a `DiracConv2D`; if a pattern matches no layer.

    Example:

    >>> adjoined = adjoin(tfjointrd.models.resnet20(), alpha=2)
    >>> adjoined.compile(optimizer="sgd", metrics=["accuracy"])
    >>> small = adjoined.small()

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), Eqn 1 to 3. Several small networks from one training are
        the idea of Slimmable Neural Networks (https://arxiv.org/abs/1812.08928), whose Algorithm 1 is the objective
        `"slimmable"`. Universally Slimmable Networks (https://arxiv.org/abs/1903.05134) for in-place distillation.
    """
    if isinstance(model, Adjoined):
        raise ValueError(f"Expected `model` not to be adjoined yet; take its `full()`. Received: '{model.name}'.")
    given = {"alpha": alpha, "alphas": alphas, "widths": widths}
    if sum(value is not None for value in given.values()) > 1:
        raise ValueError(
            f"Expected one of `alpha`, `alphas` and `widths`. Received: alpha={alpha!r}, alphas={alphas!r}, "
            f"widths={widths!r}."
        )
    if order is not None and any(not isinstance(width, int) for width in (widths or {}).values()):
        raise ValueError(
            "Expected `widths` to be numbers of channels, for `order` to choose which. Received: positions, and "
            f"order={order!r}."
        )
    graph = read_graph(model)
    check_adjoinable(graph)
    channels = Channels(graph)
    alpha = 2 if alpha is None else alpha
    by_path = {SMALL: alpha} if alphas is None else _by_path(alphas)
    by_layer = widths is not None or callable(alpha) or isinstance(alpha, Mapping)
    stays = staying(graph, keep, by_default=not by_layer)
    if widths is not None:
        found = {SMALL: wanted_of(channels, widths, stays)}
    else:
        found = {path: first_filters(channels, value, stays, round_to) for path, value in by_path.items()}
    if order is not None:
        model = sort_channels(model, order, data)
    pair = Adjoined(
        model,
        {path: wanted for path, (wanted, _) in found.items()},
        kl_weight,
        batch_normalization=batch_normalization,
        stop_gradient=stop_gradient,
        epsilon=epsilon,
        divergence=divergence,
        objective=objective,
        kept_full={path: with_ties(channels, *chosen) for path, chosen in found.items()},
        name=name or f"adjoined_{model.name}",
    )
    warn_of_shared_frozen_layers(pair.network, model.name)
    return pair


def _by_path(alphas: Iterable[float]) -> dict[str, float]:
    """alpha by the name of each small network."""
    alphas = list(alphas) if isinstance(alphas, Iterable) else [alphas]
    numbers = all(isinstance(alpha, (int, float)) for alpha in alphas)
    if not alphas or not numbers or len(set(alphas)) < len(alphas):
        raise ValueError(f"Expected `alphas` to be different numbers, at least one. Received: alphas={alphas}.")
    return {path_of(value): value for value in alphas}
