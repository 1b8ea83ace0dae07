"""Callbacks that record what happens in a training."""
