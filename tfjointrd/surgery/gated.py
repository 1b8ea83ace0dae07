"""The adjoined form of a network whose small path is a mixture of widths, and what each choice of widths costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfjointrd.layers.gates import ChannelGates
from tfjointrd.surgery.adjoined_graph import SMALL, AdjoinedGraph
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, pick, substitute
from tfjointrd.surgery.narrow_forms import Kept, narrow_spec
from tfjointrd.surgery.rules import describe, rule_for
from tfjointrd.surgery.widths import first_filters, staying, tied_to

GATES = "gates"
TIES = ("shared", "free")


@dataclass(frozen=True)
class Group:
    """Layers whose widths are chosen together, because additions or multiplications tie their channels.

    Attributes:
        name: The name of the first layer.
        layers: Their names, in network order.
    """

    name: str
    layers: tuple[str, ...]


class GatedGraph(AdjoinedGraph):
    """A network and candidates for the widths of its small twin; builds the network in which all are mixed.

    The small path computes the widest candidate, and gates scale its channels. They do so behind batch normalisations,
    which would undo a scale in front of them, and wherever else a channel could turn from zero into something. A gate
    that has chosen thus makes the channels that it drops zero throughout, and the small path the function of the
    physically narrow network.

    Args:
        graph: The full network.
        candidates: For each alpha, layer name -> positions of the output channels it keeps.
        alphas: The candidates' numbers, in rising order.
        ties: `"shared"`: layers whose channels are tied have one gate. `"free"`: each has its own, and all become as
            wide as the widest choice.
        batch_normalization: As for `AdjoinedGraph`.
        **noise: `noise`, `frozen`, `hard` and `seed` of `ChannelGates`.

    Attributes:
        groups: The groups of layers with something to choose.
        rows: For each group the rows of logits that choose.
        gates: The layer with all gates of the network that `network()` built last.

    Raises:
        ValueError: If a layer is not known or there is nothing to choose.
    """

    def __init__(
        self,
        graph: Graph,
        candidates: Sequence[Mapping[str, Iterable[int]]],
        alphas: Sequence[float],
        ties: str = "shared",
        batch_normalization: str = "separate",
        **noise,
    ):
        if ties not in TIES:
            raise ValueError(f"Expected `ties` to be one of {TIES}. Received: ties={ties!r}.")
        self.alphas, self.noise = alphas, noise
        self.gates: Any = None
        self.channels = Channels(graph)
        self.wanted = [{layer: list(positions) for layer, positions in one.items()} for one in candidates]
        self.candidates = [self.channels.keep(one) for one in self.wanted]
        self._group_of_channel: dict[int, int] = {}
        self.groups = self._find_groups(graph)
        counts = [1 if ties == "shared" else len(group.layers) for group in self.groups]
        starts = np.cumsum([0, *counts])
        self.rows = [list(range(start, start + n)) for start, n in zip(starts, counts, strict=False)]
        super().__init__(graph, {SMALL: self.wanted[0]}, batch_normalization)

    def _find_groups(self, graph: Graph) -> list[Group]:
        outputs = {call.layer: call.output for call in reversed(graph.calls)}
        families: list[set[str]] = []
        followers = self.channels.followers()
        for group in self.channels.groups():
            tied = set(group) - followers
            touching = [family for family in families if family & tied]
            families = [family for family in families if family not in touching] + [tied.union(*touching)]
        order = {layer: i for i, layer in enumerate(self.channels.producers())}
        groups = []
        for family in sorted((sorted(one, key=order.__getitem__) for one in families), key=lambda one: order[one[0]]):
            refs = [outputs[layer] for layer in family]
            if all(len(self.candidates[0][ref]) == len(self.candidates[-1][ref]) for ref in refs):
                continue
            for ref in refs:
                for root in self.channels.roots(self.channels.ids[ref]).tolist():
                    self._group_of_channel[root] = len(groups)
            groups.append(Group(family[0], tuple(family)))
        if not groups:
            raise ValueError(
                f"Expected layers with widths to choose in network '{graph.name}'. Received: none; every layer is in "
                "`keep`, has to stay full, or has the same width for all alphas."
            )
        return groups

    def _whole(self, path: str, ref: Ref) -> bool:
        """Whether the small network has all channels of a tensor, whatever is chosen."""
        return len(self.candidates[-1][ref]) == self.graph.shapes[ref][-1]

    def _narrow_forms(self) -> Sequence[Kept]:
        return self.candidates

    # === Gates ===

    def places(self, ref: Ref) -> list[tuple[int, int]]:
        """For each channel that the small path has of a tensor, its group and the last candidate that has it."""
        last = np.zeros(self.graph.shapes[ref][-1], int)
        for candidate in self.candidates[1:]:
            last[candidate[ref]] += 1
        kept = self.candidates[0][ref]
        roots = self.channels.roots(self.channels.ids[ref][kept])
        return [(self._group_of_channel.get(root, 0), j) for root, j in zip(roots.tolist(), last[kept], strict=True)]

    def _runs(self, ref: Ref) -> list[list[int]]:
        runs: list[list[int]] = []
        for group, last in self.places(ref):
            if runs and runs[-1][:2] == [group, last]:
                runs[-1][2] += 1
            else:
                runs.append([int(group), int(last), 1])
        return runs

    def _varies(self, ref: Ref) -> bool:
        """Whether the width of a tensor depends on what is chosen."""
        return len(self.candidates[0][ref]) != len(self.candidates[-1][ref])

    def _gated(self, call: Call, ref: Ref) -> bool:
        """Whether channels of a tensor have to be scaled behind the call that returns it."""
        if not self._varies(ref) or len(self.graph.shapes[ref]) < 2:
            return False
        consumers = self._consumers().get(ref, [])
        if consumers and all(describe(self.graph.layers[c.layer]).normalizes == "batch" for c in consumers):
            return False  # scaled behind these
        return not self._keeps_zero(call)

    def _consumers(self) -> dict[Ref, list[Call]]:
        if not hasattr(self, "_taken_by"):
            self._taken_by = self.graph.consumers()
        return self._taken_by

    def _keeps_zero(self, call: Call) -> bool:
        """Whether channels that are zero in all inputs are zero in the output; by trying, where no rule says."""
        spec, ids = self.graph.layers[call.layer], self.channels.ids
        taken = {root for ref in call.inputs for root in self.channels.roots(ids[ref]).tolist()}
        made = np.concatenate([ids[ref] for ref in self.graph.outputs_of(call)])
        if not taken.issuperset(self.channels.roots(made).tolist()):
            return False  # channels of its own, which other gates may drop
        known = describe(spec).keeps_zeros
        if known is not None or self._has_weights(call.layer):
            return bool(known)
        zeros = {ref: keras.ops.zeros([1, *(size or 8 for size in self.graph.shapes[ref][1:])]) for ref in call.inputs}
        args, kwargs = (substitute(part, zeros.get) for part in (call.args, call.kwargs))
        return not any(keras.ops.any(y) for y in keras.tree.flatten(spec.make()(*args, **kwargs)))

    def network(self, name: str) -> keras.Model:
        """The network in which all candidates are mixed."""
        gated = [ref for call in self.graph.calls for ref in self.graph.outputs_of(call) if self._gated(call, ref)]
        sites: dict[str, Sequence[Sequence[int]]] = {_site(ref): self._runs(ref) for ref in gated}
        name_of_gates = next(
            f"{GATES}{'_' * i}" for i in itertools.count() if f"{GATES}{'_' * i}" not in self.graph.layers
        )
        self.gates = ChannelGates(self.rows, self.alphas, sites, name=name_of_gates, **self.noise)
        return super().network(name)

    def _call(self, call: Call, tensors: Mapping[tuple, Mapping], layers: dict[str, Any]) -> dict[str, Any]:
        found = super()._call(call, tensors, layers)
        parts = [self._scaled(ref, pick(found[SMALL], ref)) for ref in self.graph.outputs_of(call)]
        found[SMALL] = parts[0] if len(parts) == 1 else parts
        return found

    def _scaled(self, ref: Ref, tensor: Any) -> Any:
        return self.gates(tensor, site=_site(ref)) if _site(ref) in self.gates.sites else tensor

    # === Layers one by one ===

    def kernel_calls(self) -> list[Call]:
        """The first call of each layer that holds a kernel."""
        kernels, first = self.graph.kernel_layers(), {}
        for call in self.graph.calls:
            if call.layer in kernels:
                first.setdefault(call.layer, call)
        return list(first.values())

    def forms(self, call: Call) -> dict[tuple[int, int], LayerSpec]:
        """The forms that a layer has in narrow networks, by the positions of the candidates of its input and output."""
        source, entries = call.inputs[0], range(len(self.candidates))
        groups = [{group for group, _ in self.places(ref) if self._varies(ref)} for ref in (source, call.output)]
        one = groups[0] == groups[1] or not rule_for(call.layer, self.graph.layers[call.layer]).producer
        found = {}
        for i, j in ((i, j) for i in entries for j in entries if i == j or not one):
            kept = {source: self.candidates[i][source], call.output: self.candidates[j][call.output]}
            found[i, j] = narrow_spec(self.graph, kept, call.layer)
        return found

    # === What is chosen ===

    def widths(self, choices: Sequence[int]) -> dict[str, int]:
        """Layer name -> width, for every layer whose width depends on what is chosen or that is narrower in any case.

        Args:
            choices: For each group the position of its candidate.
        """
        kept = self.channels.keep(self.positions(choices))
        return {layer: len(kept[ref]) for layer, ref in self._changed().items()}

    def full_widths(self) -> dict[str, int]:
        """Layer name -> width in the full network, for the same layers."""
        return {layer: self.channels.width(layer) for layer in self._changed()}

    def _changed(self) -> dict[str, Ref]:
        """Layers that may be narrower than in the full network, and their outputs."""
        outputs = {call.layer: call.output for call in self.graph.calls}
        return {layer: outputs[layer] for layer in self.channels.producers() if not self._whole(SMALL, outputs[layer])}

    def positions_in_widest(self, choices: Sequence[int]) -> dict[str, list[int]]:
        """As `positions`, but counted among the channels of the widest candidate, of layers that may be narrower."""
        kept, widest = self.channels.keep(self.positions(choices)), self.candidates[0]
        return {
            layer: np.flatnonzero(np.isin(widest[ref], kept[ref])).tolist() for layer, ref in self._changed().items()
        }

    def positions(self, choices: Sequence[int]) -> dict[str, list[int]]:
        """Layer name -> positions of the output channels that it keeps, for every layer."""
        chosen = {layer: choice for group, choice in zip(self.groups, choices, strict=True) for layer in group.layers}
        return {layer: self.wanted[chosen.get(layer, 0)][layer] for layer in self.wanted[0]}


def _site(ref: Ref) -> str:
    return f"{ref.layer}:{ref.call}" + f":{ref.index}" * (ref.index > 0)


def candidates_of(
    graph: Graph, alphas: Sequence[float], keep: Iterable[str] | None = None, round_to: int = 8, ties: str = "shared"
) -> tuple[list[dict[str, list[int]]], dict[str, str]]:
    """What each alpha keeps of each layer, and why layers stay full.

    Args:
        graph: The network.
        alphas: The candidates, in rising order.
        keep: Names or patterns of layers that stay full; by default the stem and the first stage.
        round_to: As for `first_filters`.
        ties: As for `GatedGraph`.

    Raises:
        ValueError: As `first_filters`; or if, with `ties="free"`, alpha 1 is missing and a layer with a gate is tied to
            one that stays full.
    """
    channels = Channels(graph)
    stays = {**_counted(graph, channels), **staying(graph, keep)}
    found = [first_filters(channels, alpha, stays, round_to) for alpha in alphas]
    reasons = found[-1][1]
    tied = tied_to(channels, set(reasons))
    if ties == "free" and alphas[0] != 1 and tied:
        layer, other = next(iter(tied.items()))
        raise ValueError(
            f"Expected `alphas` to hold 1, since layer '{layer}' is added to '{other}', which stays full. "
            f"Received: alphas={alphas}, ties='free'."
        )
    reasons = {**reasons, **{layer: f"tied to '{other}'" for layer, other in tied.items()}}
    return [wanted for wanted, _ in found], reasons


def _counted(graph: Graph, channels: Channels) -> dict[str, str]:
    """Layers whose channels a normalisation counts: there, a channel that is zero differs from none."""
    found: dict[str, str] = {}
    for call in graph.calls:
        if describe(graph.layers[call.layer]).normalizes == "channels":
            counted = set(channels.roots(channels.ids[call.output]).tolist())
            for producer in graph.calls:
                made = channels.roots(channels.ids[producer.output]).tolist()
                if producer.layer in channels.producers() and counted & set(made):
                    found[producer.layer] = f"counted by '{call.layer}'"
    return found
