"""Packages that not every user needs: they come with `pip install 'tfjointrd[...]'`."""

from __future__ import annotations

import importlib
from types import ModuleType

# Module -> the extra of pyproject.toml that installs it.
EXTRAS = {
    **dict.fromkeys(("PIL", "sklearn", "tensorflow_datasets"), "data"),
    **dict.fromkeys(("matplotlib", "seaborn"), "plots"),
    **dict.fromkeys(
        ("ai_edge_litert", "flatbuffers", "litert_quantizer", "tensorflow_model_optimization", "tf_keras"), "phones"
    ),
}


def require(name: str) -> ModuleType:
    """Imports a module that comes with one of the extras.

    Args:
        name: Its full name, as `"matplotlib.figure"`.

    Raises:
        ImportError: If it cannot be imported; the message says how to install it.

    Example:

    >>> require("matplotlib.figure").Figure.__name__
    'Figure'
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Expected the package '{package}'. Install it by `pip install 'tfjointrd[{EXTRAS[package]}]'`. "
            f"Received: {error}"
        ) from error
