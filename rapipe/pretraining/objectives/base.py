"""What every objective is: a loss on views of the same images, around a backbone.

Letters: B batch, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError


@dataclass(frozen=True)
class ObjectiveSpec:
    """What an objective needs to know of the images, and its settings."""

    image_size: int
    """H = W of the images, in pixels."""
    classes: int
    """Of the labels."""
    head: tuple[int, ...]
    """Widths of the projection head's layers, the last its output; `(128,)` is a linear head,
    `()` the objective's own."""
    temperature: float
    """tau of NT-Xent; 0 is the objective's own."""
    local_crops: int = 0
    """Small crops of each image that `forward` takes behind the views."""


class Objective(nn.Module):
    """Base class.

    Attributes:
        encoder: the backbone that is pretrained.
        trains: whether there are steps at all.
        views: number of views of each image that `forward` takes.
        caution: one sentence for whoever uses these features; empty if there is none.
        may_collapse: whether features that hardly differ between images are a failure;
            what reconstructs images learns though its features lie close together.
        local_crops: number of small crops of each image that `forward` takes behind them.
        local_side: their side in pixels; 0 where there are none.
        measured: what the last `forward` measured besides its loss: scalars, by the name of
            their column in the history.
        middle: the first layer of the projection head, with its normalisation and ReLU, if
            classifiers may start from it; None if not.
        ignores: fields of the spec that this objective has no use for, so that to
            set them is a mistake.
        draws: whether `forward` draws random numbers, of the whole batch on every rank.
        restricts_encoders: whether `check_encoder` refuses some backbones.
    """

    encoder: Backbone
    trains: bool = True
    views: int = 2
    local_crops: int = 0
    local_side: int = 0
    middle: nn.Module | None = None
    caution: str = ""
    may_collapse: bool = True
    ignores: tuple[str, ...] = ("temperature", "local_crops")
    draws: bool = False
    restricts_encoders: bool = False

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        super().__init__()
        self.check(spec)
        self.check_encoder(encoder)
        self.encoder = encoder
        self.measured: dict[str, Tensor] = {}

    @classmethod
    def check(cls, spec: ObjectiveSpec) -> None:
        """Raise `ArgumentError` unless the spec suits this objective."""
        for name in cls.ignores:
            if value := getattr(spec, name):
                unset, value = ("[]", list(value)) if name == "head" else ("0", value)
                raise ArgumentError(
                    f"`{name}` is {value}, but `objective` is one that has no {name} "
                    f"({cls.__name__}): set it to {unset}"
                )

    @classmethod
    def check_encoder(cls, encoder: Backbone) -> None:
        """Raise `ArgumentError` unless it can teach this backbone, on the meta device or not."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Scalar loss; of several ranks the mean of theirs is that of the whole batch.

        Args:
            views: each (B, 3, H, W), normalised, of the same images in the same order; then
                small crops of them, if there are any.
            labels: (B,), -1 where there is none.
        """
        raise NotImplementedError

    def before_step(self, step: int, steps: int) -> None:
        """Called before step `step` (from 0) of `steps`."""
