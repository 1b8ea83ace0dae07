"""Names of a layer's weights that are the same for every layer of its class."""

from __future__ import annotations

import re
from typing import Any


def weight_name(layer: Any, variable: Any) -> str:
    """The name of a weight; of one that nobody named, which Keras numbers, the attribute of the layer that holds it.

    Args:
        layer: The layer, or an operator, which has no weights.
        variable: One of its weights.
    """
    if not re.fullmatch(r"variable(_\d+)?", variable.name):
        return variable.name
    return next((name for name, value in vars(layer).items() if value is variable), variable.name)


def is_kernel(name: str) -> bool:
    """Whether a weight is a kernel by its name, and not what a quantised or adapted layer keeps of one besides."""
    return "kernel" in name and not name.startswith("lora_") and not name.endswith(("_scale", "_zero", "_history"))
