"""Processes of their own for tests: on JAX, and as on a machine without TensorFlow."""

import importlib.util
import mmap
import os
import subprocess
import sys
from pathlib import Path

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


def known(*flags):
    """The flags that this JAX knows: XLA ends the process at any other."""
    package = importlib.util.find_spec("jaxlib")
    library = Path(package.submodule_search_locations[0]) / "libjax_common.so" if package else None
    if library is None or not library.exists():
        return []
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [flag for flag in flags if content.find(flag.strip("-").partition("=")[0].encode()) >= 0]


# Most of such a test's time goes into compiling programs that run once or twice. Without the emitters, which write
# every fused operation in MLIR first, that takes half the time.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join([*FLAGS, *known("--xla_cpu_use_fusion_emitters=false")]),
}


def run_tests(*arguments):
    """Runs tests on JAX, without TensorFlow, by these arguments of pytest; returns how many, all of which passed."""
    code = f"{NO_TENSORFLOW}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *arguments],
        env={**os.environ, **JAX, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # such as nbmake's, which imports for 2 s
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "persistent compilation cache" not in result.stdout, result.stdout[-3000:]  # a warning that it fails
    return int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1])
