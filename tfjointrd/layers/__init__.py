"""What networks are made of."""

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.fit_channels import FitChannels

__all__ = ["FusedBatchNormalization", "FitChannels"]
