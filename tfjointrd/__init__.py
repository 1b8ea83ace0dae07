"""Train with what helps training, deploy only what the phone needs.

Residual Distillation (JointRD) trains networks without shortcuts. Adjoined Networks train narrow networks. Their
differentiable form (DAN) learns how narrow each layer may be. Each method trains by `model.fit` and ends in an
ordinary, smaller `keras.Model`. The README has an example of each.

The resulting networks (`small()`, `full()`, `fold(...)`) consist of Keras' layers. Their `.keras` files load anywhere.
Files of trainings (`Adjoined`, `Cohort`, `DAN`, `Distillation`, `JointRD`) and of networks with layers of this package
(Dirac convolutions, `FitChannels`) need `import tfjointrd` ahead of `keras.saving.load_model`. Without it Keras says
"Could not locate class 'Adjoined'".
"""

from typing import TYPE_CHECKING

from tfjointrd import lazy as _lazy

if TYPE_CHECKING:
    from tfjointrd import data, export, models, report, surgery, training
    from tfjointrd.experiments.fine_tuning import transfer
    from tfjointrd.surgery import dirac, fold, new_head, prune, remove_shortcuts, slim, sort_channels
    from tfjointrd.training import (
        DAN,
        Adjoined,
        Cohort,
        Distillation,
        JointRD,
        Pruning,
        adjoin,
        distillers,
        recalibrate_batchnorm,
    )
    from tfjointrd.training.methods.search import search

__version__ = "0.1.0"

__all__ = [
    "DAN",
    "Adjoined",
    "Cohort",
    "Distillation",
    "JointRD",
    "Pruning",
    "adjoin",
    "data",
    "dirac",
    "distillers",
    "export",
    "fold",
    "models",
    "new_head",
    "prune",
    "recalibrate_batchnorm",
    "remove_shortcuts",
    "report",
    "search",
    "slim",
    "sort_channels",
    "surgery",
    "training",
    "transfer",
]

_PACKAGES = ("data", "experiments", "export", "layers", "models", "report", "surgery", "training")
_NAMES = {
    "tfjointrd.experiments.fine_tuning": ("transfer",),
    "tfjointrd.surgery": ("dirac", "fold", "new_head", "prune", "remove_shortcuts", "slim", "sort_channels"),
    "tfjointrd.training": (
        *("DAN", "Adjoined", "Cohort", "Distillation", "JointRD", "Pruning"),
        *("adjoin", "distillers", "recalibrate_batchnorm", "search"),
    ),
}

# Importing any of it imports Keras and, on that backend, TensorFlow, which is not to be imported before it is needed.
__getattr__ = _lazy.attributes(
    __name__,
    {
        **{name: f"{__name__}.{name}" for name in _PACKAGES},
        **{name: module for module, names in _NAMES.items() for name in names},
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# The classes that .keras files may name.
_lazy.import_with_keras(__name__, ("tfjointrd.layers", "tfjointrd.training"))
