"""Train with what helps training, deploy only what the phone needs.

Residual Distillation (JointRD) trains networks without shortcuts, Adjoined Networks train narrow networks, and their
differentiable form (DAN) learns how narrow each layer may be, each by `model.fit`; all hand back an ordinary, smaller
`keras.Model`. See the README for the whole way.
"""

import os
import sys

if sys.argv[:1] == ["-m"]:  # `python -m tfjointrd`; TensorFlow, which Keras imports, reads both when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a short start-up log
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "1"
    )  # off by default without AVX-512, where it halves a step as well

from tfjointrd import data, export, models, report, surgery, training
from tfjointrd.experiments.transfer import transfer
from tfjointrd.surgery import dirac, fold, new_head, remove_shortcuts, slim
from tfjointrd.training import DAN, Adjoined, Distillation, JointRD, adjoin, recalibrate_batchnorm, search

__version__ = "0.1.0"

__all__ = [
    "DAN",
    "Adjoined",
    "Distillation",
    "JointRD",
    "adjoin",
    "data",
    "dirac",
    "export",
    "fold",
    "models",
    "new_head",
    "recalibrate_batchnorm",
    "remove_shortcuts",
    "report",
    "search",
    "slim",
    "surgery",
    "training",
    "transfer",
]
