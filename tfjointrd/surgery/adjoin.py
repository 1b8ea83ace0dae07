"""The adjoined form of a network: the full and the small network as one, with one set of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfjointrd.layers.adjoined import (
    AdjoinedBatchNormalization,
    AdjoinedConv2D,
    AdjoinedDense,
    AdjoinedDepthwiseConv2D,
    Keep,
    TakeChannels,
)
from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, refs_in, substitute
from tfjointrd.surgery.slim import Kept, narrow_spec, slim_graph, slim_weights
from tfjointrd.surgery.weights import assign_weights, weights_of

_BATCH_NORMALIZATIONS = (keras.layers.BatchNormalization, FusedBatchNormalization)


def first_filters(channels: Channels, alpha: int, keep_full: Iterable[str]) -> dict[str, list[int]]:
    """The mask a_alpha of Eqn 2 for every layer: the first `filters // alpha` filters.

    Args:
        channels: The network's channels.
        alpha: How many times narrower.
        keep_full: Names of layers that keep all their filters.

    Returns:
        Layer name -> positions to keep, for every convolution and dense layer that can be narrowed or is kept full.

    Raises:
        ValueError: If `alpha` leaves a layer no filter; the message names the layer.
    """
    full = set(keep_full)
    wanted = {}
    for layer in channels.producers():
        width = channels.width(layer)
        if layer in full or channels.fixed(layer):
            wanted[layer] = list(range(width))
        elif width // alpha < 1:
            raise ValueError(
                f"Expected `alpha` to leave every layer at least one channel. Received: alpha={alpha}, and layer "
                f"'{layer}' has {width}. Name it in `keep` to leave it as it is."
            )
        else:
            wanted[layer] = list(range(width // alpha))
    return wanted


def stem_and_first_stage(graph: Graph) -> list[str]:
    """Names of the layers in the stem and the first stage, which Adjoined Networks leave at full width.

    The first stage ends with the last merge (an addition or concatenation) at the resolution of the first one. In a
    network without merges that names its layers `stage2_...`, it ends before these; else it is all up to the last
    convolution at the first resolution that holds two.

    Reference:
        Adjoined Networks, section 6; that stage 1 belongs to what stays full follows from the paper's parameter counts.
    """
    merges = graph.merges()
    if merges:
        last = [c for c in merges if _positions(graph, c) == _positions(graph, merges[0])][-1]
        return [ref.layer for ref in graph.ancestors()[last.output]]
    named = next((i for i, call in enumerate(graph.calls) if call.layer.startswith("stage2_")), None)
    if named is not None:
        return [call.layer for call in graph.calls[:named]]
    kernels = graph.kernel_layers()
    resolutions = [_positions(graph, call) for call in graph.calls if call.layer in kernels]
    first = next((r for i, r in enumerate(resolutions) if r in resolutions[:i]), None)
    last_index = max(
        (i for i, c in enumerate(graph.calls) if c.layer in kernels and _positions(graph, c) == first), default=-1
    )
    return [call.layer for call in graph.calls[: last_index + 1]]


def _positions(graph: Graph, call: Call) -> tuple:
    """Height and width of a call's output; empty behind a global pooling."""
    return graph.shapes[call.output][1:-1]


def compact(positions: Iterable[int]) -> Keep:
    """Kept positions as a number where they are the first n, else as a list."""
    positions = [int(p) for p in positions]
    return len(positions) if positions == list(range(len(positions))) else positions


@dataclass
class _Pair:
    """A tensor in both networks. On the trunk, where they are the same function, `small` is the same tensor."""

    full: Any
    small: Any

    @property
    def trunk(self) -> bool:
        return self.full is self.small


class AdjoinedGraph:
    """A network and the channels its small twin keeps; builds the adjoined network and takes both out of it again.

    Args:
        graph: The full network.
        wanted: Layer name -> positions of the output channels that the small network keeps.

    Raises:
        ValueError: If a layer is not known, has no adjoined form, or nothing is left to narrow.
    """

    def __init__(self, graph: Graph, wanted: Mapping[str, Iterable[int]]):
        self.graph = graph
        self.kept: Kept = Channels(graph).keep(wanted)
        if all(len(self.kept[ref]) == graph.shapes[ref][-1] for ref in self.kept):
            raise ValueError(
                f"Expected channels to drop in network '{graph.name}'. Received: `keep` covers every layer."
            )

    def network(self, name: str) -> keras.Model:
        """The adjoined network: one input, outputs `{"full": p, "small": q}`.

        Layers carry the names they have in the full network. The trunk before the first narrowed layer is computed
        once. Kernels start from the full network's, both batch normalisations from its statistics.
        """
        self._check_single_use()
        layers: dict[str, Any] = {}
        pairs: dict[Ref, _Pair] = {}
        inputs = []
        for call in self.graph.calls:
            if issubclass(self.graph.layers[call.layer].cls, keras.layers.InputLayer):
                layers[call.layer] = self.graph.layers[call.layer].make()
                inputs.append(layers[call.layer].output)
                pairs[call.output] = _Pair(inputs[-1], inputs[-1])
            else:
                pairs[call.output] = self._call(call, pairs, layers)
        output = pairs[self.graph.single_output()]
        if output.trunk:
            raise ValueError(f"The output of network '{self.graph.name}' does not depend on any narrowed layer.")
        network = keras.Model(inputs[0], {"full": output.full, "small": output.small}, name=name)
        self._set_weights(layers)
        return network

    def _check_single_use(self) -> None:
        if len(list(refs_in(self.graph.inputs))) != 1:
            raise ValueError(f"Expected a network with one input. Received: '{self.graph.name}'.")
        for call in self.graph.calls:
            if call.number and self.graph.weights(call.layer):
                raise ValueError(
                    f"Layer '{call.layer}' has weights and is called more than once, which has no adjoined form. "
                    "Expected a network in which each such layer is called once."
                )

    def _call(self, call: Call, pairs: Mapping[Ref, _Pair], layers: dict[str, Any]) -> _Pair:
        """Calls a layer in both networks; on the trunk once."""
        spec = _with_fused_kernel(self.graph.layers[call.layer])
        if all(pairs[ref].trunk for ref in call.inputs):
            full = _apply(_layer(layers, call.layer, spec), call, pairs, "full")
            if len(self.kept[call.output]) == self.graph.shapes[call.output][-1]:
                return _Pair(full, full)
            take = LayerSpec(TakeChannels, {"name": f"{call.layer}_small", "keep": compact(self.kept[call.output])})
            return _Pair(full, _layer(layers, take.config["name"], take)(full))
        paired = self._paired_spec(call)
        if paired is not None:
            pair = pairs[call.inputs[0]]
            return _Pair(*_layer(layers, call.layer, paired)([pair.full, pair.small]))
        full = _apply(_layer(layers, call.layer, spec), call, pairs, "full")
        narrow = narrow_spec(self.graph, self.kept, call.layer)
        if narrow.config == spec.config:
            return _Pair(full, _apply(layers[call.layer], call, pairs, "small"))
        name = f"{call.layer}_small"
        return _Pair(full, _apply(_layer(layers, name, narrow.with_config(name=name)), call, pairs, "small"))

    def _paired_spec(self, call: Call) -> LayerSpec | None:
        """The layer that takes both paths because it has weights, or `None` for a layer without weights."""
        spec = self.graph.layers[call.layer]
        small_inputs = compact(self.kept[call.inputs[0]])
        small_outputs = compact(self.kept[call.output])
        if spec.cls in _BATCH_NORMALIZATIONS:
            return LayerSpec(AdjoinedBatchNormalization, {**spec.config, "small_channels": len(self.kept[call.output])})
        if spec.cls is keras.layers.DepthwiseConv2D:
            return LayerSpec(AdjoinedDepthwiseConv2D, {**spec.config, "small_inputs": small_inputs})
        for cls, adjoined in ((keras.layers.Conv2D, AdjoinedConv2D), (keras.layers.Dense, AdjoinedDense)):
            if spec.cls is cls:
                return LayerSpec(
                    adjoined, {**spec.config, "small_inputs": small_inputs, "small_outputs": small_outputs}
                )
        if self.graph.weights(call.layer):
            raise ValueError(
                f"Layer '{call.layer}' is a {spec.cls.__name__}, which has weights but no adjoined form. Keep the part "
                "of the network up to it full by naming its layers in `keep`."
            )
        return None

    def _set_weights(self, layers: Mapping[str, Any]) -> None:
        """Both networks start from the full one's weights."""
        full = {name: self.graph.weights(name) for name in self.graph.layers}
        small = slim_weights(self.graph, self.kept, full)
        for name, layer in layers.items():
            if isinstance(layer, AdjoinedBatchNormalization):
                assign_weights(layer.full, full[name])
                assign_weights(layer.small, small[name])
            elif name in full:
                assign_weights(layer, full[name])

    def forget_weights(self) -> None:
        """Lets go of the original network's weights, which are no longer needed once `network()` has copied them."""
        self.graph = replace(self.graph, sources={})

    def full(self, network: keras.Model, name: str) -> keras.Model:
        """The full network with the weights that `network`, made by `network()`, has now."""
        return self.graph.build(name, self._full_weights(network))

    def small(self, network: keras.Model, name: str) -> keras.Model:
        """The physically narrow network with the weights that `network`, made by `network()`, has now."""
        weights = slim_weights(self.graph, self.kept, self._full_weights(network))
        for layer in network.layers:
            if isinstance(layer, AdjoinedBatchNormalization):
                weights[layer.name] = weights_of(layer.small)
        return slim_graph(self.graph, self.kept).build(name, weights)

    def _full_weights(self, network: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        """The weights of the full path by layer and weight name."""
        layers = {layer.name: layer for layer in network.layers}  # operators have no weights and are not among them
        layers = {n: x.full if isinstance(x, AdjoinedBatchNormalization) else x for n, x in layers.items()}
        return {name: weights_of(layers.get(name)) for name in self.graph.layers}


def _with_fused_kernel(spec: LayerSpec) -> LayerSpec:
    """The same layer, on TensorFlow's fused kernel where there is one. `full()` and `small()` have Keras' own."""
    return LayerSpec(FusedBatchNormalization, spec.config) if spec.cls in _BATCH_NORMALIZATIONS else spec


def _layer(layers: dict[str, Any], name: str, spec: LayerSpec) -> Any:
    if name not in layers:
        layers[name] = spec.make()
    return layers[name]


def _apply(layer: Any, call: Call, pairs: Mapping[Ref, _Pair], path: str) -> Any:
    """Calls `layer` as `call` does, on the tensors of one path."""
    args, kwargs = (substitute(part, lambda ref: getattr(pairs[ref], path)) for part in (call.args, call.kwargs))
    return layer(*args, **kwargs)
