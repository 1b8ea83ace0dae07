"""What networks are made of."""

from tfjointrd.layers.pad_channels import PadChannels

__all__ = ["PadChannels"]
