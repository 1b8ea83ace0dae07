"""Which line of the caller's code a warning points to."""

from __future__ import annotations

import sys


def stacklevel_outside_the_package() -> int:
    """The `stacklevel` at which a function warns the line that led to it from outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("tfjointrd", "keras"):
        frame, level = frame.f_back, level + 1
    return level
