"""Processes of their own for tests: on JAX, and as on a machine without TensorFlow."""

import os
import subprocess
import sys

# TensorFlow is not found, as where it is not installed. (An entry of None in `sys.modules` would tell Keras that it is
# there, and a hook that raises an error keeps JAX from its cache of compiled programs.)
NO_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder
class Without:
    find = PathFinder.find_spec
    @classmethod
    def find_spec(cls, name, *args):
        return None if name.split(".")[0] == "tensorflow" else cls.find(name, *args)
PathFinder.find_spec = Without.find_spec
"""
# Most of such a test's time goes into compiling programs that run once or twice.
JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def run_tests(*arguments):
    """Runs tests on JAX, without TensorFlow, by these arguments of pytest; returns how many, all of which passed."""
    code = f"{NO_TENSORFLOW}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *arguments],
        env={**os.environ, **JAX},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "persistent compilation cache" not in result.stdout, result.stdout[-3000:]  # a warning that it fails
    return int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1])
