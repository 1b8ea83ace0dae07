"""Every training in double precision computes what it does in single precision, more exactly."""

import functools

import keras
import numpy as np
import pytest

from tfjointrd import Distillation, JointRD, adjoin, dirac, distillers, remove_shortcuts, search

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has no float64 unless told so")

TRAININGS = {
    "jointrd": lambda net: JointRD(
        dirac(remove_shortcuts(net())), net(), methods=[distillers.Overhaul(), distillers.KD(weight=0.5)]
    ),
    "joint teacher": lambda net: JointRD(remove_shortcuts(net()), net(), teacher_mode="joint", path_scale="mean"),
    "distillation": lambda net: Distillation(remove_shortcuts(net()), net(), ["kd", "overhaul"]),
    "adjoined": lambda net: adjoin(net(), round_to=1),
    "adjoined, epsilon": lambda net: adjoin(net(), round_to=1, epsilon=1e-6),
    "both": lambda net: JointRD(adjoin(remove_shortcuts(net()), round_to=1), net(), methods="overhaul"),
    "dan": lambda net: search(net(), (1, 2), round_to=1, noise="none", warm_up=0.0),
    "dan, gamma": lambda net: search(net(), (1, 2), round_to=1, noise="none", gamma=1e-6, ties="free"),
}


@pytest.fixture
def tiny(tiny):
    """Of two stages, which have all kinds of layers already."""
    return functools.partial(tiny, stages=2)


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=id, marks=[pytest.mark.slow] * ("," in id)) for id, make in TRAININGS.items()]
)
def test_trains_as_in_float32(tiny, images, make, float64, eager):
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    single = make(tiny)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    double = make(tiny)
    double.set_weights(single.get_weights())
    x, y = images
    histories = []
    for floatx, model in (("float32", single), ("float64", double)):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        model.compile(keras.optimizers.SGD(0.01), metrics=["accuracy"])
        fitted = model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0).history
        histories.append([*fitted["loss"], model.evaluate(x, y, verbose=0)[0]])
    np.testing.assert_allclose(histories[0], histories[1], rtol=2e-3)
    outputs = keras.tree.flatten(double(x, training=True))
    assert {keras.backend.standardize_dtype(output.dtype) for output in outputs} == {"float64"}
    loss = double.compute_loss(x, y, double(x, training=True))
    assert keras.backend.standardize_dtype(loss.dtype) == "float64"
