"""Symbolic tensors of a network by the name of the layer that makes them."""

from __future__ import annotations

import keras

from tfjointrd.surgery.graph import Call, Graph, Ref


class Taps:
    """The tensors between a network's layers, also those within sub-models, which are written out for that.

    Args:
        network: The functional network.
        graph: Its graph, or, for an adjoined one, that of its full network.
        whole: Whether only the network's inputs and outputs are wanted.

    Attributes:
        inputs: The network's inputs.
        output: Its output, in its structure.

    Raises:
        ValueError: If layers of several sub-models have the same name.
    """

    def __init__(self, network: keras.Model, graph: Graph, whole: bool = False):
        self._layers = {operation.name: operation for operation in network.operations}
        self._tensors: dict[Ref, object] = {}
        nested = any(isinstance(operation, keras.Model) for operation in network.operations)
        # The first output of a layer that was called before belongs to another network.
        elsewhere = bool(graph.sources) and any(len(layer._inbound_nodes) > 1 for layer in self._layers.values())
        if not whole and (nested or elsewhere):
            self._layers = graph.sources if nested else self._layers
            try:
                network = graph.assemble(self._call, self._layers, network.name)
            except ValueError as error:
                raise ValueError(
                    f"Expected sub-models of '{network.name}' whose layers have names of their own. Keras says: {error}"
                ) from error
        self.inputs, self.output = network.inputs, network.output

    def _call(self, call: Call, *args, **kwargs):
        self._tensors[call.output] = self._layers[call.layer](*args, **kwargs)
        return self._tensors[call.output]

    def __call__(self, name: str, index: int = 0):
        """The symbolic output of a layer; of the full path, in an adjoined network.

        Args:
            name: The layer's name in the graph.
            index: Which of its outputs.
        """
        value = self._tensors[Ref(name)] if self._tensors else self._layers[name].output
        return keras.tree.flatten(value)[index]

    def layer(self, name: str) -> keras.Layer:
        """The layer of a name in the graph."""
        return self._layers[name]
