"""A training as data: which network learns what, by which method, and how long."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from tfjointrd import models
from tfjointrd.data import DatasetInfo
from tfjointrd.surgery import remove_shortcuts
from tfjointrd.surgery.swap import with_fused_batch_normalization, with_keras_batch_normalization
from tfjointrd.training import Adjoined, CosineFade, JointRD, adjoin


@dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
        method: `standard` (the network as it is), `plain` (without its shortcuts), `jointrd` (plain, taught by
            `teacher`), `narrow` (every layer after the first stage `alpha` times narrower), or `adjoined` (full and
            narrow on shared weights).
        network: Name of a network of `tfjointrd.models` or `keras.applications`, or the path of a `.keras` file.
        data: Name of a data set; see `tfjointrd.data.load`.
        epochs: Number of epochs.
        batch_size: Images a step.
        learning_rate: The highest learning rate. It rises to it over the first tenth of the training and falls along a
            cosine to zero.
        weight_decay: Decay of all weights but biases and batch normalisations'.
        alpha: How many times narrower `narrow` and `adjoined` networks are.
        teacher: Path of the teacher's `.keras` file, for `jointrd`.
        tail_floor: Lowest weight of the teacher's tails, for `jointrd`.
        tail_fade: The part of the training over which the tails' weight falls to it, for `jointrd`.
        seed: Seed of the initial weights, the order of the images and their augmentation.
    """

    method: str = "standard"
    network: str = "resnet20"
    data: str = "digits"
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    alpha: int = 2
    teacher: str | None = None
    tail_floor: float = 0.5
    tail_fade: float = 0.3
    seed: int = 0

    def __post_init__(self):
        """Checks what can be checked without loading anything."""
        if self.method not in METHODS:
            raise ValueError(f"Expected `method` to be one of {sorted(METHODS)}. Received: method='{self.method}'.")
        if self.method == "jointrd" and self.teacher is None:
            raise ValueError("Expected `teacher`, the .keras file of a trained network, for method 'jointrd'.")
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0. Received: {name}={getattr(self, name)}.")

    def check_files(self) -> None:
        """Checks that the files it needs exist.

        Raises:
            FileNotFoundError: If the teacher's does not.
        """
        if self.teacher is not None and not Path(self.teacher).is_file():
            raise FileNotFoundError(f"Expected `teacher` to be a .keras file. Received: teacher='{self.teacher}'.")

    def as_dict(self) -> dict:
        """The recipe as plain data."""
        return asdict(self)

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """SGD with Nesterov momentum on a warm-up and cosine schedule of `steps` steps."""
        warmup = max(1, steps // 10)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - warmup), warmup_target=self.learning_rate, warmup_steps=warmup
        )
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
        return optimizer

    def trainer(self, info: DatasetInfo) -> keras.Model:
        """The model whose `fit` is this training, with new weights."""
        return METHODS[self.method].trainer(self, build_network(self.network, info))


@dataclass(frozen=True)
class Method:
    """A way to train: what is fitted, and which networks come out of it.

    Attributes:
        trainer: `(recipe, network) -> model` whose `fit` trains.
        networks: `model -> {name: network}`, the networks to deploy; they hold Keras' own layers only.
    """

    trainer: Callable[[Recipe, keras.Model], keras.Model]
    networks: Callable[[keras.Model], dict[str, keras.Model]]


def _single(model: keras.Model) -> dict[str, keras.Model]:
    return {"model": with_keras_batch_normalization(model)}


def _narrow(recipe: Recipe, network: keras.Model) -> keras.Model:
    small = adjoin(network, recipe.alpha).small(name=f"{network.name}_narrow")
    return with_fused_batch_normalization(keras.models.clone_model(small))  # the clone has new weights


def _jointrd(recipe: Recipe, network: keras.Model) -> keras.Model:
    return JointRD(
        with_fused_batch_normalization(remove_shortcuts(network)),
        keras.saving.load_model(recipe.teacher, compile=False),
        tail_weight=CosineFade(recipe.tail_floor, recipe.tail_fade),
    )


def _adjoined_networks(model: Adjoined) -> dict[str, keras.Model]:
    return {"full": model.full(), "small": model.small()}


METHODS: dict[str, Method] = {
    "standard": Method(lambda recipe, network: with_fused_batch_normalization(network), _single),
    "plain": Method(lambda recipe, network: with_fused_batch_normalization(remove_shortcuts(network)), _single),
    "jointrd": Method(_jointrd, lambda model: _single(model.student)),
    "narrow": Method(_narrow, _single),
    "adjoined": Method(lambda recipe, network: adjoin(network, recipe.alpha), _adjoined_networks),
}


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
        if not Path(name).is_file():
            raise FileNotFoundError(f"Expected `network` to be a .keras file that exists. Received: network='{name}'.")
        return keras.saving.load_model(name, compile=False)
    if name in _own_networks():
        build = getattr(models, name)
        return build(num_classes=info.num_classes, input_shape=info.input_shape, mean=info.mean, std=info.std)
    application = getattr(keras.applications, name, None)
    if not callable(application):
        known = [*_own_networks(), *(n for n in dir(keras.applications) if n[0].isupper())]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ValueError(
            f"Expected `network` to be one of tfjointrd.models ({', '.join(_own_networks())}), of keras.applications, "
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


def _own_networks() -> list[str]:
    families = ("cifar_resnet", "imagenet_resnet", "wide_resnet", "xresnet")
    return [name for name in models.__all__ if name not in families]
