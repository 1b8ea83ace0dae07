"""Shared by all tests: one seed a test, no chatter from TensorFlow, and which tests are left out."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As many workers as cores, and networks too small to gain from threads.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from pathlib import Path

import keras
import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the slow tests")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(
                pytest.mark.skip(reason="takes over a minute, or is one more case of a test; run with --slow")
            )
        for mark in item.iter_markers("data"):
            (name,) = mark.args
            folder = os.environ.get("TFDS_DATA_DIR")
            if not folder or not (Path(folder) / name).is_dir():
                item.add_marker(pytest.mark.skip(reason=f"needs the data set '{name}' in TFDS_DATA_DIR={folder}"))


def pytest_collection_finish(session):
    """Networks leave cycles of small objects; looking for them in all that was imported takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def compiled_on_jax(tmp_path_factory):
    """Processes on JAX compile what others have compiled no second time."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(shared / "compiled_on_jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(autouse=True, scope="session")
def traced_with_less_work(pytestconfig):
    """Small networks that run for a few steps cost more to trace and to optimise than to train.

    Networks compute the same. With --slow, and in the notebooks, TensorFlow and Keras work as users have them.
    """
    if keras.backend.backend() != "tensorflow" or pytestconfig.getoption("--slow"):
        yield
        return
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    def build(model, iterator=None, data_batch=None):
        """Metrics and momenta that are made while a step is traced let TensorFlow trace it once more."""
        if model._distribute_strategy is not None:
            before(model, iterator, data_batch)
        elif model.built and not model.run_eagerly and (iterator is None or data_batch is None):
            batch = iterator._distributed_dataset.element_spec if data_batch is None else data_batch
            model._symbolic_build(data_batch=keras.tree.map_structure(symbolic, batch))

    def symbolic(x):
        """A tensor of the same kind; nothing where labels or weights are left out."""
        if not hasattr(x, "shape"):
            return None
        return keras.KerasTensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))

    before = TensorFlowTrainer._maybe_symbolic_build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorFlowTrainer, "_maybe_symbolic_build", build)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        keras.config.disable_traceback_filtering()
        tf.debugging.disable_traceback_filtering()
        yield


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers, alone or in the whole suite."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def restore_keras():
    """What a test sets in Keras for the whole process ends with the test."""
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def float64(restore_keras):
    """Networks, losses and trainings in double precision."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
