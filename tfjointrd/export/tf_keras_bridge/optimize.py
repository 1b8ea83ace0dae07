"""Training for smaller files by tensorflow-model-optimization: quantisation, sparsity, shared weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfjointrd.export.interpreter import quiet
from tfjointrd.export.tf_keras_bridge.libraries import part_of_tfmot, tf_keras, tfmot
from tfjointrd.export.tf_keras_bridge.quantizable import quantizable, with_quantization
from tfjointrd.export.tf_keras_bridge.quantized import QuantizedNetwork
from tfjointrd.export.tf_keras_bridge.ranges import calibrate, moving_ranges
from tfjointrd.export.tf_keras_bridge.training import Fitting
from tfjointrd.export.tf_keras_bridge.translate import prepared, translated, with_weights_of
from tfjointrd.surgery.name_patterns import matching

PRESERVED = ("sparsity", "clusters", "sparsity and clusters")
_SPARSE = ("Conv2D", "Conv2DTranspose", "Dense", "SeparableConv2D")
_CLUSTERED = ("Conv2D", "Conv2DTranspose", "Dense", "DepthwiseConv2D", "SeparableConv2D")


def quantization_aware(
    network: keras.Model,
    train: Any,
    *,
    epochs: int,
    preserve: str | None = None,
    in_float: Iterable[str] = (),
    learning_rate: float = 1e-4,
    optimizer: Any = "adam",
    loss: Any = None,
    batch_size: int = 64,
    validation_data: Any = None,
    verbose: int = 0,
) -> QuantizedNetwork:
    """Trains a network with the rounding of its int8 file, so that its weights make up for the rounding.

    This is quantisation-aware training by tensorflow-model-optimization. It is worth its time if `export.tflite(...,
    quantization="int8")` loses too much.

    Args:
        network: A trained network with one input and one output: a functional or Sequential one of Keras 3, such as
            the `small()` of an adjoined pair, a student without shortcuts, or a pruned network. It is not changed.
        train: Images with labels, in any form that `tfjointrd.data.batches` describes, in the range that the network
            takes. Weights of images are not used.
        epochs: How often all of `train` is seen.
        preserve: The structure to keep, of a network from `prune_low_magnitude` or `cluster_weights`: `"sparsity"`
            (PQAT), `"clusters"` (CQAT), `"sparsity and clusters"` (PCQAT), or `None`.
        in_float: Names or patterns of layers that stay in float.
        learning_rate: That of the first step. It falls to zero along a cosine. The default was chosen on held-out
            images; see benchmarks/quantization.md.
        optimizer: The name of one, or a `tf_keras.optimizers.Optimizer`, which has a learning rate of its own.
        loss: By default cross-entropy, or the mean squared error, as output and labels suggest.
        batch_size: Number of images in a batch, where `train` is one array.
        validation_data: Images with labels for an evaluation after each epoch.
        verbose: As for `fit`.

    Returns:
        A `QuantizedNetwork`, whose `tflite(path)` writes the file.

    Raises:
        ValueError: If an argument does not fit or a layer cannot be translated or quantised, before any training.
        ImportError: If tf_keras or tensorflow-model-optimization is not installed.

    Example:

    >>> trained = quantization_aware(network, train, epochs=1)
    >>> trained.tflite("aware.tflite").input_type
    'uint8'

    Reference:
        Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
        (https://arxiv.org/abs/1712.05877).
    """
    if preserve not in (None, *PRESERVED):
        raise ValueError(f"Expected `preserve` to be one of None, {PRESERVED}. Received: preserve={preserve!r}")
    fitting = Fitting(
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        loss=loss,
        batch_size=batch_size,
        validation_data=validation_data,
        verbose=verbose,
    )
    form, scales = quantizable(prepared(network))
    float_layers = matching([layer.name for layer in form.layers], in_float, "in_float") if in_float else []
    model, _ = translated(form)
    with quiet():
        model = with_quantization(model, scales, float_layers, _scheme(preserve))
    images = fitting.data.images()
    calibrate(model, images)
    with moving_ranges():
        history = fitting.fit(model)
    if preserve and "clusters" in preserve:
        model = tfmot().experimental.combine.strip_clustering_cqat(model)
    return QuantizedNetwork(network, model, history, images, bool(float_layers))


def prune_low_magnitude(
    network: keras.Model,
    train: Any,
    sparsity: float | str = 0.5,
    *,
    epochs: int,
    keep: Iterable[str] = (),
    learning_rate: float = 1e-3,
    optimizer: Any = "adam",
    loss: Any = None,
    batch_size: int = 64,
    validation_data: Any = None,
    verbose: int = 0,
) -> keras.Model:
    """Trains a network while more and more of its small weights become zero.

    The network keeps its shape; files of it take less space once they are compressed, as app packages are. For a
    network that is smaller and faster at once, see `tfjointrd.prune`, which removes channels.

    Args:
        network: See `quantization_aware`.
        train: See `quantization_aware`.
        sparsity: The share of each layer's weights that are zero at the end, or `"2:4"`: two of four weights in a row
            along a kernel's input channels, a pattern that some processors compute faster. Any `"m:n"` works.
        epochs: How often all of `train` is seen. The share grows in the first half of the steps.
        keep: Names or patterns of layers that are not pruned.
        learning_rate: See `quantization_aware`.
        optimizer: See `quantization_aware`.
        loss: See `quantization_aware`.
        batch_size: See `quantization_aware`.
        validation_data: See `quantization_aware`.
        verbose: See `quantization_aware`.

    Returns:
        A Keras 3 network with the same layers, whose convolutions and dense layers have that share of zeros.

    Raises:
        ValueError: If an argument does not fit or a layer cannot be translated, before any training.
        ImportError: If tf_keras or tensorflow-model-optimization is not installed.

    Example:

    >>> sparse = prune_low_magnitude(network, train, 0.5, epochs=1)
    >>> kernel = sparse.get_layer("stage1_block1_conv1").kernel
    >>> round(float(keras.ops.mean(kernel == 0)), 2)
    0.5

    Reference:
        To prune, or not to prune (https://arxiv.org/abs/1710.01878).
    """
    pattern = _pattern(sparsity)
    fitting = Fitting(
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        loss=loss,
        batch_size=batch_size,
        validation_data=validation_data,
        verbose=verbose,
    )
    network = prepared(network)
    kept = matching([layer.name for layer in network.layers], keep, "keep") if keep else []
    model, carriers = translated(network)
    library = tfmot().sparsity.keras
    kinds = ("Conv2D", "Dense") if pattern else _SPARSE

    def wrapped(layer):
        if type(layer).__name__ not in kinds or layer.name in kept:
            return layer
        if pattern:
            schedule = library.ConstantSparsity(pattern[0] / pattern[1], 0, frequency=max(1, fitting.steps // 20))
            return library.prune_low_magnitude(layer, schedule, sparsity_m_by_n=pattern)
        end = max(1, fitting.steps // 2)
        schedule = library.PolynomialDecay(0.0, sparsity, 0, end, frequency=max(1, end // 20))
        return library.prune_low_magnitude(layer, schedule)

    model = tf_keras().models.clone_model(model, clone_function=wrapped)
    fitting.fit(model, [library.UpdatePruningStep()])
    return _back(network, library.strip_pruning(model), carriers)


def cluster_weights(
    network: keras.Model,
    train: Any,
    number_of_clusters: int = 16,
    *,
    epochs: int,
    preserve_sparsity: bool = False,
    keep: Iterable[str] = (),
    learning_rate: float = 1e-4,
    optimizer: Any = "adam",
    loss: Any = None,
    batch_size: int = 64,
    validation_data: Any = None,
    verbose: int = 0,
) -> keras.Model:
    """Trains a network in which the weights of a layer have few different values.

    The network keeps its shape; files of it take less space once they are compressed, as app packages are.

    Args:
        network: See `quantization_aware`.
        train: See `quantization_aware`.
        number_of_clusters: How many different values the kernel of a layer has at the end, at least 2.
        epochs: See `quantization_aware`.
        preserve_sparsity: Whether weights that are zero stay zero, for a network from `prune_low_magnitude`.
        keep: Names or patterns of layers whose weights stay as they are.
        learning_rate: See `quantization_aware`.
        optimizer: See `quantization_aware`.
        loss: See `quantization_aware`.
        batch_size: See `quantization_aware`.
        validation_data: See `quantization_aware`.
        verbose: See `quantization_aware`.

    Returns:
        A Keras 3 network with the same layers, whose kernels have that many different values.

    Raises:
        ValueError: If an argument does not fit or a layer cannot be translated, before any training.
        ImportError: If tf_keras or tensorflow-model-optimization is not installed.

    Example:

    >>> shared = cluster_weights(network, train, 8, epochs=1)
    >>> len(np.unique(shared.get_layer("stage1_block1_conv1").kernel)) <= 8
    True

    Reference:
        Deep Compression (https://arxiv.org/abs/1510.00149), section 3.
    """
    if not isinstance(number_of_clusters, int) or number_of_clusters < 2:
        raise ValueError(
            "Expected `number_of_clusters` to be an integer of at least 2. Received: "
            f"number_of_clusters={number_of_clusters!r}"
        )
    fitting = Fitting(
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        loss=loss,
        batch_size=batch_size,
        validation_data=validation_data,
        verbose=verbose,
    )
    network = prepared(network)
    kept = matching([layer.name for layer in network.layers], keep, "keep") if keep else []
    model, carriers = translated(network)
    library = tfmot().clustering.keras
    start = library.CentroidInitialization.KMEANS_PLUS_PLUS
    cluster = part_of_tfmot("clustering.keras.experimental.cluster").cluster_weights

    def wrapped(layer):
        few = not layer.weights or len(np.unique(layer.get_weights()[0])) <= number_of_clusters
        if type(layer).__name__ not in _CLUSTERED or layer.name in kept or few:
            return layer
        return cluster(layer, number_of_clusters, start, preserve_sparsity)

    model = tf_keras().models.clone_model(model, clone_function=wrapped)
    fitting.fit(model)
    return _back(network, library.strip_clustering(model), carriers)


def _pattern(sparsity: float | str) -> tuple[int, int] | None:
    """`"2:4"` as two numbers; `None` for a share."""
    if isinstance(sparsity, str) and (found := re.fullmatch(r"(\d+):(\d+)", sparsity)):
        zeros, block = map(int, found.groups())
        if 0 < zeros < block:
            return zeros, block
    elif isinstance(sparsity, (int, float)) and 0 < sparsity < 1:
        return None
    raise ValueError(
        f"Expected `sparsity` above 0 and below 1, or a pattern such as '2:4'. Received: sparsity={sparsity!r}"
    )


def _scheme(preserve: str | None) -> Any:
    """The library's quantisation scheme that keeps what is to be kept."""
    combine = tfmot().experimental.combine
    if preserve is None:
        return None
    if preserve == "sparsity":
        return combine.Default8BitPrunePreserveQuantizeScheme()
    return combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity="sparsity" in preserve)


def _back(network: keras.Model, model: Any, carriers: dict[str, Any]) -> keras.Model:
    """The Keras 3 network with the weights that its tf_keras twin has learnt."""
    return with_weights_of(network, {name: model.get_layer(layer.name) for name, layer in carriers.items()})
