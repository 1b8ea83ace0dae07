"""Layers by name or pattern."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch


def matching(names: Iterable[str], patterns: Iterable[str], argument: str = "keep") -> list[str]:
    """The names that match one of the patterns (`fnmatch`, as in a shell).

    Args:
        names: Names of layers.
        patterns: Names or patterns.
        argument: Where the patterns came from, for the error message.

    Raises:
        ValueError: If a pattern is no text or matches nothing.
    """
    if isinstance(patterns, str):
        raise ValueError(f"Expected `{argument}` to be a list of names or patterns. Received: {argument}='{patterns}'.")
    patterns = list(patterns) if isinstance(patterns, Iterable) else [patterns]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"Expected `{argument}` to hold names or patterns of layers. Received: {argument}={patterns!r:.200}."
        )
    names, found = list(names), []
    for pattern in patterns:
        hits = [name for name in names if fnmatch(name, pattern)]
        if not hits:
            raise ValueError(
                f"Expected `{argument}` to hold names or patterns of layers. Received: '{pattern}', no match."
            )
        found.extend(hits)
    return list(dict.fromkeys(found))
