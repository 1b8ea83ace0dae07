"""Training methods as `keras.Model`s, their losses and schedules."""

from tfjointrd.training.adjoined import Adjoined, adjoin
from tfjointrd.training.dan import DAN
from tfjointrd.training.diagnostics import GateRecorder, GradientRecorder
from tfjointrd.training.distillation import Distillation
from tfjointrd.training.jointrd import JointRD
from tfjointrd.training.losses import kullback_leibler
from tfjointrd.training.recalibration import recalibrate_batchnorm
from tfjointrd.training.schedules import (
    Constant,
    CosineFade,
    ExponentialDecay,
    ExponentialRamp,
    LinearFade,
    LinearRamp,
    QuadraticRamp,
    Schedule,
)
from tfjointrd.training.search import search

__all__ = [
    "DAN",
    "Adjoined",
    "Constant",
    "CosineFade",
    "Distillation",
    "ExponentialDecay",
    "ExponentialRamp",
    "GateRecorder",
    "GradientRecorder",
    "JointRD",
    "LinearFade",
    "LinearRamp",
    "QuadraticRamp",
    "Schedule",
    "adjoin",
    "kullback_leibler",
    "recalibrate_batchnorm",
    "search",
]
