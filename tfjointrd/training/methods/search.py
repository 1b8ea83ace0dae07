"""`search`: from a network to a differentiable adjoined network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tfjointrd.layers.gates import check_alphas
from tfjointrd.surgery.adjoined_graph import check_adjoinable
from tfjointrd.surgery.budgets import OutOfReach
from tfjointrd.surgery.frozen import warn_of_shared_frozen_layers
from tfjointrd.surgery.gated import SMALL, candidates_of
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.sort_channels import sort_channels
from tfjointrd.training.methods.adjoined import Adjoined
from tfjointrd.training.methods.dan import DAN


def search(
    model: keras.Model,
    alphas: Sequence[float] = (1, 2, 4),
    keep: Iterable[str] | None = None,
    *,
    round_to: int = 8,
    ties: str = "shared",
    order: Any = None,
    data: Any = None,
    name: str | None = None,
    **options,
) -> DAN:
    """Turns a network into one that learns, layer by layer, how narrow its small twin may be.

    Args:
        model: A network that `adjoin` takes. It is not changed; the search starts from its weights.
        alphas: How many times narrower the candidates are: different numbers from 1 on in rising order.
        keep: Names or patterns of layers that stay at full width, by default the stem and the first stage. `()` narrows
            every layer that can be narrowed.
        round_to: Candidates are rounded to the nearest multiple of this number, and are at least this number. With 1
            they are rounded down.
        ties: `"shared"`: layers that an addition ties have one width. `"free"`: each has a gate of its own, and all
            become as wide as the widest choice.
        order: As for `adjoin`: the importance by which channels are sorted first, so that candidates keep the best
            ones.
        data: Images, with labels where `order` needs them.
        name: The name of the searching network.
        **options: As for `DAN`: the budget (`target_macs`, `target_parameters`, `target_latency_ms` with
            `latency_table`, or `gamma`), `temperature`, `warm_up`, `noise`, `frozen`, `hard`, `seed`, and what
            `Adjoined` takes.

    Returns:
        A `DAN`: compile it, fit it, then take `architecture()`, `derive()` and `small()`. Layers that stay full are
        listed in its `kept_full`, with the reason.

    Raises:
        ValueError: If `alphas` are not as described, leave a layer no channel or nothing to choose; if with
            `ties="free"` alpha 1 is missing and a layer with a gate is added to one that stays full; if a budget is
            below what the narrowest or above what the widest candidates cost; if the temperature is not above 0; or
            for what `adjoin` refuses.

    Example:

    >>> dan = search(tfjointrd.models.resnet20(), alphas=(1, 2, 4), target_macs=0.5)
    >>> dan.compile("sgd", metrics=["accuracy"])
    >>> len(dan.groups)
    8

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 5.
    """
    if isinstance(model, Adjoined):
        raise ValueError(f"Expected `model` not to be adjoined yet; take its `full()`. Received: '{model.name}'.")
    alphas, graph = check_alphas(alphas), read_graph(model)
    check_adjoinable(graph)
    candidates, reasons = candidates_of(graph, alphas, keep, round_to, ties)
    if order is not None:
        model = sort_channels(model, order, data)
    name = name or f"dan_{model.name}"
    try:
        dan = DAN(model, candidates, alphas, ties=ties, kept_full={SMALL: reasons}, name=name, **options)
    except OutOfReach as error:
        if not error.below or keep is not None:
            raise
        wider = "So does `search(..., keep=())`, which lets stem and first stage become narrow too."
        raise OutOfReach(f"{error} {wider}", error.below) from None
    warn_of_shared_frozen_layers(dan.network, model.name)
    return dan
