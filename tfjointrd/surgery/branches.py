"""Which branches of an addition do the work, and which are shortcuts around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfjointrd.surgery.graph import Call, Graph, Ref
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.read_graph import sized
from tfjointrd.surgery.rules import describe

# Addition by name or pattern -> a layer of its main branch, or `None` for an addition that stays.
Branches = Mapping[str, str | None]


@dataclass
class Addition:
    """An addition of several tensors.

    Attributes:
        call: The call that adds.
        mains: The tensors that main branches end in.
        shortcuts: Those that shortcuts end in.
        why: Why there are no shortcuts, where there are none.
        named: Whether the user says which branch is the main one.
    """

    call: Call
    mains: list[Ref]
    shortcuts: list[Ref] = field(default_factory=list)
    why: str = ""
    named: bool = False


class BranchAnalysis:
    """The additions of a network and their branches.

    A branch is what is computed for one of an addition's tensors alone. Its depth is the number of its convolutions and
    dense layers on maps of more than one pixel (of any size where the addition's has one), so that the two layers of a
    squeeze-and-excitation gate count nothing. A shortcut is a branch with at most one such layer, and fewer than the
    deepest branch has, that starts where a main branch starts. Nor is it a shortcut if the main branch leaves the
    resolutions between its start and its end, as in a feature pyramid or a U-Net: there the other branch brings in what
    the main one has lost.

    Args:
        graph: The network.
        branches: Additions whose main branch the user names.

    Attributes:
        graph: The network.
        ancestors: As of the graph.
        additions: An `Addition` for each, in network order.

    Raises:
        ValueError: If `branches` names something that is no addition, or a layer of none or several of its branches.
    """

    def __init__(self, graph: Graph, branches: Branches | None = None):
        self.graph, self.ancestors = graph, graph.ancestors()
        self._shapes, self._kernels = sized(graph), graph.kernel_layers()
        self._calls = {call.output: call for call in graph.calls}
        calls = [call for call in graph.calls if describe(graph.layers[call.layer]).joins == "add"]
        calls = [call for call in calls if len(set(call.inputs)) > 1]
        named = _by_addition([call.layer for call in calls], branches or {})
        self.additions = [
            self._named(call, named[call.layer]) if call.layer in named else self._found(call) for call in calls
        ]

    def own(self, call: Call, ref: Ref) -> frozenset[Ref]:
        """The calls that only this one of an addition's tensors is computed from."""
        others = (self.ancestors[other] for other in call.inputs if other != ref)
        return self.ancestors[ref] - frozenset().union(*others)

    # === What a user says ===

    def _named(self, call: Call, layer: str | None) -> Addition:
        if layer is None:
            return Addition(call, list(call.inputs), why="`branches` keeps it")
        found = [ref for ref in dict.fromkeys(call.inputs) if ref.layer == layer]
        found = found or [ref for ref in call.inputs if layer in {own.layer for own in self.own(call, ref)}]
        if len(found) != 1:
            ends = [ref.layer for ref in call.inputs]
            raise ValueError(
                f"Expected `branches['{call.layer}']` to be a layer of one of its branches, which end in {ends}. "
                f"Received: '{layer}', a layer of {len(found)} of them."
            )
        if self.graph.shapes[found[0]] != self.graph.shapes[call.output]:
            raise ValueError(
                f"Expected `branches['{call.layer}']` to be a layer of a branch of the addition's own shape "
                f"{self.graph.shapes[call.output]}. Received: '{layer}', whose branch has "
                f"{self.graph.shapes[found[0]]}."
            )
        return Addition(call, found, [ref for ref in dict.fromkeys(call.inputs) if ref not in found], named=True)

    # === What the network says ===

    def _found(self, call: Call) -> Addition:
        refs = list(dict.fromkeys(call.inputs))
        depths = {ref: self._depth(call, ref) for ref in refs}
        deepest = max(depths.values())
        mains = [ref for ref in refs if depths[ref] == deepest or depths[ref] > 1]
        others = [ref for ref in refs if ref not in mains]
        if not others:
            counts = " and ".join(map(str, depths.values()))
            return Addition(call, refs, why=f"its branches have {counts} convolutions or dense layers")
        shape = self.graph.shapes[call.output]
        if any(self.graph.shapes[main] != shape for main in mains):
            return Addition(call, refs, why="its deepest branch is broadcast")
        like_it = [ref for ref in others if self.graph.shapes[ref] == shape]
        shortcuts = [ref for ref in like_it if any(self._bypasses(main, ref, call.output) for main in mains)]
        if not shortcuts:
            return Addition(call, refs, why="its other branches bring in what the deepest has not, or has lost")
        return Addition(call, [ref for ref in refs if ref not in shortcuts], shortcuts)

    def _depth(self, call: Call, ref: Ref) -> int:
        """The layers with a kernel of a branch, on maps of more than one pixel unless the addition's have one."""
        everywhere = self._pixels(call.output) == 1
        own = self.own(call, ref)
        return sum(
            one.layer in self._kernels
            and (everywhere or self._pixels(one) != 1 or any(self._pixels(x) != 1 for x in self._calls[one].inputs))
            for one in own
        )

    def _pixels(self, ref: Ref) -> int:
        """Number of pixels of a map; one for a vector."""
        return math.prod(self._shapes[ref][1:-1])

    def _pads(self, ref: Ref) -> bool:
        """Whether a tensor is one that was padded for the window behind it."""
        name = self.graph.layers[ref.layer].cls.__name__
        return name.startswith("ZeroPadding") or name == "Pad"

    def _bypasses(self, main: Ref, shortcut: Ref, end: Ref) -> bool:
        """Whether a main branch starts where the shortcut does, and stays between the resolutions of its ends."""
        shared, last = self.ancestors[main] & self.ancestors[shortcut], self._pixels(end)
        own = self.ancestors[shortcut] - shared
        forks = {_call_of(taken) for one in own for taken in self._calls[one].inputs} if own else {_call_of(shortcut)}
        pending: list[tuple[Ref, int, int]] = [(_call_of(main), last, last)]
        seen = set()
        while pending:
            ref, least, most = pending.pop()
            if ref in shared:
                start = self._pixels(ref)  # windows without padding are no step from one resolution to another
                if ref in forks and 2 * least > min(start, last) and most < 2 * max(start, last):
                    return True
                continue
            if (ref, least, most) in seen:
                continue
            seen.add((ref, least, most))
            if not self._pads(ref):
                least, most = min(least, self._pixels(ref)), max(most, self._pixels(ref))
            pending += [(_call_of(taken), least, most) for taken in self._calls[ref].inputs]
        return False


def _call_of(ref: Ref) -> Ref:
    """The first output of the call that returns a tensor, as which the call stands among ancestors."""
    return Ref(ref.layer, ref.call)


def _by_addition(additions: list[str], branches: Branches) -> dict[str, str | None]:
    """The named layer by addition."""
    if not isinstance(branches, Mapping):
        raise ValueError(
            "Expected `branches` to be a dict: addition -> a layer of its main branch, or None for one that stays. "
            f"Received: branches={branches!r}."
        )
    found: dict[str, str | None] = {}
    for pattern, layer in branches.items():
        found.update(dict.fromkeys(matching(additions, [pattern], "branches"), layer))
    return found
