"""What libraries print by themselves, kept away from the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from tfjointrd.lazy import Finder


@contextlib.contextmanager
def no_output() -> Iterator[None]:
    """Keeps what this process prints away from the terminal, C++ code included; exceptions are raised as ever."""
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(tempfile.TemporaryFile("w"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(sink.fileno(), descriptor)
        yield


def silence_tensorflow() -> None:
    """Keeps TensorFlow from printing what is not an error, from its import on, whoever imports it.

    TensorFlow's C++ code reads `TF_CPP_MIN_LOG_LEVEL` only after its first lines. A user who has set that variable to
    less than 3 wants to see lines: nothing changes then.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        return
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.meta_path.insert(0, _Silent())


class _Silent(Finder):
    """Lets TensorFlow be imported without a word."""

    def wants(self, name):
        """TensorFlow alone."""
        return name == "tensorflow"

    def run(self, execute, module):
        """Imports it."""
        with no_output():
            execute(module)
