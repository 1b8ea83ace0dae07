"""What callbacks look at, in trainings of several networks at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tfjointrd.stacklevel import stacklevel_outside_the_package


def check_monitors(
    callbacks: Iterable[Any],
    outputs: Sequence[str],
    metrics: Any,
    rising: str | None = None,
    narrowest: str = "small",
) -> None:
    """Refuses callbacks that look for a metric without saying of which network: Keras would only ever warn of them.

    Args:
        callbacks: Callbacks for `fit`.
        outputs: What the names of the metrics begin with, as `"full"` and `"small"`.
        metrics: The metrics given to `compile`.
        rising: Name of a weight in `val_loss` that rises over the training. There is a warning for those that look for
            the lowest `val_loss` then.
        narrowest: The network whose loss is to be looked for instead.

    Raises:
        ValueError: If one does; the message says what there is.
    """
    names = {"accuracy", *map(_name, keras.tree.flatten(metrics))}
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or not getattr(callback, "save_best_only", True):
            continue
        bare = monitor.removeprefix("val_")
        split = "" if bare == monitor else "val_"
        kind = type(callback).__name__
        if bare in names:
            options = " or ".join(f"monitor='{split}{output}_{bare}'" for output in reversed(outputs))
            raise ValueError(
                f"Expected `monitor` to say of which network: {options}, with mode='max' or 'min'. "
                f"Received: {kind}(monitor='{monitor}')."
            )
        if monitor == "val_loss" and rising:
            warnings.warn(
                f"{kind} looks for the lowest 'val_loss', which rises with `{rising}` over the training and is lowest "
                f"too early. Take monitor='val_{narrowest}_loss' with mode='min', or a metric of this network.",
                stacklevel=stacklevel_outside_the_package(),
            )


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "name", getattr(metric, "__name__", ""))
