"""`import tfjointrd` in fresh processes: without TensorFlow, quickly, and with the classes that files name."""

import ast
import importlib
import inspect
import os
import subprocess
import sys

import keras
import pytest
from jax_process import JAX

import tfjointrd
from tfjointrd import data, export

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

network = jrd.models.cifar_resnet(8, num_classes=10, input_shape=(8, 8, 1))
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
    # Importing tensorflow_model_optimization makes `tf.keras` Keras 2, in child processes too.
    heavy = ("matplotlib", "pandas", "seaborn", "sklearn", "tensorflow_datasets")
    heavy += ("tensorflow_model_optimization", "tf_keras")
    use = f"""
import sys, time, keras
before, began = set(sys.modules), time.process_time()
import tfjointrd
print(time.process_time() - began, *(name for name in {heavy} if name in set(sys.modules) - before))
"""
    # Processor time, the better of two: what else the machine does is not to count.
    for _ in range(2):
        seconds, *found = python(use, keras.backend.backend()).split()
        assert found == []
        if float(seconds) < 1.0:
            break
    assert float(seconds) < 1.0


def test_imports_neither_keras_nor_sets_anything():
    """TensorFlow reads what the command line sets when it is imported, so that the package must not import it.

    The names of classes are known without it, too, so that `page --labels cifar10` is quick.
    """
    use = """
import os, sys
before, sys.argv = dict(os.environ), ["-m"]
import tfjointrd, tfjointrd.data, tfjointrd.export, tfjointrd.__main__
from tfjointrd.export.class_names import read_labels
assert read_labels("cifar10", 10)[0] == "airplane"
assert dict(os.environ) == before
print(*(name for name in ("keras", "numpy", "tensorflow") if name in sys.modules))
"""
    assert python(use, keras.backend.backend()).strip() == ""


def test_the_command_line_sets_what_tensorflow_reads():
    """It does not switch oneDNN on, whose gradients are wrong on some processors."""
    code = """
import os, runpy, sys
sys.argv = ["tfjointrd", "recipes", "no*"]
os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
try:
    runpy.run_module("tfjointrd", run_name="__main__")
except SystemExit as ended:
    assert ended.code == 1
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"), os.environ["TF_CPP_MIN_LOG_LEVEL"])
"""
    assert python(code, "jax").strip() == "None 3"


@pytest.fixture(scope="module")
def registered():
    """On JAX, where Python starts faster: all classes that the package registers with Keras, whatever the module."""
    code = """
import importlib, pkgutil, keras, tfjointrd
for module in pkgutil.walk_packages(tfjointrd.__path__, "tfjointrd."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted(name for name in keras.saving.get_custom_objects() if name.startswith("tfjointrd>")))
"""
    return python(code, "jax")


@pytest.mark.parametrize(
    ("first", "backend"),
    [
        ("import tfjointrd; import keras", keras.backend.backend()),
        ("import tfjointrd; import keras", "jax"),
        ("import tfjointrd.export.interpreter, importlib.util; importlib.util.find_spec('keras'); import keras", "jax"),
        *(
            pytest.param(first, "jax", marks=pytest.mark.slow)
            for first in (
                "import tfjointrd.layers",
                "from tfjointrd import models",
                "from tfjointrd import data; data.load",
            )
        ),
    ],
)
def test_keras_knows_our_classes(first, backend, registered, tmp_path):
    """Files of ours load after the import of the package alone, in whatever order it and Keras are imported."""
    if backend == "jax":
        pytest.importorskip("jax")
    image = keras.Input((8, 8, 3))
    layer = tfjointrd.layers.DiracConv2D(3, 3, padding="same", name="ours")
    keras.Model(image, layer(image)).save(tmp_path / "ours.keras")
    use = f"""
{first}
import sys, keras
print(*sorted(name for name in keras.saving.get_custom_objects() if name.startswith("tfjointrd>")))
network = keras.saving.load_model({str(tmp_path / "ours.keras")!r})
assert type(network.get_layer("ours")).__module__ == "tfjointrd.layers.dirac"
"""
    assert python(use, backend) == registered


@pytest.mark.parametrize(
    "name",
    ["data", "experiments", "experiments.recipes", "export", "layers", "models", "report", "surgery", "training"],
)
def test_dir_lists_what_is_public_and_no_modules(name):
    package = importlib.import_module(f"tfjointrd.{name}")
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, public) for public in package.__all__)


@pytest.mark.parametrize("package", [tfjointrd, data, export])
def test_public_names(package):
    """Those that are listed, those that type checkers see, and those that are there, and no others in `dir`."""
    (block,) = (node for node in ast.parse(inspect.getsource(package)).body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body for alias in node.names}
    assert set(package.__all__) == seen == set(dir(package)) - {"__version__"}
    for name in package.__all__:
        found = getattr(package, name)
        assert inspect.ismodule(found) or found.__name__ == name
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009
