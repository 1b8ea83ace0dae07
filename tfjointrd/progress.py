"""How long work takes: what is going on, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

PATIENCE = 10.0  # seconds after which work says how far it is


def time_left(seconds: float) -> str:
    """The time that is left, for people.

    >>> time_left(40)
    '40 s left'
    >>> time_left(150)
    '3 minutes left'
    """
    if seconds < 100:
        return f"{seconds:.0f} s left"
    minutes = -(-seconds // 60)
    if minutes < 10:
        return f"{minutes:.0f} minutes left"
    end = datetime.now() + timedelta(seconds=seconds)
    clock = f"{end:%H:%M}" if end.date() == datetime.now().date() else f"{end:%d %b %H:%M}"
    if minutes < 120:
        return f"{minutes:.0f} minutes left, until {clock}"
    return f"{minutes / 60:.1f} hours left, until {clock}"


class Steps:
    """Counts the steps of a piece of work, and says from their pace how long the rest takes.

    Args:
        total: Number of steps.
        done: Number of those that are done already.

    >>> steps = Steps(3)
    >>> steps.next()  # the first one is done
    '1/3, 0 s left'
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.done, self._first = total, done, done
        self._began = time.monotonic()

    def next(self) -> str:
        """Counts one more, and says how many are done and how long the others take; nothing of time at the end."""
        self.done += 1
        text = f"{self.done}/{self.total}"
        if self.done >= self.total:
            return text
        pace = (time.monotonic() - self._began) / (self.done - self._first)
        return f"{text}, {time_left(pace * (self.total - self.done))}"


class Line:
    """A line of the terminal that is written over.

    Args:
        shown: Whether anything is printed at all.
    """

    def __init__(self, shown: bool = True):
        self.shown, self._length = shown, 0

    def write(self, text: str) -> None:
        """Puts a text in the place of the one before."""
        if self.shown:
            print(f"\r{text:{self._length}}", end="", flush=True)
            self._length = len(text)

    def end(self, text: str | None = None) -> None:
        """Ends the line, with a last text in it."""
        if text is not None:
            self.write(text)
        if self.shown and self._length:
            print(flush=True)
            self._length = 0


def followed(items: Iterable, what: str, data: Any) -> Iterator:
    """The same items; as soon as work on them has lasted for some seconds, a line says how far it is.

    Args:
        items: The batches that are worked on.
        what: What is going on, for the line.
        data: What the batches come from. Its `num_batches`, if it has them, tells how long the rest takes.
    """
    total = getattr(data, "num_batches", None)
    steps = Steps(total) if isinstance(total, int) else None
    line, began = Line(), time.monotonic()
    try:
        for count, item in enumerate(items, 1):
            yield item
            done = steps.next() if steps else str(count)
            if time.monotonic() - began > PATIENCE:
                line.write(f"{what}: batch {done}")
    finally:
        line.end()
