"""What every generator is: losses on labelled images, and samples of a class.

Letters: B batch, C channels (1 of grey images, else 3), S side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rapipe.errors import ArgumentError
from rapipe.specs import GenerationRecipe

SMALLEST = 8
"""Side to which networks bring images down, at most."""
Trace = Callable[[Tensor], None]
"""Sees the images (B, C, S, S) after each step of a reverse process."""


@dataclass(frozen=True)
class GeneratorSpec:
    """What is needed to build the network again."""

    method: str
    """Its name in the table of generators."""
    image_size: int
    """S."""
    channels: int
    """C."""
    classes: int
    width: int
    """Channels of its first stage."""


class Generator(nn.Module):
    """Base class. Images (B, C, S, S) are from -1 to 1.

    Attributes:
        betas: of Adam.
    """

    betas: tuple[float, float] = (0.9, 0.999)

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.check(spec.image_size)
        self.spec = spec

    @classmethod
    def check(cls, image_size: int) -> None:
        """Raise `ArgumentError` if such images cannot be made, `UserError` if a package lacks."""
        step = 2 ** halvings(image_size)
        if image_size % step:
            lower = image_size // step * step
            raise ArgumentError(
                f"`image_size` is {image_size}, but `method` is one that halves images "
                f"{halvings(image_size)} times: choose {lower} or {lower + step}"
            )

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar losses by name, which are added up.

        Args:
            labels: (B,), from 0 on.
        """
        raise NotImplementedError

    @torch.inference_mode()
    def sample(
        self,
        labels: Tensor,
        recipe: GenerationRecipe,
        rng: torch.Generator,
        trace: Trace = lambda images: None,
    ) -> Tensor:
        """An image (B, C, S, S) for each label (B,).

        Args:
            recipe: how to sample.
            rng: on the CPU, so that noise is the same on every device.
            trace: called after each step where there are some.
        """
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S)."""
        return self.spec.channels, self.spec.image_size, self.spec.image_size


def halvings(image_size: int) -> int:
    """How often images are halved: once at least, and until they have `SMALLEST` pixels."""
    return max(1, math.ceil(math.log2(image_size / SMALLEST)))
