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
        ValueError: If `data` holds no images of the network's shape, or the network computes NaN of them.
    """
    refs = list(refs)
    network = replace(graph, outputs=refs).pruned().build()
    left = images
    for x, _ in batches(data, 32, shape=image_shape(network)):
        x = keras.tree.map_structure(lambda part: np.asarray(part)[:left], x)  # noqa: B023
        outputs = keras.tree.flatten(network(x, training=False))
        found = [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in outputs]
        wrong = [ref.layer for ref, values in zip(refs, found, strict=True) if not np.isfinite(values).all()]
        if wrong:
            raise ValueError(
                f"Expected `data` for which '{graph.name}' computes finite numbers. Received: images for which layer "
                f"'{wrong[0]}' does not; look for NaN in them and for pixels of another range."
            )
        yield found
        if left is not None:
            left -= len(keras.tree.flatten(x)[0])
            if left <= 0:
                return


def image_shape(model: keras.Model) -> tuple | None:
    """The shape of an image that a network takes; `None` if it takes several inputs."""
    return tuple(model.inputs[0].shape[1:]) if len(model.inputs) == 1 else None
