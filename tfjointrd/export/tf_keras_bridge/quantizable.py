"""Networks in the form in which tensorflow-model-optimization trains them with quantisation.

Two things have no place in an integer file as they stand: a batch normalisation that follows no convolution, and a
product with a sum behind it, as pixels are normalised. Both are computed as a product and a sum, and nothing tells the
converter the range of what lies between. A depthwise convolution of one pixel is the same function in one operator.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfjointrd.export.tf_keras_bridge.libraries import part_of_tfmot, tfmot
from tfjointrd.layers import FusedBatchNormalization
from tfjointrd.surgery.graph import Call, Graph, LayerSpec, Ref, substitute
from tfjointrd.surgery.read_graph import read_graph

_BATCH_NORMALIZATIONS = (keras.layers.BatchNormalization, FusedBatchNormalization)
_LINKED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D, keras.layers.Dense)
# Layers that are one operator in a file, and of which quantising the output is all that has to be done.
_ONE_OPERATOR = ("Multiply", "Subtract", "Maximum", "Minimum", "PReLU", "ELU", "Rescaling", "Activation")
# Those that the library handles together with the layer ahead of them.
_TRANSFORMED = ("BatchNormalization",)


def quantizable(network: keras.Model) -> tuple[keras.Model, set[str]]:
    """The same function with other layers, and the names of the depthwise convolutions that replace some.

    - A batch normalisation that follows no convolution or dense layer becomes a trainable scale and offset. Its
      statistics are those that it has recorded.
    - A normalisation of pixels becomes a scale and an offset that are not trained.
    - A separable convolution becomes the two convolutions that it is.
    - A ReLU right behind a convolution or dense layer becomes its activation.
    """
    graph = read_graph(network)
    specs, calls, weights = dict(graph.layers), [], {}
    scales = set()
    for call in graph.calls:
        affine = _affine(graph, call)
        if graph.layers[call.layer].cls is keras.layers.SeparableConv2D:
            calls.extend(_separated(graph, call, specs, weights))
            continue
        if affine is None:
            calls.append(call)
            continue
        scale, offset, trainable = affine
        channels = graph.shapes[call.output][-1]
        config = {"kernel_size": 1, "activation": "linear", "name": call.layer, "trainable": trainable}
        specs[call.layer] = LayerSpec(keras.layers.DepthwiseConv2D, config)
        weights[call.layer] = {
            "kernel": np.broadcast_to(scale, channels).reshape(1, 1, channels, 1),
            "bias": np.broadcast_to(offset, channels),
        }
        calls.append(Call(call.layer, call.number, (call.inputs[0],), {}))
        scales.add(call.layer)
    graph = _with_fused_relus(replace(graph, layers=specs, calls=calls))
    return graph.build(weights=weights), scales


def _separated(graph: Graph, call: Call, specs: dict[str, LayerSpec], weights: dict[str, dict]) -> list[Call]:
    """The depthwise and the pointwise convolution in the place of a separable one: their calls."""
    name, config, own = call.layer, graph.layers[call.layer].config, graph.weights(call.layer)
    first = f"{name}_depthwise"
    shared = ("kernel_size", "strides", "padding", "depth_multiplier", "data_format", "dilation_rate", "trainable")
    of_first = {key: config[key] for key in shared} | {"use_bias": False, "activation": "linear", "name": first}
    kept = ("filters", "activation", "use_bias", "data_format", "trainable", "name")
    specs[first] = LayerSpec(keras.layers.DepthwiseConv2D, of_first)
    specs[name] = LayerSpec(keras.layers.Conv2D, {key: config[key] for key in kept} | {"kernel_size": 1})
    weights[first] = {"kernel": own["depthwise_kernel"]}
    weights[name] = {"kernel": own["pointwise_kernel"]} | ({"bias": own["bias"]} if config["use_bias"] else {})
    between = Ref(first, call.number)
    return [Call(first, call.number, (call.inputs[0],), {}), Call(name, call.number, (between,), {})]


def _affine(graph: Graph, call: Call) -> tuple[Any, Any, bool] | None:
    """Scale, offset and whether they learn, if a call is to become a depthwise convolution."""
    if len(call.inputs) != 1 or len(graph.shapes[call.inputs[0]]) != 4 or graph.shapes[call.inputs[0]][-1] is None:
        return None
    spec, source = graph.layers[call.layer], graph.sources[call.layer]
    if spec.cls is keras.layers.Rescaling:
        scale, offset = np.asarray(source.scale, "float32"), np.asarray(source.offset, "float32")
        return None if (scale == 1).all() or (offset == 0).all() else (scale.reshape(-1), offset.reshape(-1), False)
    if spec.cls is keras.layers.Normalization and not source.invert:
        mean, variance = (keras.ops.convert_to_numpy(v).reshape(-1) for v in (source.mean, source.variance))
        scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        return scale, -mean * scale, False
    if spec.cls in _BATCH_NORMALIZATIONS and source.axis in (-1, 3) and not _is_linked(graph, call):
        own = {name: value.astype("float64") for name, value in graph.weights(call.layer).items()}
        scale = own.get("gamma", 1.0) / np.sqrt(own["moving_variance"] + source.epsilon)
        return scale, own.get("beta", 0.0) - own["moving_mean"] * scale, source.trainable
    return None


def _is_linked(graph: Graph, call: Call) -> bool:
    """Whether a layer alone takes what a convolution or dense layer without activation returns."""
    maker = graph.producer(call.inputs[0])
    spec = graph.layers[maker.layer]
    return (
        spec.cls in _LINKED
        and spec.config["activation"] == "linear"
        and len(graph.consumers()[call.inputs[0]]) == 1
        and call.inputs[0] not in graph.output_refs()
    )


def _with_fused_relus(graph: Graph) -> Graph:
    """ReLUs right behind a layer as its activation: the library does not quantise the layer's weights otherwise."""
    specs, gone = dict(graph.layers), {}
    counts = [call.layer for call in graph.calls]
    for call in graph.calls:
        if not _is_relu(graph.layers[call.layer]) or not _is_linked(graph, call):
            continue
        maker = call.inputs[0].layer
        if counts.count(maker) == 1 and specs[maker].cls in (keras.layers.Conv2D, keras.layers.Dense):
            specs[maker] = specs[maker].with_config(activation="relu")
            gone[call.output] = call.inputs[0]

    def kept(ref: Ref) -> Ref:
        return gone.get(ref, ref)

    calls = [
        replace(call, args=substitute(call.args, kept), kwargs=substitute(call.kwargs, kept))
        for call in graph.calls
        if call.output not in gone
    ]
    return replace(graph, layers=specs, calls=calls, outputs=substitute(graph.outputs, kept)).pruned()


def _is_relu(spec: LayerSpec) -> bool:
    if spec.cls is keras.layers.Activation:
        return spec.config["activation"] == "relu"
    plain = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
    return spec.cls is keras.layers.ReLU and all(spec.config[key] == value for key, value in plain.items())


def with_quantization(model: Any, scales: Collection[str], in_float: Collection[str], scheme: Any = None):
    """A tf_keras network that computes in training what its int8 file will compute.

    Args:
        model: The network.
        scales: Names of the depthwise convolutions that `quantizable` made.
        in_float: Names of the layers that stay in float.
        scheme: The library's quantisation scheme; by default that of 8 bits.

    Raises:
        ValueError: If a layer cannot be quantised; the message names it.
    """
    quantization = tfmot().quantization.keras
    configs = part_of_tfmot("quantization.keras.default_8bit.default_8bit_quantize_configs")
    registry = quantization.default_8bit.Default8BitQuantizeRegistry()
    keras2 = part_of_tfmot("keras.compat").keras

    def annotated(layer):
        kind = type(layer).__name__
        if layer.name in in_float:
            return layer
        if layer.name in scales or (kind in _ONE_OPERATOR and not _supported(registry, layer)):
            return quantization.quantize_annotate_layer(layer, configs.Default8BitOutputQuantizeConfig())
        if kind == "AveragePooling2D":  # in a file, it has the scale of what it takes
            return quantization.quantize_annotate_layer(layer, configs.NoOpQuantizeConfig())
        if _supported(registry, layer) or kind in _TRANSFORMED:
            return quantization.quantize_annotate_layer(layer)
        raise ValueError(
            "Expected layers that tensorflow-model-optimization can quantise. Received: layer "
            f"'{layer.name}' ({kind}). Leave it in float: `in_float=['{layer.name}']`"
        )

    marked = keras2.models.clone_model(model, clone_function=annotated)
    marked.set_weights(model.get_weights())
    scheme = scheme or quantization.default_8bit.Default8BitQuantizeScheme()
    with quantization.quantize_scope():
        return quantization.quantize_apply(marked, scheme)


def _supported(registry: Any, layer: Any) -> bool:
    if not registry.supports(layer):
        return False
    try:
        registry.get_quantize_config(layer).get_output_quantizers(layer)
    except ValueError:  # an activation that it does not know
        return False
    return True
