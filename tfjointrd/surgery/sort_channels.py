"""The same function with the most important channels first."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.importance.criterion import resolve, scores_of
from tfjointrd.surgery.read_graph import read_graph
from tfjointrd.surgery.slim import slim_weights
from tfjointrd.surgery.tied_sets import TiedSets


def sort_channels(model: keras.Model, importance: Any = "l2", data: Any = None, name: str | None = None) -> keras.Model:
    """Permutes the channels of a network so that in each tied set the most important ones come first.

    `adjoin` and `search` keep the first channels of a layer, which are then its best ones. Some channels keep their
    order. The outputs of the network, a softmax or a layer such as `Permute` fix the order of their channels.
    `FitChannels` and `DiracConv2D` match channels by their place (`tfjointrd.fold` turns the latter into an ordinary
    convolution). Channels that the criterion does not score also keep their order. Grouped convolutions move whole
    groups. `tfjointrd.surgery.tied_sets` lists the sets, and why a set keeps its order.

    Args:
        model: A functional or Sequential network. It is not changed.
        importance: As for `prune`.
        data: Images, with labels where the criterion needs them.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` of the same layers that computes the same function, up to rounding.

    Raises:
        ValueError: As `tfjointrd.surgery.channel_importance`.

    Example:

    >>> network = tfjointrd.models.cifar_resnet(8)
    >>> best_first = sort_channels(network, "l1")
    >>> adjoined = tfjointrd.adjoin(best_first, alpha=2)

    Reference:
        Once-for-all (https://arxiv.org/abs/1908.09791), section 3.3, which sorts channels by their L1 norm.
    """
    criterion = resolve(importance, data)
    graph = read_graph(model)
    sets = TiedSets(Channels(graph))
    scores = scores_of(model, sets, criterion, data)
    orders = {
        tied.name: np.argsort(-scores[tied.name], kind="stable")
        for tied in sets
        if tied.name in scores and tied.in_order is None
    }
    taken = {}
    for ref, ids in sets.channels.ids.items():
        taken[ref] = np.arange(len(ids))
        for number, places in sets.positions(ref).items():
            if sets.sets[number].name in orders:
                taken[ref][places] = places[orders[sets.sets[number].name]]
    weights = sets.weights()
    return graph.build(name, slim_weights(graph, taken, weights, weights))
