import json
import math

import keras
import numpy as np
import pytest

from tfjointrd.training import Constant, CosineFade, QuadraticRamp, Schedule, schedules


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


def test_constant_and_numbers():
    assert at(Constant(0.3), 7) == pytest.approx(0.3)
    assert at(schedules.get(2), 7) == 2
    schedule = QuadraticRamp()
    assert schedules.get(schedule) is schedule


@pytest.mark.parametrize("schedule", [QuadraticRamp(), CosineFade(0.2, 0.7), Constant(0.3)])
def test_serialisation(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = schedules.get(config)
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_own_schedule():
    class Linear(Schedule):
        def value(self, progress):
            return progress

    np.testing.assert_allclose([at(Linear(), s) for s in (0, 50, 100, 120)], [0, 0.5, 1, 1])


def test_bad_values():
    with pytest.raises(ValueError, match=r"`floor` in \[0, 1\]. Received: floor=2"):
        CosineFade(floor=2)
    with pytest.raises(ValueError, match=r"in \(0, 1\]. Received: fade=0"):
        CosineFade(fade=0)
    for wrong in ("cosine", True, None):
        with pytest.raises(ValueError, match=f"Received: {wrong!r}"):
            schedules.get(wrong)
