"""Small trainings that a notebook runs live, beside tables that come from longer ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfjointrd import data, models

SCALE = "TFJOINTRD_SCALE"  # what `make notebooks` sets


class Live:
    """Handwritten digits, networks with the same initial weights, and one way to train for all of them.

    Where the environment variable `TFJOINTRD_SCALE` is `smoke`, networks have 8 layers and make two steps on 64 images,
    only to see that everything runs.

    Args:
        epochs: Epochs of each training.
        depth: Layers of the residual networks.
        images: Number of training images, the same in every epoch; all 1,437 by default.
        seed: Seed of weights and data order.

    Attributes:
        smoke: Whether this is only to see that everything runs.
        train: The training images, `train.x` `(images, 8, 8, 1)` and `train.y`.
        validation: The validation images, likewise.
        results: Name -> top-1 in percent of what was trained, in the order of training.

    Example:

    >>> live = Live(epochs=1, depth=8, images=64)
    >>> network = live.fit(live.network())
    >>> live.accuracy(network) > 0  # percent
    True
    """

    def __init__(self, epochs: int = 10, depth: int = 20, images: int | None = None, seed: int = 0):
        self.smoke = os.environ.get(SCALE) == "smoke"
        self.epochs, self.depth, self.seed = (1, 8, seed) if self.smoke else (epochs, depth, seed)
        self.train, self.validation = data.load("digits", batch_size=32 if self.smoke else 64, seed=seed)
        if self.smoke:
            self.train.limit(64)
            self.validation.limit(64)
        elif images and images < self.train.size:
            self.train = self.train.hold_out(images / self.train.size)
        self.results: dict[str, float] = {}

    def __str__(self) -> str:
        """What is trained on, and how long."""
        return (
            f"{self.train.size} digits of 8 by 8 pixels to learn from, {self.validation.size} to validate, "
            f"{self.epochs} epoch{'s' if self.epochs > 1 else ''} each"
        )

    @staticmethod
    def arrays(pipeline: data.ArrayPipeline) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels of `train` or `validation`.

        Args:
            pipeline: One of the two.
        """
        rows = np.sort(pipeline.order(0))
        return pipeline.x[rows], pipeline.y[rows]

    def network(self, seed: int | None = None) -> keras.Model:
        """A residual network for the digits, with the same initial weights each time.

        Args:
            seed: Another seed of its weights.
        """
        keras.utils.set_random_seed(self.seed if seed is None else seed)
        info = self.train.info
        return models.cifar_resnet(self.depth, info.num_classes, info.input_shape, mean=info.mean, std=info.std)

    def optimizer(self, learning_rate: float = 0.1, steps: int | None = None) -> keras.optimizers.Optimizer:
        """SGD with momentum, whose learning rate rises over a tenth of the training and falls along a cosine.

        Args:
            learning_rate: The highest one.
            steps: Steps of the training.
        """
        steps = steps or self.epochs * len(self.train)
        warm = max(1, steps // 10)
        decay = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - warm), warmup_target=learning_rate, warmup_steps=warm
        )
        return keras.optimizers.SGD(decay, momentum=0.9, nesterov=True)

    def fit(
        self,
        model: keras.Model,
        name: str = "",
        learning_rate: float = 0.1,
        images: Any = None,
        callbacks: Sequence = (),
    ) -> keras.Model:
        """Trains a network, or a training of this package, prints its validation accuracy and returns it.

        Args:
            model: What to train.
            name: What to call it; nothing is printed or kept without.
            learning_rate: The highest one.
            images: Other images than the digits: a tuple of arrays `(x, y)`.
            callbacks: Callbacks of `fit`.
        """
        steps = self.epochs * len(self.train) if images is None else self.epochs * -(-len(images[0]) // 64)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Two steps are done before a graph would be traced.
        model.compile(self.optimizer(learning_rate, steps), loss=loss, metrics=["accuracy"], run_eagerly=self.smoke)
        options = {"epochs": self.epochs, "callbacks": list(callbacks), "verbose": 0}
        if images is None:
            self.train.set_epoch(0)
            model.fit(self.train, **options)
        else:
            model.fit(*images, batch_size=64, **options)
        if name:
            self.keep(name, self.accuracy(model))
        return model

    def keep(self, name: str, accuracy: float | dict[str, float]) -> None:
        """Prints and keeps an accuracy, or those of the full and the small network.

        Args:
            name: What to call it.
            accuracy: Percent.
        """
        several = accuracy if isinstance(accuracy, dict) else {}
        found = {f"{name}, {path}": value for path, value in several.items()}
        if not isinstance(accuracy, dict):
            found[name] = accuracy
        for title, value in found.items():
            self.results[title] = value
            print(f"{title:<44}{value:6.2f} %")

    def accuracy(self, model: keras.Model, images: Any = None) -> float | dict[str, float]:
        """Top-1 in percent on the validation images; of a pair that of each network.

        Args:
            model: A network, or a training of this package.
            images: Other images: a tuple of arrays `(x, y)`.
        """
        x, y = images or self.arrays(self.validation)
        outputs = model(np.asarray(x, "float32"), training=False)
        outputs = {path: np.asarray(value) for path, value in outputs.items()} if isinstance(outputs, dict) else outputs
        if isinstance(outputs, dict):
            return {path: 100 * float(np.mean(value.argmax(-1) == y)) for path, value in outputs.items()}
        return 100 * float(np.mean(np.asarray(outputs).argmax(-1) == y))

    def export(self, network: keras.Model, name: str, train: Any = None, validation: Any = None) -> list[Path]:
        """Writes a network's `.tflite` files in a temporary folder, float32 and int8, and prints what they are.

        Args:
            network: The network.
            name: The files' name.
            train: Other images than the digits to calibrate on: a tuple of arrays `(x, y)`.
            validation: Likewise, to measure accuracy on.
        """
        from tfjointrd import export

        folder, paths = Path(tempfile.mkdtemp()), []
        for form in (None,) if self.smoke else (None, "int8"):
            path = folder / f"{name}_{form or 'float32'}.tflite"
            images = self.train if train is None else np.asarray(train[0], "float32")
            file = export.tflite(network, path, form, representative_data=images)
            right: Any = export.accuracy(path, self.validation if validation is None else validation)
            print(f"{path.name:<34}{file.bytes:>10,} bytes, takes {file.input_type}, accuracy {100 * right:.2f} %")
            paths.append(path)
        return paths
