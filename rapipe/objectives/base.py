"""What every self-supervised objective is: a loss on two views, around a backbone."""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.backbones import Backbone


class Objective(nn.Module):
    """Base class.

    Attributes:
        encoder: the backbone that is kept after pretraining.
    """

    encoder: Backbone

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Scalar loss of two views (B, 3, H, W) of the same images, normalised."""
        raise NotImplementedError

    def before_step(self, step: int, steps: int) -> None:
        """Called before step `step` (from 0) of `steps`."""
