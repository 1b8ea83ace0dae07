"""`search`: from a network to a differentiable adjoined network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras

from tfjointrd.layers.gates import check_alphas
from tfjointrd.surgery.adjoin import check_classifier
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.gated import SMALL
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.widths import first_filters, staying
from tfjointrd.training.adjoined import Adjoined
from tfjointrd.training.dan import DAN


def search(
    model: keras.Model,
    alphas: Sequence[float] = (1, 2, 4),
    keep: Iterable[str] | None = None,
    *,
    round_to: int = 8,
    ties: str = "shared",
    name: str | None = None,
    **options,
) -> DAN:
    """Turns a network into one that learns, layer by layer, how narrow its small twin may be.

    Args:
        model: A network that `adjoin` takes. It is not changed; the search starts from its weights.
        alphas: How many times narrower the candidates are: different numbers from 1 on in rising order.
        keep: Names or patterns of layers that stay at full width, by default the stem and the first stage; `()` narrows
            every layer that can be.
        round_to: Candidates are rounded to the nearest multiple of this, at least one of it; with 1 they are rounded
            down.
        ties: `"shared"`: layers that an addition ties have one width. `"free"`: each has a gate of its own, and all
            become as wide as the widest choice.
        name: The name of the searching network.
        **options: As for `DAN`: the budget (`target_macs`, `target_parameters` or `gamma`), `temperature`, `warm_up`,
            the noise, and what `Adjoined` takes.

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
    >>> dan.architecture()["widths"]["stage3_block1_conv1"]
    64

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 5.
    """
    if isinstance(model, Adjoined):
        raise ValueError(f"Expected a network that is not adjoined yet; take its `full()`. Received: '{model.name}'.")
    alphas = check_alphas(alphas)
    graph = Graph.of(model)
    check_classifier(graph)
    channels = Channels(graph)
    stays = {**_counted(graph, channels), **staying(graph, keep)}
    found = [first_filters(channels, alpha, stays, round_to) for alpha in alphas]
    reasons = found[-1][1]
    tied = _tied(channels, set(reasons))
    if ties == "free" and alphas[0] != 1 and tied:
        layer, other = next(iter(tied.items()))
        raise ValueError(
            f"Expected `alphas` to hold 1, which layer '{layer}' needs to be added to '{other}', which stays full. "
            f"Received: alphas={alphas}, ties='free'."
        )
    reasons = {**reasons, **{layer: f"tied to '{other}'" for layer, other in tied.items()}}
    candidates = [wanted for wanted, _ in found]
    return DAN(
        model, candidates, alphas, ties=ties, kept_full={SMALL: reasons}, name=name or f"dan_{model.name}", **options
    )


def _counted(graph: Graph, channels: Channels) -> dict[str, str]:
    """Layers whose channels a layer normalisation counts: there, a channel that is zero differs from none."""
    found: dict[str, str] = {}
    for call in graph.calls:
        if issubclass(graph.layers[call.layer].cls, keras.layers.LayerNormalization):
            counted = set(channels.roots(channels.ids[call.output]).tolist())
            for producer in graph.calls:
                made = channels.roots(channels.ids[producer.output]).tolist()
                if producer.layer in channels.producers() and counted & set(made):
                    found[producer.layer] = f"counted by '{call.layer}'"
    return found


def _tied(channels: Channels, stays: set[str]) -> dict[str, str]:
    """Layers that are not named to stay but are tied to one that does, and to which."""
    found = {}
    for group in channels.groups():
        full = [layer for layer in group if layer in stays]
        if full:
            found.update({layer: full[0] for layer in group if layer not in stays})
    return found
