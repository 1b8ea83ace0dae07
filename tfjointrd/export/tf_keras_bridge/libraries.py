"""tf_keras and tensorflow-model-optimization, imported without a trace in the environment."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

from tfjointrd.export.interpreter import quiet
from tfjointrd.extras import require

_VARIABLE = "TF_USE_LEGACY_KERAS"


@functools.cache
def tf_keras() -> ModuleType:
    """The package tf_keras, which is Keras 2.

    Raises:
        ImportError: If it is not installed.
    """
    return _imported("tf_keras")


@functools.cache
def tfmot() -> ModuleType:
    """The package tensorflow-model-optimization.

    It sets an environment variable that turns `tf.keras` into Keras 2, in child processes too. The variable is put
    back, and what `tf.keras` means is settled before.

    Raises:
        ImportError: If it is not installed.
    """
    tf_keras()
    return _imported("tensorflow_model_optimization")


def part_of_tfmot(name: str) -> ModuleType:
    """A module of tensorflow-model-optimization that its public names lack, by its name below `python.core`."""
    tfmot()
    with _environment_kept():
        return importlib.import_module(f"tensorflow_model_optimization.python.core.{name}")


def _imported(module: str) -> ModuleType:
    with _environment_kept(), quiet():
        import tensorflow as tf

        with contextlib.suppress(Exception):
            tf.keras.version  # noqa: B018  looks `tf.keras` up, which is loaded when it is first used
        return require(module)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
