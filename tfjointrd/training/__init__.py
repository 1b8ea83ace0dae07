"""Training methods as `keras.Model`s, their losses and schedules."""

from tfjointrd.training.adjoined import Adjoined, adjoin
from tfjointrd.training.diagnostics import GradientRecorder
from tfjointrd.training.distillation import Distillation
from tfjointrd.training.jointrd import JointRD
from tfjointrd.training.losses import kullback_leibler
from tfjointrd.training.recalibration import recalibrate_batchnorm
from tfjointrd.training.schedules import (
    Constant,
    CosineFade,
    ExponentialRamp,
    LinearFade,
    LinearRamp,
    QuadraticRamp,
    Schedule,
)

__all__ = [
    "Adjoined",
    "Constant",
    "CosineFade",
    "Distillation",
    "ExponentialRamp",
    "GradientRecorder",
    "JointRD",
    "LinearFade",
    "LinearRamp",
    "QuadraticRamp",
    "Schedule",
    "adjoin",
    "kullback_leibler",
    "recalibrate_batchnorm",
]
