"""What every objective is: a loss on views of the same images, around a backbone.

Letters: B batch, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone
from rapipe.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """What an objective is told about the images, and how it is to be changed."""

    image_size: int
    """H = W of the images, in pixels."""
    classes: int
    """Of the labels."""
    head: tuple[int, ...]
    """Widths of the projection head's layers, the last its output; `(128,)` is a linear head,
    `()` the objective's own."""
    temperature: float
    """tau of NT-Xent; 0 is the objective's own."""


class Objective(nn.Module):
    """Base class.

    Attributes:
        encoder: the backbone that is kept after pretraining.
        views: how many views of each image `forward` wants.
        caution: one sentence for whoever uses these features; empty if there is none.
        may_collapse: whether features that hardly differ between images are a failure;
            what reconstructs images learns though its features lie close together.
        ignores: parts of a recipe that this objective has no use for, so that to
            change them is a mistake.
        particular: whether `check_encoder` refuses some backbones.
    """

    encoder: Backbone
    views: int = 2
    caution: str = ""
    may_collapse: bool = True
    ignores: tuple[str, ...] = ("temperature",)
    particular: bool = False

    def __init__(self, encoder: Backbone, recipe: Recipe) -> None:
        super().__init__()
        self.check(recipe)
        self.check_encoder(encoder)
        self.encoder = encoder

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Raise `UserError` if there is something in the recipe that it cannot follow."""
        for name in cls.ignores:
            if given := getattr(recipe, name):
                nothing, shown = ("[]", list(given)) if name == "head" else ("0", given)
                raise UserError(
                    f"pretrain.{name} is {shown}, but pretrain.objective is one that has no "
                    f"{name} ({cls.__name__}): set it to {nothing}"
                )

    @classmethod
    def check_encoder(cls, encoder: Backbone) -> None:
        """Raise `UserError` if it cannot teach this backbone, which may be on the meta device."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            views: each (B, 3, H, W), normalised, of the same images in the same order.
            labels: (B,), -1 where there is none.
        """
        raise NotImplementedError

    def before_step(self, step: int, steps: int) -> None:
        """Called before step `step` (from 0) of `steps`."""
