"""The precision that losses and their weights are computed in."""

from __future__ import annotations

import keras


def loss_dtype() -> str:
    """float64 where `keras.config.floatx()` is, as Keras' own losses; else float32, also in half precision."""
    return "float64" if keras.config.floatx() == "float64" else "float32"
