"""Weights that change over a training, as functions of the step: m(t) of JointRD's tails, lambda(t) of the adjoined KL.

Like Keras' learning-rate schedules they are called with the number of the step; the length of the training comes as a
second argument, so that one schedule serves trainings of any length and a resumed training goes on where it was.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from tfjointrd.training.precision import loss_dtype


class Schedule:
    """Base class: a weight that is a function of the training's progress t = step / total_steps in [0, 1].

    Subclasses define `value(progress)` and `get_config()`.

    Attributes:
        constant: Whether the weight is the same throughout.
    """

    constant = False

    def __call__(self, step, total_steps):
        """The weight at `step` of `total_steps`, a scalar tensor.

        Args:
            step: Number of finished steps, a scalar.
            total_steps: Number of steps of the whole training, a scalar.
        """
        step, total = ops.cast(step, loss_dtype()), ops.cast(total_steps, loss_dtype())
        return ops.cast(self.value(ops.clip(step / ops.maximum(total, 1.0), 0.0, 1.0)), loss_dtype())

    def value(self, progress):
        """The weight at `progress`, a scalar tensor in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not define `value(progress)`.")

    def get_config(self) -> dict:
        """The configuration from which the schedule can be made again."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Schedule:
        """Makes the schedule again."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfjointrd")
class QuadraticRamp(Schedule):
    """min(4t², 1): zero at the start, one from the middle of the training on.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 4, lambda(t).
    """

    def value(self, progress):
        """min(4t², 1)."""
        return ops.minimum(4.0 * progress * progress, 1.0)


@keras.saving.register_keras_serializable(package="tfjointrd")
class LinearRamp(Schedule):
    """t: rises from zero to one over the training.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 4: one of the courses that lambda(t) may take.
    """

    def value(self, progress):
        """t."""
        return progress


@keras.saving.register_keras_serializable(package="tfjointrd")
class ExponentialRamp(Schedule):
    """e^t - 1: rises from zero to 1.72 over the training.

    Reference:
        An earlier lambda(t) in the code of the authors of Adjoined Networks.
    """

    def value(self, progress):
        """e^t - 1."""
        return ops.exp(progress) - 1.0


@keras.saving.register_keras_serializable(package="tfjointrd")
class LinearFade(Schedule):
    """Falls from 1 to `floor` along a straight line, then stays there.

    Args:
        floor: The weight at the end, from 0 to 1.
        fade: The part of the training after which the floor is reached.

    Raises:
        ValueError: If `floor` is not in [0, 1] or `fade` not in (0, 1].
    """

    def __init__(self, floor: float = 0.0, fade: float = 0.5):
        if not 0 <= floor <= 1:
            raise ValueError(f"Expected `floor` in [0, 1]. Received: floor={floor}.")
        if not 0 < fade <= 1:
            raise ValueError(f"Expected `fade`, a part of the training, in (0, 1]. Received: fade={fade}.")
        self.floor = floor
        self.fade = fade

    def value(self, progress):
        """1 - (1 - floor) t / fade while t < fade."""
        return 1.0 - (1 - self.floor) * ops.minimum(progress / self.fade, 1.0)

    def get_config(self) -> dict:
        """The configuration from which the schedule can be made again."""
        return {"floor": self.floor, "fade": self.fade}


@keras.saving.register_keras_serializable(package="tfjointrd")
class CosineFade(LinearFade):
    """Falls from 1 to `floor` along half a cosine, then stays there.

    Args:
        floor: The weight at the end. The authors of Residual Distillation use 0.005 on ImageNet, 0.5 on CIFAR.
        fade: The part of the training after which the floor is reached. The authors fade over 60 epochs, 0.5 of
            their ImageNet trainings and 0.3 of those on CIFAR.

    Raises:
        ValueError: If `floor` is not in [0, 1] or `fade` not in (0, 1].

    Reference:
        Residual Distillation (NeurIPS 2020), section 1: the teacher's gradients are gradually reduced.
    """

    def __init__(self, floor: float = 0.005, fade: float = 0.5):
        super().__init__(floor, fade)

    def value(self, progress):
        """floor + (1 - floor) (1 + cos(pi t / fade)) / 2 while t < fade."""
        phase = ops.minimum(progress / self.fade, 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1.0 + ops.cos(math.pi * phase))


@keras.saving.register_keras_serializable(package="tfjointrd")
class ExponentialDecay(Schedule):
    """initial * e^(-rate t): falls by the same factor in each part of the training.

    Args:
        initial: The value at the start, above 0.
        rate: How many times it falls by a factor of e over the training, from 0 on. The default is that of the paper's
            100 epochs, from 15 to 0.167.

    Raises:
        ValueError: If `initial` is not above 0, or `rate` below 0.

    Reference:
        Adjoined Networks (https://arxiv.org/abs/2006.05624), section 6: the temperature of Gumbel-softmax starts at 15
        and falls by e^-0.045 an epoch.
    """

    def __init__(self, initial: float = 15.0, rate: float = 4.5):
        if not initial > 0:
            raise ValueError(f"Expected `initial` above 0. Received: initial={initial}.")
        if not rate >= 0:
            raise ValueError(f"Expected `rate` from 0 on. Received: rate={rate}.")
        self.initial, self.rate = initial, rate

    def value(self, progress):
        """initial * e^(-rate t)."""
        return self.initial * ops.exp(-self.rate * progress)

    def get_config(self) -> dict:
        """The configuration from which the schedule can be made again."""
        return {"initial": self.initial, "rate": self.rate}


@keras.saving.register_keras_serializable(package="tfjointrd")
class Constant(Schedule):
    """The same weight throughout.

    Args:
        weight: The weight.

    Raises:
        ValueError: If `weight` is not finite.
    """

    constant = True

    def __init__(self, weight: float = 1.0):
        if not math.isfinite(weight):
            raise ValueError(f"Expected a finite `weight`. Received: weight={weight}.")
        self.weight = weight

    def value(self, progress):
        """The weight, whatever the progress."""
        return ops.full_like(progress, self.weight)

    def get_config(self) -> dict:
        """The configuration from which the schedule can be made again."""
        return {"weight": self.weight}


@keras.saving.register_keras_serializable(package="tfjointrd")
class WarmUp(Schedule):
    """min(t / part, 1) times a weight: rises from zero over the first part of the training, and stays.

    Args:
        weight: The weight from then on.
        part: The part of the training over which it rises.

    Raises:
        ValueError: If `weight` is not a number from 0, or `part` not in (0, 1].
    """

    def __init__(self, weight: float = 1.0, part: float = 1 / 12):
        if not 0 < part <= 1:
            raise ValueError(f"Expected `part` in (0, 1]. Received: part={part}.")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"Expected a finite `weight` from 0. Received: weight={weight}.")
        self.weight, self.part = weight, part

    def value(self, progress):
        """The weight so far."""
        return self.weight * ops.minimum(progress / self.part, 1.0)

    def get_config(self) -> dict:
        """The configuration from which the schedule can be made again."""
        return {"weight": self.weight, "part": self.part}


WARM_UP = WarmUp()  # over 20 of 240 epochs, as several distillation methods have it


def get(schedule: Schedule | float | dict, argument: str) -> Schedule:
    """A schedule from a schedule, a number (constant), or a serialised schedule, given as `argument`.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(schedule, dict):
        schedule = keras.saving.deserialize_keras_object(schedule)
    if isinstance(schedule, (int, float)) and not isinstance(schedule, bool):
        schedule = Constant(float(schedule))
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"Expected `{argument}` to be a `tfjointrd.training.Schedule` or a number. Received: {schedule!r}."
        )
    return schedule


def positive(schedule: Schedule | float | dict, argument: str) -> Schedule:
    """As `get`, for what has to stay above 0, as temperatures do.

    Raises:
        ValueError: If it does not, or is no schedule.
    """
    schedule = get(schedule, argument)
    lowest = _lowest(schedule)
    if not lowest > 0:
        raise ValueError(f"Expected a `{argument}` above 0 throughout the training. Received: {lowest:g}.")
    return schedule


def not_negative(schedule: Schedule | float | dict, argument: str) -> Schedule:
    """As `get`, for weights of losses.

    Raises:
        ValueError: If it falls below 0, or is no schedule.
    """
    schedule = get(schedule, argument)
    lowest = _lowest(schedule)
    if not lowest >= -1e-6:
        raise ValueError(f"Expected a `{argument}` from 0 throughout the training. Received: {lowest:g}.")
    return schedule


def _lowest(schedule: Schedule) -> float:
    return min(float(ops.convert_to_numpy(schedule(step, 10))) for step in range(11))
