"""How much activation memory a network holds while it runs, from the lifetimes of its tensors.

A tensor lives from the layer that produces it to the last layer that takes it; the network's inputs live from the
start and its outputs to the end. Layers run in the order of the network's graph. Batch normalisation, activations,
dropout, reshapes and arithmetic with constants work in place if no later layer needs their input. An addition of two
tensors does not. A zero padding costs no memory if only convolutions read it, because XNNPACK, TFLite's kernels
for processors, pads inside float convolutions. If a pooling reads it, it costs a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

from keras import layers

from tfjointrd.surgery.graph import Call, Graph, Ref, refs_in
from tfjointrd.surgery.rules import describe

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def live_bytes(graph: Graph, sizes: Mapping[Ref, int]) -> list[int]:
    """Bytes of all tensors that live while a call runs, for each call of the graph.

    Args:
        graph: The network.
        sizes: Bytes of every tensor.

    Returns:
        One number for each of `graph.calls`. A call's own inputs and outputs are among the tensors.
    """
    end = len(graph.calls) - 1
    last_use = dict.fromkeys(sizes, -1)
    for index, call in enumerate(graph.calls):
        last_use.update(dict.fromkeys(call.inputs, index))
    last_use.update(dict.fromkeys(refs_in(graph.outputs), end + 1))
    padded = _padded_in_convolutions(graph)
    sizes = {**sizes, **dict.fromkeys((call.output for call in padded), 0)}
    for call in reversed(padded):
        last_use[call.inputs[0]] = max(last_use[call.inputs[0]], last_use[call.output])

    # Births and deaths of buffers as changes of a running sum. A call in place hands its input's buffer on.
    changes = [0] * (end + 3)
    inputs = set(refs_in(graph.inputs))
    for index, call in enumerate(graph.calls):
        reused = _works_in_place(graph, call, sizes) and last_use[call.inputs[0]] == index
        for ref in graph.outputs_of(call):
            birth = 0 if ref in inputs else index + 1 if reused else index
            changes[birth] += sizes[ref]
            changes[max(last_use[ref], index) + 1] -= sizes[ref]
    running, live = 0, []
    for change in changes[: end + 1]:
        running += change
        live.append(running)
    return live


def _padded_in_convolutions(graph: Graph) -> list[Call]:
    """The zero paddings that only convolutions without a padding of their own read."""
    consumers, outputs = graph.consumers(), set(refs_in(graph.outputs))

    def pads_itself(call: Call) -> bool:
        spec = graph.layers[call.layer]
        return issubclass(spec.cls, _CONVOLUTIONS) and spec.config["padding"] == "valid"

    return [
        call
        for call in graph.calls
        if issubclass(graph.layers[call.layer].cls, layers.ZeroPadding2D)
        and call.output not in outputs
        and all(map(pads_itself, consumers.get(call.output, ())))
    ]


def _works_in_place(graph: Graph, call: Call, sizes: Mapping[Ref, int]) -> bool:
    tensors = call.inputs
    fits = len(tensors) == 1 and sizes[tensors[0]] == sizes.get(call.output)
    return fits and bool(describe(graph.layers[call.layer]).in_place)
