"""What networks are made of."""

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.dirac import DiracConv2D
from tfjointrd.layers.fit_channels import FitChannels

__all__ = ["DiracConv2D", "FusedBatchNormalization", "FitChannels"]
