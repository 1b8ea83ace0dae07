"""What networks are made of."""

from tfjointrd.layers.adjoined_by_hand import AdjoinedConv2D, AdjoinedDense
from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.layers.fit_channels import FitChannels
from tfjointrd.layers.gates import DANConv2D, GumbelSoftmax

__all__ = [
    "AdjoinedConv2D",
    "AdjoinedDense",
    "DANConv2D",
    "DiracConv2D",
    "FitChannels",
    "FusedBatchNormalization",
    "GumbelSoftmax",
]


def __dir__() -> list[str]:
    return list(__all__)
