"""Shared by all tests: one seed a test, no chatter from TensorFlow, and which tests are left out."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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
