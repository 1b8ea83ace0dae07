"""The network of a recipe: by its name, or from a file, as new or with a new classifier."""

from __future__ import annotations

import difflib
import os
import zipfile
from pathlib import Path

import keras

from tfjointrd import models
from tfjointrd.data import DatasetInfo
from tfjointrd.experiments.recipes import Recipe, Trained
from tfjointrd.surgery import fold, new_head
from tfjointrd.surgery.initializers import HE_NORMAL, with_initializer
from tfjointrd.surgery.output_activation import final_activation
from tfjointrd.surgery.pixel_range import with_pixel_range


def network_of(recipe: Recipe, info: DatasetInfo) -> keras.Model:
    """The network that a recipe names, for a data set.

    It has new weights, or those of a file. For `transfer` it has a new classifier, and where a recipe prunes, it is as
    it was before.

    Raises:
        ValueError: If there is no such network, or it does not fit the data.
        FileNotFoundError: If a `.keras` file does not exist.
    """
    network = trained_network(recipe) if isinstance(recipe, Trained) else build_network(recipe.network, info)
    if recipe.method == "transfer":
        network = new_head(network, info.num_classes, info.input_shape)
        _unfreeze(network)
    if recipe.initializer != HE_NORMAL:
        network = with_initializer(network, recipe.initializer)
    check_fits(network, info)
    return network


def trained_network(recipe: Trained) -> keras.Model:
    """The trained network that a recipe begins with: of raw pixels, its convolutions ordinary ones, nothing frozen.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    network = fold(with_pixel_range(_load(recipe.network), recipe.pixel_range))
    _unfreeze(network)
    return network


def _unfreeze(network: keras.Model) -> None:
    for layer in network.layers:
        layer.trainable = True


def _load(path: str) -> keras.Model:
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected `network` to be a .keras file that exists. Received: network='{path}'.")
    return load_network(path)


def load_network(path: str | os.PathLike) -> keras.Model:
    """Loads a network from a `.keras` file, without how it was compiled.

    Raises:
        ValueError: If it cannot be read, or has a layer class that is not known here.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except (TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected a .keras file of layers that Keras knows; register classes of your own with "
            f"`keras.saving.register_keras_serializable` and call from Python. Received: '{path}' ({error})"
        ) from error


def build_network(name: str, info: DatasetInfo) -> keras.Model:
    """Builds a network for a data set.

    Args:
        name: A network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file.
        info: The data set.

    Returns:
        A functional `keras.Model` that takes raw pixels.

    Raises:
        ValueError: If there is no such network; the message names the nearest ones.
        FileNotFoundError: If a `.keras` file does not exist.
    """
    if name.endswith(".keras"):
        return _load(name)
    if name in own_networks():
        build = getattr(models, name)
        return build(num_classes=info.num_classes, input_shape=info.input_shape, mean=info.mean, std=info.std)
    application = getattr(keras.applications, name, None)
    if not callable(application):
        known = [*own_networks(), *(n for n in dir(keras.applications) if n[0].isupper())]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ValueError(
            f"Expected `network` to be one of tfjointrd.models ({', '.join(own_networks())}), of keras.applications, "
            f"or a .keras file. Received: network='{name}'." + (f" Did you mean {' or '.join(near)}?" if near else "")
        )
    body = application(weights=None, classes=info.num_classes, input_shape=info.input_shape, classifier_activation=None)
    if any(isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)) for layer in body.layers):
        return body
    inputs = keras.Input(info.input_shape, name="pixels")
    std = [max(s, 1e-3) for s in info.std]
    offsets = [-m / s for m, s in zip(info.mean, std, strict=True)]
    outputs = body(keras.layers.Rescaling([1 / s for s in std], offsets, name="normalization")(inputs))
    return keras.Model(inputs, outputs, name=name.lower())


def own_networks() -> list[str]:
    """Names of the networks of `tfjointrd.models`."""
    families = ("cifar_resnet", "densenet", "imagenet_resnet", "wide_resnet", "xresnet")
    return [name for name in models.__all__ if name not in families]


def check_fits(network: keras.Model, info: DatasetInfo) -> None:
    """Looks at whether a network takes the images of a data set and tells its classes apart.

    Raises:
        ValueError: If it does not.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in (*network.inputs, *network.outputs)]
    if shapes != [tuple(info.input_shape), (info.num_classes,)]:
        raise ValueError(
            f"Expected a `network` for images of shape {tuple(info.input_shape)} with one output for each of the "
            f"{info.num_classes} classes of '{info.name}'. Received: '{network.name}' for {shapes[0]} with outputs of "
            f"shape {', '.join(map(str, shapes[1:]))}. (Method 'transfer' gives a trained network a new classifier.)"
        )
    if final_activation(network) == "sigmoid":
        raise ValueError(
            f"Expected a `network` whose outputs are logits or a softmax of the classes of '{info.name}'. Received: "
            f"'{network.name}', which ends in a sigmoid."
        )
