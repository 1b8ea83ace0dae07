"""Symbolic outputs of a network's layers by the layers' names."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from tfjointrd.surgery.graph import Call, Ref, pick
from tfjointrd.surgery.read_graph import read_graph


class LayerOutputs:
    """The tensors between a network's layers, also those within sub-models, which are written out for that.

    The layers are called anew, on the network's inputs: what `layer.output` says is the output of its first call ever,
    which may belong to another network. Where nothing within is asked for, the network is taken as it is.

    Args:
        network: The functional network.
        wanted: The tensors that are asked for. Those of an adjoined network are its full path's.

    Attributes:
        inputs: The network's inputs.
        output: Its output, in its structure.

    Raises:
        ValueError: If layers of several sub-models have the same name.
    """

    def __init__(self, network: keras.Model, wanted: Iterable[Ref]):
        self._tensors: dict[tuple[str, int], object] = {}
        self._layers: dict[str, keras.Layer] = {}
        if any(True for _ in wanted):
            graph = read_graph(network)
            self._layers = graph.sources
            try:
                network = graph.assemble(self._call, self._layers, network.name)
            except ValueError as error:
                raise ValueError(
                    f"Expected sub-models of '{network.name}' whose layers have names of their own. Keras says: {error}"
                ) from error
        self.inputs, self.output = network.inputs, network.output

    def _call(self, call: Call, *args, **kwargs):
        self._tensors[call.layer, call.number] = self._layers[call.layer](*args, **kwargs)
        return self._tensors[call.layer, call.number]

    def __call__(self, ref: Ref):
        """The symbolic tensor, which is one of those asked for."""
        return pick(self._tensors[ref.layer, ref.call], ref)

    def layer(self, name: str) -> keras.Layer:
        """The layer of a name in the graph, of a network within which something was asked for."""
        return self._layers[name]
