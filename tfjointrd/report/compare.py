"""What several networks cost, beside each other."""

from __future__ import annotations

import keras

from tfjointrd.report.network_profile import Profile, profile

HEAD = ("Network", "Parameters", "", "MACs", "", "Live KiB", "")


def compare(*models: keras.Model, batch_size: int = 1) -> list[Profile]:
    """Prints what several networks cost, a line each, and how much that is of the first one's.

    Networks of one name are numbered.

    Args:
        *models: Functional or built Sequential networks with known image size, the one before the change first.
        batch_size: Number of images that MACs and bytes are for, where a network leaves it open.

    Returns:
        The `Profile` of each, as from `profile()`.

    Raises:
        ValueError: If no network is given; or as `profile()`.

    Example:

    >>> network = tfjointrd.models.resnet20()
    >>> costs = compare(network, tfjointrd.prune(network, target_macs=0.5, name="small"))
    Network   Parameters              MACs        Live KiB
    resnet20     274,042        40,813,184           192.0
    small  ...
    """
    if not models:
        raise ValueError("Expected one network or several. Received: none.")
    costs = [profile(model, batch_size) for model in models]
    names = [cost.name for cost in costs]
    shown = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
    rows = [HEAD, *((name, *_row(cost, costs[0])) for name, cost in zip(shown, costs, strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        print("  ".join(cells).rstrip())
    return costs


def _row(cost: Profile, first: Profile) -> tuple[str, ...]:
    kib = cost.peak_activation_bytes / 1024
    numbers = (f"{cost.parameters:,}", f"{cost.macs:,}", f"{kib:,.1f}")
    shares = [
        "" if cost is first or not getattr(first, name) else f"{getattr(cost, name) / getattr(first, name):.0%}"
        for name in ("parameters", "macs", "peak_activation_bytes")
    ]
    return tuple(cell for pair in zip(numbers, shares, strict=True) for cell in pair)
