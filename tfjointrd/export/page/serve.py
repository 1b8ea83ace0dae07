"""A web server for pages, on this machine alone."""

from __future__ import annotations

import errno
import functools
import os
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Hands out the files of a page under the types that browsers insist on, whatever this machine calls them."""

    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".json": "application/json",
        ".tflite": "application/octet-stream",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Lets browsers ask whether a file has changed, as those of a page that is made anew have."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args) -> None:
        """Prints nothing."""


def server(folder: str | os.PathLike, port: int) -> ThreadingHTTPServer:
    """A web server of a folder, which need not exist yet; `serve_forever` starts it.

    Args:
        folder: The folder.
        port: The port to listen on, or 0 for any that is free.

    Raises:
        ValueError: If `port` is no port.
        OSError: If it cannot be listened on.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"Expected a port from 0 to 65535; 0 takes any free one. Received: port={port}")
    try:
        return ThreadingHTTPServer((ADDRESS, port), functools.partial(_Handler, directory=os.fspath(folder)))
    except OSError as error:
        reason = "which another program listens on" if error.errno == errno.EADDRINUSE else f"({error.strerror})"
        raise OSError(f"Expected a free port; 0 takes any free one. Received: port={port}, {reason}") from error


def address(running: ThreadingHTTPServer) -> str:
    """What to open in the browser."""
    return f"http://{ADDRESS}:{running.server_port}/"
