"""Shared by all tests: one seed a test, no chatter from TensorFlow, and which tests are left out."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As many workers as cores, and networks too small to gain from threads.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from pathlib import Path

import pytest
import short_runs

# Keras, and TensorFlow with it, is imported by fixtures: the process that hands out the tests needs neither.


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the slow tests")
    parser.addoption("--notebooks", action="store_true", help="also run the notebooks, at TFJOINTRD_SCALE")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(
                pytest.mark.skip(reason="takes over a minute, or is one more case of a test; run with --slow")
            )
        if "notebooks" in item.keywords and not config.getoption("--notebooks"):
            item.add_marker(pytest.mark.skip(reason="is a notebook; run with --notebooks"))
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
def drawn_without_compiling(pytestconfig):
    """On JAX every shape of a kernel would be compiled once, only to draw its initial weights."""
    import keras

    if keras.backend.backend() != "jax" or pytestconfig.getoption("--slow"):
        yield
        return
    import numpy as np
    from keras.src.backend.jax import random

    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        if not isinstance(seed, int):  # a generator, as within a training step
            return before(shape, minval, maxval, dtype, seed)
        values = np.random.default_rng(seed).uniform(minval, maxval, shape)
        return keras.ops.convert_to_tensor(values.astype("float32"), dtype or keras.config.floatx())

    before = random.uniform
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "uniform", uniform)
        yield


@pytest.fixture(autouse=True, scope="session")
def small_networks_in_less_time(pytestconfig):
    """Networks compute the same. With --slow TensorFlow and Keras work as users have them."""
    import keras

    if keras.backend.backend() != "tensorflow" or pytestconfig.getoption("--slow"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        short_runs.trace_with_less_work(patch)
        short_runs.run_without_a_graph(patch)
        yield


@pytest.fixture
def traced(monkeypatch):
    """Runs of a few steps have a graph too."""
    for name in short_runs.STEPS_WITHOUT_A_GRAPH:
        monkeypatch.setitem(short_runs.STEPS_WITHOUT_A_GRAPH, name, 0)


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers, alone or in the whole suite."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def restore_keras():
    """What a test sets in Keras for the whole process ends with the test."""
    import keras

    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def float64(restore_keras):
    """Networks, losses and trainings in double precision."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
