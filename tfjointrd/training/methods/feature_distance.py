"""Distillation by features: the map that is compared, the distance with its margins, and connectors of unlike maps.

The map is the last one before the head, ahead of its ReLU.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.surgery.boundaries import cuts
from tfjointrd.surgery.graph import Call, Graph, Ref
from tfjointrd.surgery.rules import describe
from tfjointrd.surgery.rules.activations import LIKE_RELU, activation_layer
from tfjointrd.training.losses import weighted_mean
from tfjointrd.training.precision import loss_dtype


def last_map(graph: Graph) -> Ref:
    """The last feature map that all of a classifier's path goes through; ahead of its ReLU, if it has one.

    It is looked for ahead of the global pooling, and ahead of other pooling, dropout and functions of single elements
    that follow the ReLU. Relatives of the ReLU (ReLU6, leaky ReLU, SiLU, GELU and their like) count as one.

    Raises:
        ValueError: If the network has none, as one without convolutions.
    """
    maps = _maps(graph)
    if not maps:
        raise ValueError(f"Expected a network with feature maps to distil from. Received: '{graph.name}'.")
    last = maps[-1]
    while last is not None and _hands_on(graph, last):
        previous = _producer(graph, last)
        if previous is not None and _is_relu(graph, last):
            return previous.output
        last = previous
    return maps[-1].output


def _maps(graph: Graph) -> list[Call]:
    """The calls between blocks that return feature maps, up to the head."""
    whole, maps = set(cuts(graph)), []
    for call in graph.calls:
        shape = graph.shapes[call.output]
        if _pools(graph, call) and (len(shape) != 4 or shape[1:3] == (1, 1)) and call.layer in whole:
            break
        if call.layer in whole and len(shape) == 4:
            maps.append(call)
    return maps


def _pools(graph: Graph, call: Call) -> bool:
    spec = graph.layers[call.layer]
    pools = describe(spec).pools
    return "Pool" in spec.cls.__name__ if pools is None else pools  # a layer of the user's own, by its name


def _hands_on(graph: Graph, call: Call) -> bool:
    """Whether a layer looks at each channel alone and without weights, so that a ReLU may be found ahead of it."""
    spec = graph.layers[call.layer]
    rule = describe(spec)
    alone = rule.elementwise and len(call.inputs) == 1 and not rule.weight_axes(spec.config)
    return bool(_is_relu(graph, call) or _pools(graph, call) or alone)


def _is_relu(graph: Graph, call: Call) -> bool:
    return describe(graph.layers[call.layer]).activation in LIKE_RELU


def relu_of(graph: Graph, layer: str) -> keras.Layer | None:
    """A new layer that does what the named one does if that is a ReLU or one of its relatives, else `None`."""
    call, spec = next(call for call in graph.calls if call.layer == layer), graph.layers[layer]
    return activation_layer(spec) if _is_relu(graph, call) else None


def _producer(graph: Graph, call: Call) -> Call | None:
    return graph.producer(call.inputs[0]) if call.inputs else None


def margin_layer(graph: Graph, feature: Ref) -> str:
    """The name of the batch normalisation that says how a feature map is distributed: the last one ahead of it.

    Of several that an addition leads to, it is that of the longest branch, not of the shortcut.

    Raises:
        ValueError: If there is none.
    """
    ancestors = graph.ancestors()
    normalizations = [
        ref
        for ref in ancestors[feature]
        if describe(graph.layers[ref.layer]).normalizes == "batch"
        and graph.shapes[ref][1:] == graph.shapes[feature][1:]
    ]
    if not normalizations:
        raise ValueError(
            f"Expected a batch normalisation ahead of the last feature map of '{graph.name}', which says where its "
            f"margins lie. Received: a network with none of shape {graph.shapes[feature]} before '{feature.layer}'."
        )
    return max(normalizations, key=lambda ref: len(ancestors[ref])).layer


def margins(normalization: keras.layers.BatchNormalization):
    """E[x | x < 0] of each channel, where x is normally distributed as a batch normalisation says.

    Args:
        normalization: The batch normalisation, with mean beta and standard deviation |gamma| of each channel.

    Returns:
        Tensor `(channels,)`: beta - |gamma| phi(beta / |gamma|) / Phi(-beta / |gamma|), or -3 |gamma| where
        less than 0.1 % of the values are negative.

    Reference:
        A Comprehensive Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), section 3.2.
    """
    size = normalization.moving_mean.shape
    beta = ops.cast(normalization.beta, loss_dtype()) if normalization.center else ops.zeros(size, loss_dtype())
    gamma = (
        ops.abs(ops.cast(normalization.gamma, loss_dtype())) if normalization.scale else ops.ones(size, loss_dtype())
    )
    ratio = beta / ops.maximum(gamma, 1e-12)
    negative = 0.5 * (1.0 - ops.erf(ratio / np.sqrt(2.0)))
    density = ops.exp(-0.5 * ratio * ratio) / np.sqrt(2.0 * np.pi)
    return ops.where(negative > 1e-3, beta - gamma * density / ops.maximum(negative, 1e-3), -3.0 * gamma)


def margin_distance(feature, target, margin, sample_weight=None):
    """Squared distance to the teacher's feature, where that says something about the ReLU behind it.

    Positions where the teacher's is negative only ask for something at most as large as the channel's margin.

    Args:
        feature: The student's feature `(batch, height, width, channels)`, ahead of the ReLU.
        target: The teacher's, of the same shape.
        margin: `(channels,)` negative numbers; see `margins`.
        sample_weight: `(batch,)` weights, or `None`.

    Returns:
        Scalar: summed over all positions, averaged over the batch.

    Reference:
        A Comprehensive Overhaul of Feature Distillation (https://arxiv.org/abs/1904.01866), Eqn 1 and 2.
    """
    feature, target = ops.cast(feature, loss_dtype()), ops.cast(target, loss_dtype())
    bounded = ops.maximum(target, margin)
    counts = ops.logical_or(feature > bounded, target > 0)
    squares = ops.where(counts, ops.square(feature - bounded), 0.0)
    return weighted_mean(ops.sum(squares, axis=(1, 2, 3)), sample_weight)


def connector(inputs: tuple, outputs: tuple, name: str, activation: keras.Layer | None = None) -> keras.Sequential:
    """A learned 1x1 convolution and batch normalisation from one feature map's shape to another's.

    Args:
        inputs: `(height, width, channels)` that it takes.
        outputs: `(height, width, channels)` that it returns; height and width as they are, or a whole number of times
            smaller.
        name: Its name.
        activation: A layer that follows, or `None`.

    Raises:
        ValueError: If no such convolution leads from one resolution to the other.
    """
    strides = connector_strides(inputs, outputs)
    if strides is None:
        raise ValueError(
            f"Expected a feature map whose height and width are a multiple of {tuple(outputs)}'s for '{name}'. "
            f"Received: shape {tuple(inputs)}."
        )
    layers = [
        keras.Input(inputs),
        keras.layers.Conv2D(
            outputs[-1],
            1,
            strides,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=np.sqrt(2.0 / outputs[-1])),
            name=f"{name}_conv",
        ),
        FusedBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn"),
    ]
    return keras.Sequential([*layers, *([activation] if activation else [])], name=name)


def connector_strides(inputs: tuple, outputs: tuple) -> tuple[int, int] | None:
    """The strides that lead from one feature map's resolution to another's.

    Args:
        inputs: `(height, width, channels)`, a size that is not known as `None`.
        outputs: `(height, width, channels)`.

    Returns:
        `(vertical, horizontal)`, or `None` if no whole number does.
    """
    strides = []
    for before, after in zip(inputs[:2], outputs[:2], strict=True):
        if before == after:
            strides.append(1)
        elif None in (before, after) or before % after:
            return None
        else:
            strides.append(before // after)
    return tuple(strides)
