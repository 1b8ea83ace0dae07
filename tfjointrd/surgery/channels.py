"""Which channels belong together.

Every channel of every tensor gets an id. A convolution makes new ids, a batch normalisation passes them on, an Add ties
its inputs' ids, a Concatenate strings them together. Tied channels can only be kept or dropped together; what this
analysis says is all that `slim`, adjoined networks and pruning need to know of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tfjointrd.layers.positions import positions_of
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref
from tfjointrd.surgery.rules import Rule, rule_for
from tfjointrd.surgery.ties import Ties


def check_channels_last(graph: Graph) -> None:
    """Checks that channels are the last axis everywhere.

    Raises:
        ValueError: If a layer has them elsewhere.
    """
    for name, spec in graph.layers.items():
        data_format = spec.config.get("data_format") or "channels_last"
        if data_format != "channels_last":
            raise ValueError(
                f"Layer '{name}' expects data_format='channels_last'. Received: data_format='{data_format}'."
            )


class Channels(Ties):
    """The channels of a network and the ties between them.

    Args:
        graph: The network.

    Attributes:
        graph: The network.
        ids: For every tensor the id of each of its channels, `(channels,)` int.

    Raises:
        ValueError: If the network has a layer without a rule, or channels that are not the last axis.
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.ids: dict[Ref, np.ndarray] = {}
        self._taken: dict[str, list[np.ndarray]] = {}
        self._returned: dict[str, list[np.ndarray]] = {}
        check_channels_last(graph)
        for call in graph.calls:
            self._visit(call)
        for ref in graph.output_refs():
            self.fix(self.ids[ref], "the network's output")

    def _visit(self, call: Call) -> None:
        spec = self.graph.layers[call.layer]
        inputs = [self.ids[ref] for ref in call.inputs]
        rule = rule_for(call.layer, spec)
        assert rule.channels is not None  # `rule_for` raises where there is none
        if rule.weight_axes(spec.config):  # one kernel, several calls: all see the same channels
            for first, again in zip(self._taken.setdefault(call.layer, inputs), inputs, strict=True):
                self.tie(first, again)
        returned = rule.channels(self, call, spec, inputs)
        found = returned if isinstance(returned, list) else [returned]
        outputs = self.graph.outputs_of(call)
        if len(found) != len(outputs):
            raise ValueError(
                f"Layer '{call.layer}' ({spec.cls.__name__}) returns {len(outputs)} tensors. Expected the channels of "
                f"each from its rule. Received: those of {len(found)}."
            )
        self.ids.update(zip(outputs, found, strict=True))
        if call.number and _narrows(rule, spec, inputs, found):  # one configuration, several calls
            for first, again in zip(self._returned[call.layer], found, strict=True):
                if len(first) == len(again):
                    self.tie(first, again)
                else:
                    self.fix(np.concatenate([first, again]), f"'{call.layer}' is called with several widths")
        self._returned.setdefault(call.layer, found)

    # === What surgery asks ===

    def producers(self) -> list[str]:
        """Names of the layers whose output channels can be chosen, in order."""
        graph = self.graph
        return [name for name in self._made if rule_for(name, graph.layers[name]).producer]

    def width(self, layer: str) -> int:
        """Number of output channels of a layer named by `producers()`."""
        return len(self._made[layer])

    def sections(self, layer: str) -> list[np.ndarray]:
        """Positions of a layer's output channels by the parts of a split tensor they go to, in rising order.

        Of each section at least one channel has to stay. A layer whose channels are not split has one section.
        """
        roots = self.roots(self._made[layer])
        parts = [set(self.roots(part).tolist()) for part in self._parts]
        found: dict[tuple, list[int]] = {}
        for position, root in enumerate(roots.tolist()):
            found.setdefault(tuple(root in part for part in parts), []).append(position)
        return [np.array(positions) for positions in found.values()]

    def groups(self) -> list[list[str]]:
        """Producers whose channels are tied, together; each group in network order."""
        found: dict[int, set[str]] = {}
        for name in self.producers():
            for channel in self._made[name].tolist():
                found.setdefault(self._root(channel), set()).add(name)
        order = {name: i for i, name in enumerate(self.producers())}
        return sorted(
            (sorted(g, key=order.__getitem__) for g in {frozenset(g) for g in found.values()}),
            key=lambda g: order[g[0]],
        )

    def followers(self) -> set[str]:
        """Producers whose channels are those of several others, strung together, as in a gate behind a concatenation.

        Which of their channels stay follows from what these others keep.
        """
        groups = self.groups()
        single = {name for name in self.producers() if sum(name in group for group in groups) == 1}
        spread = set(self.producers()) - single
        return {name for name in spread if all(single & set(group) for group in groups if name in group)}

    def fixed(self, layer: str) -> str | None:
        """Why all output channels of a producer have to stay; `None` if they need not."""
        fixed = self.reasons()
        reasons = [fixed.get(self._root(c)) for c in self._made[layer].tolist()]
        return None if None in reasons else reasons[0]

    def keep(self, wanted: Mapping[str, Iterable[int]]) -> dict[Ref, np.ndarray]:
        """Which channels of every tensor are left when these layers keep these channels.

        Args:
            wanted: Layer name -> positions of the output channels to keep, or a boolean mask. Naming one layer of a
                tied group is enough; where several named ones disagree, the channel stays. Layers not tied to any named
                one keep all channels.

        Returns:
            For every tensor, the positions of its kept channels in rising order.

        Raises:
            ValueError: If a name is not a producer, a position is out of range, or a layer is left without channels.
        """
        keeps: set[int] = set(self.reasons())
        named: set[int] = set()
        for name, positions in wanted.items():
            ids = self._made.get(name)
            if ids is None or not rule_for(name, self.graph.layers[name]).producer:
                raise ValueError(f"Expected a convolution or dense layer of '{self.graph.name}'. Received: '{name}'.")
            positions = np.asarray(positions_of(positions, len(ids), f"keep['{name}']"), dtype=int)
            if not len(positions) or positions.min() < 0 or positions.max() >= len(ids):
                raise ValueError(
                    f"Expected layer '{name}' to keep between 1 and {len(ids)} channels, named by positions below "
                    f"{len(ids)}. Received: {positions.tolist()}."
                )
            named.update(self._root(c) for c in ids.tolist())
            keeps.update(self._root(c) for c in ids[positions].tolist())
        kept = np.array([self._root(c) in keeps or self._root(c) not in named for c in range(len(self._parent))])
        result = {ref: np.flatnonzero(kept[ids]) for ref, ids in self.ids.items()}
        for ref, positions in result.items():
            if not len(positions):
                raise ValueError(f"Layer '{ref.layer}' would be left without channels.")
        return result


def _narrows(rule: Rule, spec: LayerSpec, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> bool:
    """Whether the configuration of a layer without weights says how many channels there are."""
    if rule.weight_axes(spec.config):
        return False
    fewer = [np.arange(max(1, len(ids) - 1)) for ids in outputs]
    changes = rule.narrow(spec.config, np.arange(len(inputs[0])), fewer if len(fewer) > 1 else fewer[0])
    return any(spec.config.get(key) != value for key, value in changes.items())
