"""Distillation's arguments of earlier versions, as the methods that take their place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tfjointrd.stacklevel import stacklevel_outside_the_package
from tfjointrd.training.distillers import KD, Distiller, Overhaul

# What they were by default, where one of them is given or none is.
EARLIER = ("alpha", "temperature", "feature_weight", "divergence")


def methods_of(arguments: Mapping[str, Any], default: float) -> list[Distiller]:
    """The methods that earlier arguments stand for.

    Args:
        arguments: `alpha` and `temperature` of what is `KD` now, `feature_weight` of `Overhaul`, `divergence`.
        default: What `alpha` was by default.

    Raises:
        ValueError: If one is out of its range.
    """
    alpha, weight = arguments.get("alpha", default), arguments.get("feature_weight", 0.0)
    if not 0 <= alpha <= 1:
        raise ValueError(f"Expected `alpha` in [0, 1]. Received: alpha={alpha}.")
    distilled = KD(arguments.get("temperature", 4.0), alpha, arguments.get("divergence"), name="kd")
    return [distilled] * bool(alpha) + [Overhaul(weight, name="overhaul")] * bool(weight)


def taken_from(arguments: dict[str, Any], cls: str, methods: Any, default: float) -> Any:
    """The methods of a constructor that may have been given earlier arguments, of which a warning says what they are.

    Args:
        arguments: Keyword arguments that the constructor does not know.
        cls: The name of its class.
        methods: Its `methods`.
        default: What `alpha` was by default.

    Raises:
        TypeError: If one is no earlier argument.
        ValueError: If `methods` are given too, or one is out of its range.
    """
    unknown = [name for name in arguments if name not in EARLIER]
    if unknown:
        raise TypeError(f"{cls}() got an unexpected keyword argument '{unknown[0]}'.")
    if not arguments:
        return methods
    received = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if methods is not None:
        raise ValueError(f"Expected `methods`, or the arguments that they replace, not both. Received: {received}.")
    found = methods_of(arguments, default)
    names = ", ".join(f"tfjointrd.distillers.{_call(method)}" for method in found)
    warnings.warn(
        f"{cls}: {received} will not be taken in later versions, where `alpha` only says how many times narrower a "
        f"network is. Pass `methods=[{names}]`.",
        DeprecationWarning,
        stacklevel=stacklevel_outside_the_package(),
    )
    return found


def _call(method: Distiller) -> str:
    if isinstance(method, Overhaul):
        return f"Overhaul(weight={method.weight})"
    given = ", divergence=..." if method.divergence is not None else ""
    return f"KD(temperature={method.temperature}, weight={method.weight}{given})"
