"""Weights that were pretrained elsewhere: read without running code, and found by name."""

from rapipe.checkpoints.filling import fill
from rapipe.checkpoints.reading import check, read

__all__ = ["check", "fill", "read"]
