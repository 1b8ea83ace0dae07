"""How important each channel of a network is: criteria by name, with their options, and a place for one's own."""

from tfjointrd.surgery.importance.criterion import (
    Criterion,
    channel_importance,
    importance_names,
    register_importance,
)
from tfjointrd.surgery.importance.hrank import HRank
from tfjointrd.surgery.importance.nisp import NISP
from tfjointrd.surgery.importance.norms import FPGM, L1, L2, LAMP, BatchNormGamma, Random
from tfjointrd.surgery.importance.taylor import Taylor

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "NISP",
    "BatchNormGamma",
    "Criterion",
    "HRank",
    "Random",
    "Taylor",
    "channel_importance",
    "importance_names",
    "register_importance",
]
