"""Plain networks whose convolutions are an identity plus a correction, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import keras

from tfjointrd.layers.dirac import DiracConv2D, delta
from tfjointrd.surgery.graph import Graph
from tfjointrd.surgery.name_patterns import matching
from tfjointrd.surgery.read_graph import read_graph


def dirac(
    model: keras.Model,
    layers: Iterable[str] | None = None,
    alpha: float = 1.0,
    beta: float = 0.1,
    keep_function: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Reparameterises the convolutions of a network as alpha * delta + beta * W, which trains deep plain networks.

    Args:
        model: A functional or Sequential network, e.g. from `remove_shortcuts`. It is not changed.
        layers: Names or patterns (`"stage*_conv*"`) of the `keras.layers.Conv2D` to reparameterise; by default all but
            the network's first one and those with groups.
        alpha: Initial weight of the identity.
        beta: Initial weight of W.
        keep_function: By default W is the network's kernel, so that an untrained network starts near the identity, and
            its function changes. With `True`, W is chosen so that the function stays: for networks that are trained.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` with `DiracConv2D` layers of the same names. `fold` makes it plain again. Exclude
        their `alpha` and `beta` from weight decay: `optimizer.exclude_from_weight_decay(var_names=["alpha", "beta"])`.
        The identity of a strided convolution takes the pixels 0, 2, 4, ... of a strided shortcut; where its padding is
        "same" and the input's size is not known, those at the centre of its kernel.

    Raises:
        ValueError: If `model` is not functional, has no convolution to reparameterise, `layers` is no list or empty, a
            pattern matches none, or `beta` is 0.

    Example:

    >>> student = dirac(tfjointrd.remove_shortcuts(tfjointrd.models.resnet20()))

    Reference:
        DiracNets (https://arxiv.org/abs/1706.00388); the authors' code of Residual Distillation has alpha = 1 and
        beta = 0.1.
    """
    if beta == 0:
        raise ValueError("Expected `beta` other than 0. Received: beta=0.")
    graph = read_graph(model)
    chosen = _convolutions(graph, layers)
    specs, weights = dict(graph.layers), {}
    for key in chosen:
        tap = _tap(graph, key)
        specs[key] = replace(specs[key], cls=DiracConv2D).with_config(alpha=alpha, beta=beta, tap=tap)
        own = graph.weights(key)
        filters = own["kernel"].shape[-1]
        if keep_function:
            own["kernel"] = (own["kernel"] - alpha * delta(own["kernel"].shape, tap)) / beta
        weights[key] = {**own, "alpha": _full(filters, alpha), "beta": _full(filters, beta)}
    return replace(graph, layers=specs).build(name, weights)


def fold(model: keras.Model, name: str | None = None) -> keras.Model:
    """Turns the `DiracConv2D` layers of a network into ordinary convolutions with the same outputs.

    Args:
        model: A functional or Sequential network. It is not changed.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` of the same function and layer names, with `keras.layers.Conv2D` only.

    Raises:
        ValueError: If `model` is not functional.
    """
    graph = read_graph(model)
    specs, weights = dict(graph.layers), {}
    for key, spec in graph.layers.items():
        if spec.cls is not DiracConv2D:
            continue
        config = {entry: value for entry, value in spec.config.items() if entry not in ("alpha", "beta", "tap")}
        specs[key] = replace(spec, cls=keras.layers.Conv2D, config=config)
        own = graph.weights(key)
        alpha, beta = own.pop("alpha"), own.pop("beta")
        identity = delta(own["kernel"].shape, spec.config["tap"])
        weights[key] = {**own, "kernel": alpha * identity + beta * own["kernel"]}
    return replace(graph, layers=specs).build(name, weights)


def _convolutions(graph: Graph, patterns: Iterable[str] | None) -> list[str]:
    convolutions = [key for key, spec in graph.layers.items() if spec.cls is keras.layers.Conv2D]
    if patterns is None:
        found = [key for key in convolutions[1:] if graph.layers[key].config["groups"] == 1]
        if not found:
            raise ValueError(
                f"Expected `model` to have convolutions after its first. Received: '{graph.name}', with none."
            )
        return found
    found = matching(convolutions, patterns, "layers")
    if not found:
        raise ValueError("Expected `layers` to name at least one convolution. Received: layers=[].")
    for key in found:
        if graph.layers[key].config["groups"] > 1:
            raise ValueError(
                f"Expected `layers` to name convolutions without groups. Received: '{key}', with "
                f"groups={graph.layers[key].config['groups']}."
            )
    return found


def _tap(graph: Graph, layer: str) -> tuple[int, int] | None:
    """Where the kernel of a strided convolution of padding "same" meets the pixels that a strided shortcut takes.

    These are pixels 0, strides, 2 * strides, ...: as far into the kernel as zeros stand before the image. `None` is the
    kernel's centre: for other convolutions, and where the size of the image is not known.
    """
    config = graph.layers[layer].config
    call = next(call for call in graph.calls if call.layer == layer)
    shape = graph.shapes[call.inputs[0]]
    sizes = shape[2:] if config["data_format"] == "channels_first" else shape[1:-1]
    if config["padding"] != "same" or max(config["strides"]) == 1 or None in sizes:
        return None
    taps = []
    for size, kernel, stride in zip(sizes, config["kernel_size"], config["strides"], strict=True):
        last = (size - 1) // stride * stride  # where the last window would start without zeros
        taps.append(max(last + kernel - size, 0) // 2)
    return tuple(taps)


def _full(filters: int, value: float):
    return [float(value)] * filters
