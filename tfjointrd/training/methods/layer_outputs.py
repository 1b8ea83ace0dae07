"""Symbolic outputs of a network's layers by the layers' names."""

from __future__ import annotations

import keras

from tfjointrd.surgery.graph import Call, Ref
from tfjointrd.surgery.read_graph import read_graph


class LayerOutputs:
    """The tensors between a network's layers, also those within sub-models, which are written out for that.

    The layers are called anew, on the network's inputs: what `layer.output` says is the output of its first call ever,
    which may belong to another network.

    Args:
        network: The functional network.
        whole: Whether only the network's inputs and outputs are wanted.

    Attributes:
        inputs: The network's inputs.
        output: Its output, in its structure.

    Raises:
        ValueError: If layers of several sub-models have the same name.
    """

    def __init__(self, network: keras.Model, whole: bool = False):
        self._tensors: dict[Ref, object] = {}
        self._layers: dict[str, keras.Layer] = {}
        if not whole:
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
        self._tensors[call.output] = self._layers[call.layer](*args, **kwargs)
        return self._tensors[call.output]

    def __call__(self, name: str, index: int = 0):
        """The symbolic output of a layer's first call in the network; of the full path, in an adjoined network.

        Args:
            name: The layer's name in the graph.
            index: Which of its outputs.
        """
        return keras.tree.flatten(self._tensors[Ref(name)])[index]

    def layer(self, name: str) -> keras.Layer:
        """The layer of a name in the graph."""
        return self._layers[name]
