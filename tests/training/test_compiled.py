"""Steps that XLA compiles, as Keras does by itself where there is one GPU."""

import functools

import keras
import pytest

from tfjointrd import Cohort, Distillation, JointRD, Pruning, adjoin, dirac, remove_shortcuts, search

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles every step")

TRAININGS = {
    "jointrd": lambda net: JointRD(dirac(remove_shortcuts(net())), net(), methods=["kd", "overhaul"]),
    "joint teacher": lambda net: JointRD(remove_shortcuts(net()), net(), teacher_mode="joint"),
    "distillation": lambda net: Distillation(net(), net(), ["rkd", "review_kd", "vid"]),
    "adjoined": lambda net: adjoin(net(), round_to=1),
    "dan": lambda net: search(net(), (1, 2), round_to=1, target_macs=0.8),
    "pruning": lambda net: Pruning(net(), round_to=1, target_macs=0.8, regularizer="group"),
    "cohort": lambda net: Cohort([net(), net()]),
}


@pytest.fixture
def tiny(tiny):
    """Of two stages, which have all kinds of layers already."""
    return functools.partial(tiny, stages=2)


@pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS)
def test_variables_are_where_a_compiled_step_reaches_them(make, tiny):
    """On a GPU, TensorFlow keeps int32 variables in the memory of the processor."""
    training = make(tiny)
    training.compile("adam", metrics=["accuracy"])
    training.optimizer.build(training.trainable_variables)
    variables = [*training.variables, *training.optimizer.variables, *training.metrics_variables]
    assert [variable.path for variable in variables if variable.dtype == "int32"] == []


@pytest.mark.slow
@pytest.mark.parametrize("make", TRAININGS.values(), ids=TRAININGS)
def test_a_compiled_step(make, tiny, images):
    training = make(tiny)
    training.compile("sgd", metrics=["accuracy"], jit_compile=True)
    history = training.fit(*images, batch_size=16, epochs=3, verbose=0).history
    assert history["loss"][-1] > 0 and int(training.step) == 12
