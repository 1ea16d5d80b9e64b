"""An image as a set of patches that know where they stand: the input of Perceivers.

Letters: B batch, T patches, P side of a patch, S side of the image in patches.
"""

from __future__ import annotations

import torch
from perceiver_pytorch.perceiver_pytorch import fourier_encode
from torch import Tensor, nn
from torch.nn import functional as F

BANDS = 6
PATCH_SIDES = {"cifar": 1, "half": 2, "imagenet": 4}
"""Side of a patch by stem: the image shrinks as much as in the convolutional backbones."""


class Patches(nn.Module):
    """Patches of an image, each with Fourier features of its position; nothing is learned.

    Without the positions a Perceiver would ignore where a patch stands. An
    image that patches do not fill is padded with 0.

    Attributes:
        features: length of a patch's vector, 3PP + 2 (2 BANDS + 1).
    """

    positions: Tensor

    def __init__(self, stem: str, image_size: int) -> None:
        super().__init__()
        self.side = PATCH_SIDES[stem]
        self.padding = -image_size % self.side
        side_in_patches = (image_size + self.padding) // self.side
        self.register_buffer("positions", _positions(side_in_patches), persistent=False)
        self.features = 3 * self.side**2 + self.positions.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> patches (B, T, features)."""
        padded = F.pad(images, (0, self.padding, 0, self.padding))
        patches = F.pixel_unshuffle(padded, self.side).flatten(2).transpose(1, 2)  # (B, T, 3PP)
        positions = self.positions.to(patches.dtype).expand(len(images), -1, -1)
        return torch.cat((patches, positions), dim=2)


def _positions(side: int) -> Tensor:
    """Fourier features (S * S, 2 (2 BANDS + 1)) of the patches' positions."""
    axis = torch.linspace(-1, 1, side)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)  # (S, S, 2)
    encoded: Tensor = fourier_encode(grid, max_freq=float(side), num_bands=BANDS)
    return encoded.reshape(side * side, -1)
