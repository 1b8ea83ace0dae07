"""What a training and a queue do when they are told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handling(stop: Callable[[str], None]) -> Iterator[None]:
    """Calls a function for Ctrl-C and SIGTERM, which a process in the background may ignore by default.

    Outside of the main thread, where signals cannot be handled, nothing changes.

    Args:
        stop: Called with the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number, frame):
        stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
