"""Training methods as `keras.Model`s, their losses and schedules."""

from tfjointrd.training import distillers
from tfjointrd.training.callbacks.gate_recorder import GateRecorder
from tfjointrd.training.callbacks.gradient_recorder import GradientRecorder
from tfjointrd.training.engines import distribute, resident
from tfjointrd.training.losses import kullback_leibler
from tfjointrd.training.methods.adjoin import adjoin
from tfjointrd.training.methods.adjoined import Adjoined
from tfjointrd.training.methods.cohort import Cohort
from tfjointrd.training.methods.dan import DAN
from tfjointrd.training.methods.distillation import Distillation
from tfjointrd.training.methods.jointrd import JointRD
from tfjointrd.training.methods.pruning import Pruning
from tfjointrd.training.methods.search import search
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
    WarmUp,
)

__all__ = [
    "DAN",
    "Adjoined",
    "Cohort",
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
    "Pruning",
    "QuadraticRamp",
    "Schedule",
    "WarmUp",
    "adjoin",
    "distillers",
    "distribute",
    "kullback_leibler",
    "recalibrate_batchnorm",
    "resident",
    "search",
]


def __dir__() -> list[str]:
    return list(__all__)
