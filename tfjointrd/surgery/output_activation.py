"""A network's outputs: what they are called, and what they end in: a softmax, a sigmoid or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfjointrd.surgery.graph import Call, Graph, Ref, substitute
from tfjointrd.surgery.read_graph import read_graph

SOFTMAX, SIGMOID, UNNORMALIZED = "softmax", "sigmoid", "unnormalized"
_TOLERANCE = 0.02  # of sums of half precision numbers
_UNKNOWN_SIZE = 4  # stands for sizes that are not known


def output_names(graph: Graph) -> list[str]:
    """Names of the outputs in their order: their keys, or else the layers that make them; later calls are numbered."""
    if isinstance(graph.outputs, Mapping):
        return list(graph.outputs)
    names: list[str] = []
    for ref in graph.output_refs():
        number = sum(name == ref.layer or name.startswith(f"{ref.layer}_call") for name in names)
        names.append(f"{ref.layer}_call{number + 1}" if number else ref.layer)
    return names


def named_outputs(names: Sequence[str], outputs: Any) -> dict[str, Any]:
    """What a network returns, by the names of `output_names`.

    Args:
        names: The names.
        outputs: The outputs in their structure.
    """
    if isinstance(outputs, Mapping):
        return {name: outputs[name] for name in names}
    return dict(zip(names, keras.tree.flatten(outputs), strict=True))


def final_activation(network: keras.Model | Graph, output: Ref | None = None) -> str | None:
    """Whether an output is probabilities, and of what kind.

    What stands behind the last layers with weights is computed on random numbers. So it counts what comes out, and not
    which layers make it: a softmax layer, a function of the user's own, or the mean of two networks' probabilities.

    Args:
        network: The network or its graph.
        output: One of its outputs; by default the only one.

    Returns:
        `"softmax"` for probabilities of classes of which one is right: from 0 on, with the sum 1 over the last axis.
        `"sigmoid"` for numbers that each lie between 0 and 1. `"unnormalized"` for numbers from 0 on whose sum is
        always the same but not 1, such as the sum of two softmaxes. `None` for all others, such as logits.
    """
    graph = network if isinstance(network, Graph) else read_graph(network)
    ref = output or graph.single_output()
    try:
        values = _Tail(graph, ref).value(ref)
    except Exception:  # what a layer of the user's own does to random numbers
        return None
    values = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")), "float64")
    if not np.isfinite(values).all() or values.min() < -_TOLERANCE:
        return None
    sums = values.sum(axis=-1)
    if np.ptp(sums) < _TOLERANCE * max(sums.max(), 1e-6) and sums.max() > 0:
        return SOFTMAX if abs(sums.mean() - 1) < _TOLERANCE else UNNORMALIZED
    return SIGMOID if values.max() < 1 + _TOLERANCE else None


class _Tail:
    """Computes an output from random numbers in the place of what the last layers with weights return."""

    def __init__(self, graph: Graph, output: Ref):
        self.graph, self.found = graph, {}
        self.random = np.random.default_rng(0)  # and none of Keras' random numbers, which trainings repeat
        positions = int(np.prod([size or _UNKNOWN_SIZE for size in graph.shapes[output][1:-1]]))
        self.images = max(2, 64 // max(positions, 1))

    def value(self, ref: Ref):
        """The tensor's value."""
        key = replace(ref, index=0)
        if key not in self.found:
            call = self.graph.producer(ref)
            self.found[key] = self._drawn(call) if self._starts(call) else self._computed(call)
        value = self.found[key]
        return value[ref.index] if isinstance(value, (list, tuple)) else value

    def _starts(self, call: Call) -> bool:
        """Whether the layer has weights, or is an input."""
        layer = self.graph.sources.get(call.layer)
        return not call.inputs or call.layer in self.graph.kernels or bool(getattr(layer, "weights", ()))

    def _drawn(self, call: Call):
        """Random numbers of both signs, large and small, with the activation that is a part of the layer."""
        shape = [self.images, *(size or _UNKNOWN_SIZE for size in self.graph.shapes[call.output][1:])]
        scales = self.random.choice([0.3, 3.0, 10.0], size=(*shape[:-1], 1))
        drawn = self.random.normal(size=shape) * scales
        values = keras.ops.convert_to_tensor(drawn.astype("float32"))
        config: Any = self.graph.layers[call.layer].config
        while "activation" not in config and isinstance(config.get("layer"), Mapping):  # as of a TimeDistributed
            config = config["layer"]["config"]
        return keras.activations.get(config.get("activation"))(values)

    def _computed(self, call: Call):
        layer = self.graph.sources.get(call.layer) or self.graph.layers[call.layer].make()
        args, kwargs = (substitute(part, self.value) for part in (call.args, call.kwargs))
        return layer(*args, **{key: False if key == "training" else value for key, value in kwargs.items()})
