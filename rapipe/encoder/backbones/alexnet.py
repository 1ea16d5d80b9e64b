"""AlexNet (Krizhevsky et al., NeurIPS 2012) for small images; neighbours enter after the last map.

Five convolutions, three poolings and two wide layers as in the paper, with
3x3 kernels so that 32 pixels are enough, and batch normalisation in place of
local response normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapipe.encoder.backbones.base import Backbone, Fuse, fuse_map, no_fusion

GRID = 2
"""Side of the last feature map, whatever the size of the image."""


class AlexNet(Backbone):
    """Widths are multiples of `width`; 64 gives the published ones (64, 192, 384, 256, 256)."""

    branches = True

    def __init__(self, width: int, stem: str) -> None:
        super().__init__()
        first, second, third, last = width, 3 * width, 6 * width, 4 * width
        stride = {"cifar": 1, "half": 2, "imagenet": 4}[stem]
        self.convolutions = nn.Sequential(
            _block(3, first, stride),
            nn.MaxPool2d(2, ceil_mode=True),
            _block(first, second),
            nn.MaxPool2d(2, ceil_mode=True),
            _block(second, third),
            _block(third, last),
            _block(last, last),
            nn.AdaptiveMaxPool2d(GRID),
        )
        self.widths = (last,)
        self.features = 16 * width
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(last * GRID * GRID, self.features),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(self.features, self.features),
            nn.ReLU(),
        )

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        x = self.convolutions(images)  # (B, C, GRID, GRID)
        features: Tensor = self.hidden(
            fuse_map(fuse, 0, x).contiguous(memory_format=torch.contiguous_format)
        )
        return features  # (B, F)


def _block(channels: int, out: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


def alexnet(width: int, stem: str, image_size: int) -> Backbone:
    """AlexNet: five convolutions and two wide layers; width 64 is the published size.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks",
    NeurIPS 2012.
    """
    return AlexNet(width, stem)
