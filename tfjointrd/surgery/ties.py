"""Ids of channels, and which of them are tied: what rules say about the channels of a network."""

from __future__ import annotations

import numpy as np

from tfjointrd.surgery.graph import Call, Graph


class Ties:
    """The channels of a network as ids, some of them tied together, some of them fixed.

    Args:
        graph: The network.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._parent: list[int] = []
        self._fixed: list[tuple[np.ndarray, str]] = []
        self._parts: list[np.ndarray] = []
        self._made: dict[str, np.ndarray] = {}

    def fresh(self, call: Call) -> np.ndarray:
        """New ids for the output channels of `call`; a layer called twice makes the same channels twice."""
        if call.layer not in self._made:
            width = self.graph.shapes[call.output][-1]
            if width is None:
                raise ValueError(
                    f"Layer '{call.layer}' has an unknown number of channels. Give the network an input_shape."
                )
            start = len(self._parent)
            self._parent.extend(range(start, start + width))
            self._made[call.layer] = np.arange(start, start + width)
        return self._made[call.layer]

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Ties channels one by one: `first[i]` and `second[i]` are kept or dropped together."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._root(a), self._root(b)
            self._parent[max(a, b)] = min(a, b)

    def tie_all(self, ids: np.ndarray) -> None:
        """Ties all of these channels into one."""
        self.tie(ids[:-1], ids[1:])

    def fix(self, ids: np.ndarray, why: str = "") -> None:
        """Says that these channels can never be dropped, and why."""
        self._fixed.append((ids, why))

    def keep_some(self, ids: np.ndarray) -> None:
        """Says that not all of these channels can be dropped, because they become a tensor of their own."""
        self._parts.append(ids)

    def roots(self, ids: np.ndarray) -> np.ndarray:
        """One id for all channels that are tied, for each of these."""
        return np.array([self._root(channel) for channel in ids.tolist()], int)

    def _root(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def reasons(self) -> dict[int, str]:
        """Why channels have to stay, by the id that `roots` gives them."""
        return {self._root(c): why for ids, why in reversed(self._fixed) for c in ids.tolist()}
