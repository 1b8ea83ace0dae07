"""Processes of their own for tests: on JAX, and as on a machine without TensorFlow."""

import os
import subprocess
import sys

# An import hook. (An entry of None in `sys.modules` would tell Keras that TensorFlow is there.)
NO_TENSORFLOW = """
import sys
class Without:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "tensorflow":
            raise ImportError(f"no {name} here")
sys.meta_path.insert(0, Without())
"""
# Most of such a test's time goes into compiling programs that run once or twice.
JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def run_tests(cache, *arguments):
    """Runs tests on JAX, without TensorFlow.

    Args:
        cache: Folder for what was compiled, since tests compile many programs twice.
        arguments: Of pytest.

    Returns:
        The number of tests, all of which passed.
    """
    keep = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    code = f"{NO_TENSORFLOW}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *arguments],
        env={**os.environ, **JAX, **keep},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1])
