"""Shared by all tests: one seed a test, no chatter from TensorFlow, and which tests are left out."""

import functools
import gc
import inspect
import math
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As many workers as cores, and networks too small to gain from threads.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from pathlib import Path

import pytest

# Keras, and TensorFlow with it, is imported by fixtures: the process that hands out the tests needs neither.


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
def traced_with_less_work(pytestconfig):
    """Small networks that run for a few steps cost more to trace and to optimise than to train.

    Networks compute the same. With --slow, and in the notebooks, TensorFlow and Keras work as users have them.
    """
    import keras

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


# Up to how many steps cost less without a graph than tracing one costs: measured with networks of six convolutions.
STEPS_WITHOUT_A_GRAPH = {"fit": 6, "evaluate": 4, "predict": 2}


@pytest.fixture(autouse=True, scope="session")
def short_runs_without_a_graph(pytestconfig):
    """Trainings, evaluations and predictions of a few steps are not traced; longer ones are, and all with --slow.

    What has a graph already, what XLA compiles and what several devices share runs as users have it.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or pytestconfig.getoption("--slow"):
        yield
        return
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    functions = ("train_function", "test_function", "predict_function")
    running = []

    def length(x, batch_size=None, steps=None, **_):
        """How many steps a look at all the data takes, as far as it is known."""
        x = keras.tree.flatten(x)[0] if isinstance(x, (list, tuple, dict)) else x
        if steps is None and hasattr(x, "shape"):
            steps = -(-x.shape[0] // (batch_size or 32))
        try:
            return len(x) if steps is None else steps
        except TypeError:
            return math.inf

    def count(name, x=None, epochs=1, initial_epoch=0, steps_per_epoch=None, **given):
        if name != "fit":
            return length(x, **given)
        return (epochs - initial_epoch) * length(x, given.get("batch_size"), steps_per_epoch)

    def patched(name, method, function):
        signature = inspect.signature(method)

        @functools.wraps(method)
        def run(model, *args, **kwargs):
            made = {own: getattr(model, own) for own in functions}
            given = signature.bind(model, *args, **kwargs).arguments
            traced = (
                model in running
                or made[function] is not None
                or model.run_eagerly
                or model.steps_per_execution > 1
                or model._distribute_strategy is not None
                or model.jit_compile
                or count(name, **{key: value for key, value in given.items() if key not in ("self", "kwargs")})
                > STEPS_WITHOUT_A_GRAPH[name]
            )
            running.append(model)
            model.run_eagerly = model.run_eagerly or not traced
            try:
                return method(model, *args, **kwargs)
            finally:
                running.pop()
                if not traced:
                    model.run_eagerly = False
                    for own, before in made.items():
                        setattr(model, own, before)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name, function in zip(STEPS_WITHOUT_A_GRAPH, functions, strict=True):
            patch.setattr(TensorFlowTrainer, name, patched(name, getattr(TensorFlowTrainer, name), function))
        yield


@pytest.fixture
def traced(monkeypatch):
    """Runs of a few steps have a graph too."""
    for name in STEPS_WITHOUT_A_GRAPH:
        monkeypatch.setitem(STEPS_WITHOUT_A_GRAPH, name, 0)


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
