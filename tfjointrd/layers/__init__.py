"""What networks are made of."""

from tfjointrd.layers.batch_normalization import FusedBatchNormalization
from tfjointrd.layers.pad_channels import PadChannels

__all__ = ["FusedBatchNormalization", "PadChannels"]
