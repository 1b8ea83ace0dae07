"""The adjoined form of a network: the full network and its small twins as one, with one set of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfjointrd.layers.adjoined import AdjoinedLayer, Share, TakeChannels, compact
from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, pick, refs_in, substitute
from tfjointrd.surgery.narrow_forms import Kept, check_narrow_forms, kept_entries, narrow_spec
from tfjointrd.surgery.output_activation import output_names
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.slim import slim_graph, slim_weights
from tfjointrd.surgery.weights import assign_weights, weights_of

FULL, SMALL = "full", "small"
BATCH_NORMALIZATION_MODES = ("separate", "shared")
_PASSED_ON = ("training", "mask")  # arguments of a layer's call that are its own business


def check_adjoinable(graph: Graph) -> None:
    """Checks that a network takes images and can be adjoined as far as its kind goes.

    Raises:
        ValueError: If it takes no images, is adjoined already, or has a `DiracConv2D`.
    """
    rank = {len(graph.shapes[ref]) for ref in refs_in(graph.inputs)}
    if rank != {4}:
        raise ValueError(
            "Expected a network of images, (batch, height, width, channels). Received: "
            f"'{graph.name}', whose input is {[graph.shapes[ref] for ref in refs_in(graph.inputs)]}."
        )
    for name, spec in graph.layers.items():
        if spec.cls in (AdjoinedLayer, TakeChannels):
            raise ValueError(
                "Expected `model` not to be adjoined yet; take the `full()` of the adjoined one. Received: "
                f"'{graph.name}' with layer '{name}'."
            )
    _check_no_dirac(graph)


def _check_no_dirac(graph: Graph) -> None:
    found = [name for name, spec in graph.layers.items() if spec.cls is DiracConv2D]
    if found:
        raise ValueError(
            "Expected a network without DiracConv2D layers. `tfjointrd.fold` turns them into ordinary convolutions. "
            f"Received: '{graph.name}' with the DiracConv2D '{found[0]}'"
            + (f" and {len(found) - 1} others." if len(found) > 1 else ".")
        )


class AdjoinedGraph:
    """A network and the channels its small twins keep; builds the adjoined network and takes all out of it again.

    Args:
        graph: The full network.
        wanted: For each small network, by the name of its path, layer name -> positions of the output channels that it
            keeps.
        batch_normalization: `"separate"` weights and statistics for each network, or `"shared"`: slices of the full
            network's weights, and its statistics in inference.

    Raises:
        ValueError: If a layer is not known or nothing is left to narrow.
    """

    def __init__(
        self,
        graph: Graph,
        wanted: Mapping[str, Mapping[str, Iterable[int]]],
        batch_normalization: str = "separate",
    ):
        if batch_normalization not in BATCH_NORMALIZATION_MODES:
            raise ValueError(
                f"Expected `batch_normalization` to be one of {BATCH_NORMALIZATION_MODES}. "
                f"Received: batch_normalization={batch_normalization!r}."
            )
        graph.check_tied()
        self.graph = graph
        self.shared = batch_normalization == "shared"
        channels = Channels(graph)
        self.kept: dict[str, Kept] = {path: channels.keep(positions) for path, positions in wanted.items()}
        for path, kept in self.kept.items():
            if all(self._whole(path, ref) for ref in kept):
                raise ValueError(
                    f"Expected channels to drop in network '{graph.name}'. Received: nothing to drop for '{path}'; "
                    "every layer is in `keep`, too narrow for `alpha` and `round_to`, or has to stay full. A network "
                    "that never makes its maps smaller is all first stage, which `keep=()` narrows too."
                )
        if len(list(refs_in(graph.inputs))) != 1:
            raise ValueError(f"Expected a network with one input. Received: '{graph.name}'.")
        for kept in self._narrow_forms():
            check_narrow_forms(graph, kept)
        self.trunk: dict[str, set[Ref]] = {}
        self._apart: dict[str, set[str]] = {}
        for path in self.kept:
            self.trunk[path], self._apart[path] = self._find_trunk(path)

    def _whole(self, path: str, ref: Ref) -> bool:
        """Whether a small network has all channels of a tensor."""
        return len(self.kept[path][ref]) == self.graph.shapes[ref][-1]

    def _narrow_forms(self) -> Sequence[Kept]:
        """What the narrow networks that may come out keep."""
        return list(self.kept.values())

    # === What is computed once ===

    def _find_trunk(self, path: str) -> tuple[set[Ref], set[str]]:
        """The tensors that are the same function in the small and in the full network, and the layers to keep apart.

        A layer with weights that is called several times is on the trunk with all of its calls or with none; the latter
        are kept apart.
        """
        apart: set[str] = set()
        while True:
            trunk, before = set(), len(apart)
            for call in self.graph.calls:
                joined = all(ref in trunk for ref in call.inputs) and call.layer not in apart
                if joined and all(self._whole(path, ref) for ref in self.graph.outputs_of(call)):
                    trunk.update(self.graph.outputs_of(call))
                if not joined and self._has_weights(call.layer) and self._calls(call.layer) > 1:
                    apart.add(call.layer)
            if len(apart) == before:
                break
        if all(ref in trunk for ref in self.graph.output_refs()):
            raise ValueError(
                f"The output of network '{self.graph.name}' does not depend on any layer that '{path}' narrows."
            )
        return trunk, apart

    def _has_weights(self, layer: str) -> bool:
        return bool(getattr(self.graph.sources.get(layer), "weights", ()))

    def _calls(self, layer: str) -> int:
        return sum(call.layer == layer for call in self.graph.calls)

    def _own_paths(self, call: Call) -> list[str]:
        """The small networks that compute this call themselves, rather than taking it from the full network."""
        return [
            path
            for path, trunk in self.trunk.items()
            if call.layer in self._apart[path] or not all(ref in trunk for ref in call.inputs)
        ]

    # === The adjoined network ===

    def network(self, name: str) -> keras.Model:
        """The adjoined network: one input, outputs by `output_keys()`.

        Layers carry the names they have in the full network. The trunk before the first narrowed layer is computed
        once. All networks start from the full one's weights and statistics.
        """
        layers: dict[str, Any] = {}
        tensors: dict[tuple[str, int], dict[str, Any]] = {}  # by call, then by path: all that it returns
        inputs = []
        for call in self.graph.calls:
            if issubclass(self.graph.layers[call.layer].cls, keras.layers.InputLayer):
                layers[call.layer] = self.graph.layers[call.layer].make()
                inputs.append(layers[call.layer].output)
                tensors[call.layer, call.number] = dict.fromkeys((FULL, *self.kept), inputs[-1])
            else:
                tensors[call.layer, call.number] = self._call(call, tensors, layers)
        outputs = {
            name: _tensor(tensors, ref, path)
            for path in (FULL, *self.kept)
            for name, ref in zip(self.output_keys(path), self.graph.output_refs(), strict=True)
        }
        network = keras.Model(inputs[0], outputs, name=name)
        self._set_weights(layers)
        return network

    def output_keys(self, path: str) -> list[str]:
        """Keys of a path's outputs in the adjoined network: the path's name, with the output's if there are several."""
        names = output_names(self.graph)
        return [path] if len(names) == 1 else [f"{path}_{name}" for name in names]

    def _call(self, call: Call, tensors: Mapping[tuple, Mapping], layers: dict[str, Any]) -> dict[str, Any]:
        """Calls a layer in all networks; on the trunk once."""
        spec, own = _with_fused_kernel(self.graph.layers[call.layer]), self._own_paths(call)
        if own and self._has_weights(call.layer):
            layer = _layer(layers, call.layer, lambda: self._adjoined(call.layer, spec, own))
            self._check_arguments(call)
            options = {key: value for key, value in call.kwargs.items() if key == "training"}
            results = layer([_tensor(tensors, call.inputs[0], path) for path in (FULL, *own)], **options)
            found = dict(zip((FULL, *own), results, strict=True))
        else:
            found = {FULL: _apply(_layer(layers, call.layer, spec.make), call, tensors, FULL)}
            for path in own:
                narrow = narrow_spec(self.graph, self.kept[path], call.layer)
                name = call.layer if narrow.config == spec.config else self._name(call.layer, path)
                layer = _layer(layers, name, narrow.with_config(name=name).make)
                found[path] = _apply(layer, call, tensors, path)
        for path in self.kept.keys() - found.keys():
            outputs = self.graph.outputs_of(call)
            parts = [self._kept_part(path, ref, pick(found[FULL], ref), layers) for ref in outputs]
            found[path] = parts[0] if len(parts) == 1 else parts
        return found

    def _kept_part(self, path: str, ref: Ref, tensor: Any, layers: dict[str, Any]) -> Any:
        """What a small network has of a tensor that it shares with the full one."""
        if len(self.kept[path][ref]) == self.graph.shapes[ref][-1]:
            return tensor
        name, keep = self._name(ref.layer, path) + f"_{ref.index}" * (ref.index > 0), compact(self.kept[path][ref])
        return _layer(layers, name, lambda: TakeChannels(keep, name=name))(tensor)

    def _name(self, layer: str, path: str) -> str:
        """The name of a layer of a small path alone."""
        name = f"{layer}_{path}"
        while name in self.graph.layers:
            name += "_"
        return name

    def _check_arguments(self, call: Call) -> None:
        """A layer with weights is called with one tensor for each network, and with nothing else."""
        others = [
            f"{key}={value!r}" for key, value in call.kwargs.items() if key not in _PASSED_ON and value is not None
        ]
        others += [repr(value) for value in call.args[1:]]
        if others or len(call.inputs) != 1:
            raise ValueError(
                f"Expected layer '{call.layer}' of '{self.graph.name}', which has weights and is to be narrowed, to be "
                f"called with one tensor. Received: {len(call.inputs)} tensors and {', '.join(others) or 'no options'}."
            )

    def _adjoined(self, name: str, spec: LayerSpec, paths: list[str]) -> AdjoinedLayer:
        """The layer that takes all paths because it has weights."""
        small: dict[str, Any] = {}
        shares: dict[str, Share | None] = {}
        weights = self.graph.weights(name)
        normalizes = describe(spec).normalizes == "batch"
        # Statistics of a full network that is frozen are not those of a small one, which therefore takes its own.
        changes = {"trainable": True} if normalizes and "trainable" in spec.config else {}
        for path in paths:
            config = {**narrow_spec(self.graph, self.kept[path], name).config, **changes}
            small[path] = replace(spec, config=config).make()
            if normalizes and not self.shared:
                shares[path] = None
                continue
            entries = kept_entries(self.graph, self.kept[path], name, weights)
            shares[path] = {
                key: [
                    None if kept is None or len(kept) == size else compact(kept)
                    for kept, size in zip(axes, weights[key].shape, strict=True)
                ]
                for key, axes in entries.items()
            }
        return AdjoinedLayer(spec.make(), small, shares)

    def _set_weights(self, layers: Mapping[str, Any]) -> None:
        """All networks start from the full one's weights."""
        full = {name: self.graph.weights(name) for name in self.graph.layers}
        for name, layer in layers.items():
            if name in full:
                assign_weights(layer.full if isinstance(layer, AdjoinedLayer) else layer, full[name])
            for path, own in layer.own.items() if isinstance(layer, AdjoinedLayer) else ():
                assign_weights(own, slim_weights(self.graph, self.kept[path], full, [name])[name])

    def forget_weights(self) -> None:
        """Lets go of the original network's weights, which are no longer needed once `network()` has copied them."""
        self.graph = replace(self.graph, sources={})

    # === What comes out of it ===

    def full(self, network: keras.Model, name: str) -> keras.Model:
        """The full network with the weights that `network`, made by `network()`, has now."""
        return self.graph.build(name, self._full_weights(network))

    def small(self, network: keras.Model, path: str, name: str) -> keras.Model:
        """The physically narrow network with the weights that `network`, made by `network()`, has now."""
        weights = slim_weights(self.graph, self.kept[path], self._full_weights(network))
        for layer in network.layers:
            if isinstance(layer, AdjoinedLayer) and path in layer.own:
                weights[layer.name] = weights_of(layer.own[path])
        return slim_graph(self.graph, self.kept[path]).build(name, weights)

    def _full_weights(self, network: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        """The weights of the full path by layer and weight name."""
        layers = {layer.name: layer for layer in network.layers}  # operators have no weights and are not among them
        layers = {name: x.full if isinstance(x, AdjoinedLayer) else x for name, x in layers.items()}
        return {name: weights_of(layers.get(name)) for name in self.graph.layers}


def take_own_weights(network: keras.Model, path: str, small: keras.Model) -> None:
    """Gives a small path of an adjoined network, where it has weights of its own, those of a narrow network."""
    for layer in network.layers:
        if isinstance(layer, AdjoinedLayer) and path in layer.own:
            assign_weights(layer.own[path], weights_of(small.get_layer(layer.name)))


def _with_fused_kernel(spec: LayerSpec) -> LayerSpec:
    """The same layer, on TensorFlow's fused kernel where there is one. `full()` and `small()` have Keras' own."""
    return LayerSpec(FusedBatchNormalization, spec.config) if spec.cls is keras.layers.BatchNormalization else spec


def _layer(layers: dict[str, Any], name: str, make: Any) -> Any:
    if name not in layers:
        layers[name] = make()
    return layers[name]


def _tensor(tensors: Mapping[tuple, Mapping[str, Any]], ref: Ref, path: str) -> Any:
    """A tensor on one path."""
    return pick(tensors[ref.layer, ref.call][path], ref)


def _apply(layer: Any, call: Call, tensors: Mapping[tuple, Mapping[str, Any]], path: str) -> Any:
    """Calls `layer` as `call` does, on the tensors of one path."""
    args, kwargs = (substitute(part, lambda ref: _tensor(tensors, ref, path)) for part in (call.args, call.kwargs))
    return layer(*args, **kwargs)
