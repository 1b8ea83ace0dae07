"""A network with new weights, drawn as the papers' authors draw them."""

from __future__ import annotations

from dataclasses import replace

import keras

from tfjointrd.surgery.read_graph import read_graph

HE_NORMAL, FAN_OUT, LECUN_NORMAL = "he_normal", "fan_out", "lecun_normal"
INITIALIZERS = (HE_NORMAL, FAN_OUT, LECUN_NORMAL)
_NORMAL = "untruncated_normal"  # as PyTorch draws


def with_initializer(model: keras.Model, initializer: str, name: str | None = None) -> keras.Model:
    """The same network with other initializers in its `Conv2D` and `Dense` layers, and new weights in these.

    The initializers are part of the layers' configuration, so that clones and narrow forms are drawn by them too.

    Args:
        model: A functional or Sequential network. It is not changed.
        initializer: `"he_normal"`, Keras' own (variance 2 / fan_in); `"fan_out"`, as the authors of Residual
            Distillation have it: convolutions with variance 2 / fan_out, dense layers, as by default in PyTorch,
            uniform within 1 / sqrt(fan_in), biases likewise; or `"lecun_normal"`, variance 1 / fan_in, as the authors
            of Adjoined Networks have it.
        name: The new network's name; the old one by default.

    Returns:
        A functional `keras.Model` with the same layer names. Other layers keep their weights.

    Raises:
        ValueError: If `initializer` is none of these, or `model` is not functional.
    """
    if initializer not in INITIALIZERS:
        raise ValueError(
            f"Expected `initializer` to be one of {', '.join(INITIALIZERS)}. Received: initializer={initializer!r}."
        )
    graph = read_graph(model)
    specs, sources = dict(graph.layers), dict(graph.sources)
    for call in graph.calls:
        spec = graph.layers[call.layer]
        if spec.cls in (keras.layers.Conv2D, keras.layers.Dense):
            fan_in = graph.shapes[call.inputs[0]][-1] if spec.cls is keras.layers.Dense else None
            specs[call.layer] = spec.with_config(**_initializers(initializer, fan_in))
            sources.pop(call.layer, None)
    return replace(graph, layers=specs, sources=sources).build(name)


def _initializers(initializer: str, fan_in: int | None) -> dict:
    """The entries of a layer's configuration; `fan_in` is a dense layer's number of inputs, `None` a convolution."""
    found = {"bias_initializer": keras.initializers.Zeros()}
    if initializer == HE_NORMAL:
        found["kernel_initializer"] = keras.initializers.HeNormal()
    elif initializer == LECUN_NORMAL:
        found["kernel_initializer"] = keras.initializers.VarianceScaling(1.0, "fan_in", _NORMAL)
    elif fan_in is None:
        found["kernel_initializer"] = keras.initializers.VarianceScaling(2.0, "fan_out", _NORMAL)
    else:  # a uniform distribution of variance 1 / (3 fan_in) ends at 1 / sqrt(fan_in)
        found["kernel_initializer"] = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        found["bias_initializer"] = keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
    return {key: keras.saving.serialize_keras_object(value) for key, value in found.items()}
