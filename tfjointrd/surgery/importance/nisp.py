"""NISP: the importance of what a network ends in, handed back through its weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfjointrd.layers.weight_names import is_kernel
from tfjointrd.progress import followed
from tfjointrd.surgery.channels import Channels
from tfjointrd.surgery.graph import Call, Graph, Ref
from tfjointrd.surgery.importance.criterion import Criterion, register_importance
from tfjointrd.surgery.importance.feature_maps import tensors_of
from tfjointrd.surgery.rules import OUT, describe, rule_for
from tfjointrd.surgery.tied_sets import TiedSets

_LARGE = 1e100
_ALPHA, _DAMPING = 0.5, 0.9  # of Inf-FS: how much deviation counts beside correlation; r as a part of 1 / rho(A)


@keras.saving.register_keras_serializable(package="tfjointrd")
class NISP(Criterion):
    """The importance of the last responses, propagated back through the absolute weights of all layers.

    The responses that the last layer takes are ranked by infinite feature selection on images. Without `data`, all
    outputs count alike, and what the last layer takes is as important as its weights say. Activations, pooling and
    additions pass importance on unchanged. Batch normalisations multiply it by |gamma| / sqrt(variance + epsilon). A
    channel's importance is that at the layers that compute it.

    Args:
        reduction: See `Criterion`.
        normalize: See `Criterion`.

    Reference:
        NISP (https://arxiv.org/abs/1711.05908), Eqn 6: s_k = |W_(k+1)|^T s_(k+1); Infinite Feature Selection
        (https://openaccess.thecvf.com/content_iccv_2015/papers/Roffo_Infinite_Feature_Selection_ICCV_2015_paper.pdf).
    """

    needs_slices = False

    def measure(self, model: keras.Model, sets: TiedSets, data: Any) -> dict[str, list[np.ndarray]]:
        """The importance of the channels at the layers that compute them, by the set's name."""
        graph = sets.channels.graph
        scores = _propagated(sets.channels, {} if data is None else _ranked(graph, data))
        found: dict[str, list[np.ndarray]] = {tied.name: [] for tied in sets}
        for layer in sets.channels.producers():
            own = [call.output for call in graph.calls if call.layer == layer]
            for number, places in sets.positions(own[0]).items():
                found[sets.sets[number].name].append(sum(scores[ref][places].sum(axis=1) for ref in own))
        return found

    def members(self, tied, slices, measured):
        """The importance at the layers that compute the channels."""
        return measured[tied.name]


def _propagated(channels: Channels, last: dict[Ref, np.ndarray]) -> dict[Ref, np.ndarray]:
    """The importance of each channel of each tensor.

    Args:
        channels: The network's channels.
        last: By the output of a last layer, the importance of what it takes.
    """
    graph = channels.graph
    scores = {ref: np.zeros(len(ids)) for ref, ids in channels.ids.items()}
    for ref in graph.output_refs():
        scores[ref] = np.ones_like(scores[ref])
    outputs: dict[tuple[str, int], list[Ref]] = {}
    for ref in scores:
        outputs.setdefault((ref.layer, ref.call), []).append(ref)
    for call in reversed(graph.calls):
        if not call.inputs:
            continue
        own = outputs[call.layer, call.number]
        if call.output in last:
            handed = {call.inputs[0]: last[call.output]}
        elif _has_kernel(graph, call):
            handed = {call.inputs[0]: _through_kernel(graph, call.layer, scores[call.output])}
        else:
            scale = _normalization_scale(graph, call)
            handed = {ref: scale * _passed_on(channels, ref, own, scores) for ref in dict.fromkeys(call.inputs)}
        for ref, values in handed.items():
            scores[ref] = scores[ref] + values
        if max(scores[ref].max(initial=0) for ref in handed) > _LARGE:  # all are in proportion to each other
            scores = {ref: values / _LARGE for ref, values in scores.items()}
    return scores


def _has_kernel(graph: Graph, call: Call) -> bool:
    spec = graph.layers[call.layer]
    return any(is_kernel(weight) for weight in rule_for(call.layer, spec).weight_axes(spec.config))


def _passed_on(channels: Channels, ref: Ref, own: list[Ref], scores: dict[Ref, np.ndarray]) -> np.ndarray:
    """What a layer without a kernel hands back to one of its inputs: each channel what became of it."""
    ids = channels.ids[ref]
    out = np.concatenate([scores[one] for one in own])
    if len(own) == 1 and len(out) == len(ids):
        return out
    out_ids = np.concatenate([channels.ids[one] for one in own])
    if np.isin(ids, out_ids).all():  # strung together, flattened or split
        return np.bincount(out_ids, out, minlength=ids.max() + 1)[ids]
    return np.full(len(ids), out.sum() / len(ids))  # nothing is known but that all depends on all


def _normalization_scale(graph: Graph, call: Call) -> np.ndarray | float:
    """What a batch normalisation multiplies each channel by."""
    if describe(graph.layers[call.layer]).normalizes != "batch":
        return 1.0
    weights = graph.weights(call.layer)
    epsilon = graph.layers[call.layer].config["epsilon"]
    return np.abs(weights.get("gamma", 1.0)) / np.sqrt(weights["moving_variance"].astype("float64") + epsilon)


def _through_kernel(graph: Graph, layer: str, scores: np.ndarray) -> np.ndarray:
    """|W|^T s: from the importance of a layer's output channels to that of its input channels."""
    spec = graph.layers[layer]
    weights = {name: np.abs(value.astype("float64")) for name, value in graph.weights(layer).items()}
    if hasattr(graph.sources[layer], "effective_kernel"):
        kernel = keras.ops.convert_to_numpy(graph.sources[layer].effective_kernel())
        weights["kernel"] = np.abs(kernel.astype("float64"))
    for name in ("pointwise_kernel", "kernel", "depthwise_kernel"):
        if name in weights:
            axes = rule_for(layer, spec).weight_axes(spec.config).get(name, ())
            ahead = [None] * (weights[name].ndim - len(axes))
            scores = _through(weights[name], [*ahead, *axes], scores, spec.config.get("groups", 1))
    return scores


def _through(kernel: np.ndarray, axes: list, scores: np.ndarray, groups: int) -> np.ndarray:
    """The same for one kernel."""
    if OUT not in axes:  # a depthwise one: `scores` are of each input channel's outputs in a row
        height, width, channels, times = kernel.shape
        return np.sum(kernel.sum(axis=(0, 1)) * scores.reshape(channels, times), axis=1)
    outs = axes.index(OUT)
    ins = next((i for i, kind in enumerate(axes) if kind not in (None, OUT)), len(axes) - 2)
    matrix = np.moveaxis(kernel, (ins, outs), (-2, -1)).reshape(-1, kernel.shape[ins], kernel.shape[outs]).sum(axis=0)
    blocks = zip(np.split(matrix, groups, axis=1), np.split(scores, groups), strict=True)
    return np.concatenate([block @ part for block, part in blocks])


# === The last responses ===


def _ranked(graph: Graph, data) -> dict[Ref, np.ndarray]:
    """By the output of the last layer ahead of each of the network's outputs, the importance of what it takes."""
    calls = {}
    for ref in graph.output_refs():
        call = graph.producer(ref)
        while call.inputs and not rule_for(call.layer, graph.layers[call.layer]).producer:
            call = graph.producer(call.inputs[0])
        if call.inputs:
            calls[call.output] = call.inputs[0]
    taken = list(dict.fromkeys(calls.values()))
    found: list[list[np.ndarray]] = [[] for _ in taken]
    for tensors in followed(tensors_of(graph, taken, data), "scoring channels by 'nisp'", data):
        for rows, x in zip(found, tensors, strict=True):
            rows.append(x.reshape(len(x), -1, x.shape[-1]).mean(axis=1))
    by_ref = {ref: infinite_feature_selection(np.concatenate(rows)) for ref, rows in zip(taken, found, strict=True)}
    return {output: by_ref[ref] for output, ref in calls.items()}


def infinite_feature_selection(responses: np.ndarray) -> np.ndarray:
    """Ranks features by paths of any length through a graph of their deviations and correlations.

    Args:
        responses: `(images, features)`.

    Returns:
        `(features,)`, from 0 on: the larger, the more important.

    Raises:
        ValueError: If there is one image only.

    Reference:
        Infinite Feature Selection (ICCV 2015), Eqn 2, 3 and 11.
    """
    if len(responses) < 2:
        raise ValueError("Expected `data` of at least 2 images for 'nisp'. Received: 1 image.")
    responses = responses.astype("float64")
    deviation = responses.std(axis=0)
    deviation = deviation / max(deviation.max(), np.finfo(float).tiny)
    ranks = np.stack([_average_ranks(column) for column in responses.T], axis=1)
    ranks = ranks - ranks.mean(axis=0)
    norms = np.sqrt(np.sum(ranks**2, axis=0))
    products = np.outer(norms, norms)
    # A feature that never changes says nothing new: it counts as correlated with all.
    correlation = np.divide(ranks.T @ ranks, products, out=np.ones_like(products), where=products > 0)
    edges = _ALPHA * np.maximum.outer(deviation, deviation) + (1 - _ALPHA) * (1 - np.abs(correlation).clip(0, 1))
    radius = np.abs(np.linalg.eigvalsh(edges)).max()
    if radius == 0:
        return np.ones(len(edges))
    identity = np.eye(len(edges))
    return (np.linalg.inv(identity - _DAMPING / radius * edges) - identity).sum(axis=1)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


register_importance("nisp", NISP)
