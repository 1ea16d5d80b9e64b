"""Weights that were pretrained elsewhere: read without running code, and matched by name."""

from rapipe.encoder.checkpoints.filling import fill
from rapipe.encoder.checkpoints.published import Published, describe, encoder_of
from rapipe.encoder.checkpoints.reading import check, read

__all__ = ["Published", "check", "describe", "encoder_of", "fill", "read"]
