"""The core on Keras' JAX backend, with TensorFlow out of reach: the same tests in a process of their own."""

import os
import subprocess
import sys

import pytest

FILES = [
    "tests/layers/test_adjoined_layers.py",
    "tests/parity/test_masked_formula.py",
    "tests/training/test_adjoined_training.py",
    "tests/training/test_jointrd.py",
]
# One case of each kind: every case compiles anew on JAX.
SELECTED = (
    "test_config_round_trip or test_batch_normalisations or test_convolution[keep_in2-keep_out2-2-1-same]"
    " or test_convolution[4-3-1-1-valid] or test_grouped_convolution[2-3-True] or test_depthwise_convolution[1-3]"
    " or test_dense[tanh-4-None] or test_loss or test_weight_follows or test_pipelines_count"
    " or test_who_moves or test_saved_and_trained_on"
)


def test_core_on_jax():
    block = "import sys, pytest; sys.modules['tensorflow'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", block, "-q", "-p", "no:cacheprovider", *FILES, "-k", SELECTED],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    passed = int(result.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1])
    assert passed >= 15, result.stdout[-3000:]


@pytest.mark.parametrize("module", ["tfjointrd.experiments", "tfjointrd.__main__"])
def test_recipes_import_without_tensorflow(module):
    code = f"import sys; sys.modules['tensorflow'] = None; import {module}"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": "jax"}, check=True)
