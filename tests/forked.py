"""Processes that begin with what is imported already: one process imports, and forks for every program it is given.

Importing takes a small program most of its time. What a program changes stays in its own process, as in a fresh one;
tests of importing need `subprocess`.
"""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jax_process import JAX, NO_TENSORFLOW

# A process that has run nothing yet has no threads, so that it may fork. The child leaves the loop, and ends as any
# program ends; the lines "PROGRAM" and "poll PID" are answered by a number.
SERVER = """
import json, os, sys
def serve():
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            ended, status = os.waitpid(asked, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
            continue
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        for stream, path in ((0, os.devnull), (1, asked["out"]), (2, asked["error"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["-c", *asked["arguments"]]
        return asked["code"]
    sys.exit()
code = serve()
del serve
exec(compile(code, "<forked>", "exec"))
"""


class Server:
    def __init__(self, code, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", code + SERVER],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        atexit.register(self.close)

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Forked:
    """A running program, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, server, code, arguments, environment):
        self.server, self.returncode = server, None
        folder = Path(tempfile.mkdtemp())
        self.paths = [folder / "out", folder / "error"]
        asked = {"code": code, "arguments": [str(one) for one in arguments], "environment": environment}
        self.pid = server.ask({**asked, "out": str(self.paths[0]), "error": str(self.paths[1])})

    def poll(self):
        if self.returncode is None:
            self.returncode = self.server.ask(self.pid)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout=300):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"A program ran for more than {timeout} s: {self.paths[1].read_text()[-3000:]}")
            time.sleep(0.02)
        return self.returncode

    def communicate(self, timeout=300):
        self.wait(timeout)
        return [path.read_text() for path in self.paths]


IMPORTS = "import keras, tfjointrd.experiments, tfjointrd.__main__, tfjointrd.training.engines.distribute\n"


@functools.cache
def server(backend):
    environment = {**JAX, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return Server((NO_TENSORFLOW if backend == "jax" else "") + IMPORTS, environment)


def start(code, *arguments, backend="jax", **environment):
    """Starts a program on a backend of Keras, as `python -c CODE ARGUMENTS`; on JAX without TensorFlow."""
    environment = {**os.environ, **JAX, "KERAS_BACKEND": backend, **environment}
    return Forked(server(backend), code, arguments, environment)


def finish(*processes):
    """Waits for programs, all of which have to succeed; returns what the last one printed."""
    for process in processes:
        out, error = process.communicate()
        assert process.returncode == 0, error[-3000:]
    return out


def run(code, *arguments, **options):
    return finish(start(code, *arguments, **options))
