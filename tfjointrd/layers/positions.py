"""Which channels are kept, as users write it: positions, a boolean mask, or a number of first channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def listed(kept: Iterable[Any] | int) -> list[Any]:
    """Kept channels as a list; a number stands for as many first ones."""
    return list(kept) if isinstance(kept, Iterable) else positions_of(kept)


def positions_of(kept: Iterable[Any] | int, width: int | None = None, argument: str = "keep") -> list[int]:
    """Positions of kept channels.

    Args:
        kept: Positions as whole numbers, a boolean mask with an entry for each channel, or a count of first ones.
        width: The number of channels, which a mask has to have; `None` where it is not known.
        argument: The argument's name, for the error message.

    Returns:
        The positions, in the order in which they are given.

    Raises:
        ValueError: If `kept` is something else.
    """
    if isinstance(kept, (int, np.integer)) and not isinstance(kept, bool):
        return list(range(kept))
    listed: list[Any] = list(kept) if isinstance(kept, Iterable) else [None]
    kinds = {np.asarray(entry).dtype.kind if np.ndim(entry) == 0 else "O" for entry in listed}
    if len(kinds - {"i", "u"}) > 0 and kinds != {"b"}:
        raise ValueError(
            f"Expected `{argument}` to hold positions of channels as whole numbers, or to be a mask of booleans, one "
            f"for each channel. Received: {argument}={kept!r}."
        )
    if kinds != {"b"}:
        return [int(entry) for entry in listed]
    if width is not None and len(listed) != width:
        raise ValueError(
            f"Expected `{argument}`, a mask of booleans, to have an entry for each of {width} channels. Received: "
            f"{len(listed)} entries."
        )
    return np.flatnonzero(listed).tolist()
