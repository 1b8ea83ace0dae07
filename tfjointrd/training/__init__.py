"""Training methods as `keras.Model`s, their losses and schedules."""

from tfjointrd.training.adjoined import Adjoined, adjoin
from tfjointrd.training.jointrd import JointRD
from tfjointrd.training.losses import kullback_leibler
from tfjointrd.training.schedules import Constant, CosineFade, QuadraticRamp, Schedule

__all__ = [
    "Adjoined",
    "Constant",
    "CosineFade",
    "JointRD",
    "QuadraticRamp",
    "Schedule",
    "adjoin",
    "kullback_leibler",
]
