import json
import math

import keras
import numpy as np
import pytest

from tfjointrd.training import (
    Constant,
    CosineFade,
    ExponentialRamp,
    LinearFade,
    LinearRamp,
    QuadraticRamp,
    Schedule,
    WarmUp,
    schedules,
)


def at(schedule, step, total=100):
    return float(keras.ops.convert_to_numpy(schedule(step, total)))


def test_quadratic_ramp():
    """min(4t², 1), section 4 of Adjoined Networks."""
    for step in (0, 10, 25, 49, 50, 51, 100, 200):
        assert at(QuadraticRamp(), step) == pytest.approx(min(4 * (step / 100) ** 2, 1), abs=1e-6)
    assert at(QuadraticRamp(), 0, 0) == 0  # a model that was never fitted


def test_cosine_fade():
    """The authors' m: dc + (1 - dc)(1 + cos(pi e / 60)) / 2 up to epoch 60 of 200, then dc."""
    schedule = CosineFade(floor=0.5, fade=0.3)
    for epoch in (0, 1, 30, 59, 60, 61, 200):
        expected = 0.5 + 0.5 * (1 + math.cos(math.pi * epoch / 60)) / 2 if epoch <= 60 else 0.5
        assert at(schedule, epoch, 200) == pytest.approx(expected, abs=1e-6)


def test_linear_fade():
    """From 1 to the floor along a line, in the first part of the training."""
    schedule = LinearFade(floor=0.2, fade=0.4)
    for step, expected in ((0, 1), (10, 0.8), (20, 0.6), (40, 0.2), (41, 0.2), (100, 0.2), (150, 0.2)):
        assert at(schedule, step) == pytest.approx(expected, abs=1e-6)
    assert at(LinearFade(fade=1.0), 75) == pytest.approx(0.25)
    assert at(LinearFade(), 50) == pytest.approx(0, abs=1e-6)


def test_warm_up_and_exponential_ramp():
    """A weight after a part of the training; e^t - 1."""
    for step, expected in ((0, 0), (10, 0.8), (25, 2), (100, 2)):
        assert at(WarmUp(2.0, 0.25), step) == pytest.approx(expected, abs=1e-6)
    assert at(WarmUp(), 20, 240) == pytest.approx(1) and at(WarmUp(), 10, 240) == pytest.approx(0.5)
    assert at(ExponentialRamp(), 50) == pytest.approx(0.648721, abs=1e-5)


@pytest.mark.parametrize(
    "schedule, start, end",
    [
        (QuadraticRamp(), 0, 1),
        (LinearRamp(), 0, 1),
        (ExponentialRamp(), 0, 1.718282),
        (LinearFade(0.3, 0.25), 1, 0.3),
        (CosineFade(0.3, 0.25), 1, 0.3),
        (Constant(0.6), 0.6, 0.6),
    ],
)
def test_ends(schedule, start, end):
    """Before the training, at its end and beyond; as scalars of float32, also for steps that are tensors."""
    assert at(schedule, 0) == pytest.approx(start) == at(schedule, 0, 0)
    assert at(schedule, 100) == pytest.approx(end, abs=1e-6) == at(schedule, 1000)
    value = schedule(keras.ops.convert_to_tensor(25, "int32"), keras.ops.convert_to_tensor(100.0))
    assert keras.backend.standardize_dtype(value.dtype) == "float32" and value.shape == ()
    if isinstance(schedule, LinearFade):
        assert at(schedule, 25) == pytest.approx(end, abs=1e-6) != at(schedule, 24)


def test_constant_and_numbers():
    assert at(Constant(0.3), 7) == pytest.approx(0.3)
    assert at(schedules.get(2, "weight"), 7) == 2
    schedule = QuadraticRamp()
    assert schedules.get(schedule, "weight") is schedule


@pytest.mark.parametrize(
    "schedule",
    [
        QuadraticRamp(),
        LinearRamp(),
        ExponentialRamp(),
        CosineFade(0.2, 0.7),
        LinearFade(0.2, 0.7),
        Constant(0.3),
        WarmUp(2.0, 0.5),
    ],
)
def test_serialisation(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = schedules.get(config, "weight")
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_own_schedule():
    class Linear(Schedule):
        def value(self, progress):
            return progress

    np.testing.assert_allclose([at(Linear(), s) for s in (0, 50, 100, 120)], [0, 0.5, 1, 1])


def test_bad_values():
    for fade in (CosineFade, LinearFade):
        for floor in (2, -0.1):
            with pytest.raises(ValueError, match=rf"`floor` in \[0, 1\]. Received: floor={floor}"):
                fade(floor=floor)
        for part in (0, 1.5):
            with pytest.raises(ValueError, match=rf"in \(0, 1\]. Received: fade={part}"):
                fade(fade=part)
    with pytest.raises(NotImplementedError, match="Schedule does not define `value"):
        Schedule()(0, 1)
    for wrong in ("cosine", True, None):
        with pytest.raises(ValueError, match=f"Received: {wrong!r}"):
            schedules.get(wrong, "weight")
