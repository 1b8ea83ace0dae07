"""What criteria need to know of the tensors of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfjointrd.data.batches import batches
from tfjointrd.surgery.graph import Graph, Ref


def tensors_of(graph: Graph, refs: Iterable[Ref], data: Any, images: int | None = None) -> Iterator[list[np.ndarray]]:
    """What a network computes at some places, batch by batch.

    Args:
        graph: The network.
        refs: The places.
        data: Images as `tfjointrd.data.batches` takes them; arrays in batches of 32.
        images: How many images are looked at, at most.

    Yields:
        For each place an array, the batch axis first.

    Raises:
        ValueError: If `data` holds no images of the network's shape.
    """
    refs = list(refs)
    network = replace(graph, outputs=refs).pruned().build()
    shape = network.inputs[0].shape[1:] if len(network.inputs) == 1 else None
    left = images
    for x, _ in batches(data, 32, shape=shape):
        if left is not None:
            x, left = keras.tree.map_structure(lambda part: part[:left], x), left - len(x)  # noqa: B023
        yield [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(network(x, training=False))]
        if left is not None and left <= 0:
            return
