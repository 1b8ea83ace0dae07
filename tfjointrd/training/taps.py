"""Symbolic tensors of a network by the name of the layer that makes them."""

from __future__ import annotations

import keras

from tfjointrd.surgery.graph import Call, Graph, Ref


class Taps:
    """The tensors between a network's layers, also those within sub-models.

    Args:
        network: The functional network.
        graph: Its graph, or, for an adjoined one, that of its full network.

    Attributes:
        network: The network, its sub-models written out on the very same layers.
    """

    def __init__(self, network: keras.Model, graph: Graph):
        self.network = network
        self._tensors: dict[Ref, object] = {}
        if any(isinstance(operation, keras.Model) for operation in network.operations):
            self._graph = graph
            self.network = graph.assemble(self._call, graph.sources, network.name)

    def _call(self, call: Call, *args, **kwargs):
        self._tensors[call.output] = self._graph.sources[call.layer](*args, **kwargs)
        return self._tensors[call.output]

    def __call__(self, name: str, index: int = 0):
        """The symbolic output of a layer; of the full path, in an adjoined network.

        Args:
            name: The layer's name in the graph.
            index: Which of its outputs.
        """
        if self._tensors:
            return keras.tree.flatten(self._tensors[Ref(name)])[index]
        operation = next(operation for operation in self.network.operations if operation.name == name)
        return keras.tree.flatten(operation.output)[index]
