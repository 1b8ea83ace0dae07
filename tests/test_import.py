"""`import tfjointrd` in fresh processes: without TensorFlow, and quickly."""

import os
import subprocess
import sys

import keras
import pytest
from jax_process import JAX

BLOCK_TENSORFLOW = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def python(code, backend):
    """What a fresh Python on this Keras backend prints."""
    environment = os.environ | JAX | {"KERAS_BACKEND": backend}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_works_without_tensorflow():
    pytest.importorskip("jax")
    use = """
import keras, numpy as np
import tfjointrd as jrd

network = jrd.models.resnet20(num_classes=10, input_shape=(8, 8, 1))
plain = jrd.remove_shortcuts(network)
small = jrd.adjoin(plain, alpha=2).small()
train, validation = jrd.data.load("digits", batch_size=32)
small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
small.fit(train, steps_per_epoch=2, verbose=0)
assert small.predict(np.zeros((1, 8, 8, 1)), verbose=0).shape == (1, 10)
assert not [name for name in jrd.__all__ if not hasattr(jrd, name)]
assert "tensorflow" not in sys.modules
print(keras.backend.backend())
"""
    assert python(BLOCK_TENSORFLOW + use, "jax").strip() == "jax"


def test_adds_little_to_keras():
    heavy = ("matplotlib", "pandas", "seaborn", "sklearn", "tensorflow_datasets")
    use = f"""
import sys, time, keras
before, began = set(sys.modules), time.process_time()
import tfjointrd
print(time.process_time() - began, *(name for name in {heavy} if name in set(sys.modules) - before))
"""
    # Processor time, the better of two: what else the machine does is not to count.
    runs = [python(use, keras.backend.backend()).split() for _ in range(2)]
    assert runs[0][1:] == []
    assert min(float(seconds) for seconds, *_ in runs) < 1.0
