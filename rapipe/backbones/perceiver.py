"""Perceiver (Jaegle et al., ICML 2021) of perceiver-pytorch's layers.

Latents attend to the image and then to themselves, `DEPTH` times; neighbours
enter after every attention to the image. The image is a set of patches (of one
pixel with the stem `cifar`) that carry Fourier features of their position:
without them the network would ignore where a patch stands.

Letters: B batch, T tokens (patches), L latents, C channels, P side of a patch,
S side of the image in patches.
"""

from __future__ import annotations

from typing import Any

import torch
from perceiver_pytorch import PerceiverBlock
from perceiver_pytorch.perceiver_pytorch import fourier_encode
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.backbones.base import Backbone, Fuse, keep

DEPTH = 2
LATENTS = 32
SELF_ATTENTIONS = 1
BANDS = 6
HEADS = 4
PATCH = {"cifar": 1, "half": 2, "imagenet": 4}
"""Side of a patch by stem: the image shrinks as much as in the convolutional backbones."""


class Perceiver(Backbone):
    """Latents have 4 * `width` channels; an image that patches do not fill is padded with 0."""

    positions: Tensor

    def __init__(self, width: int, stem: str, image_size: int) -> None:
        super().__init__()
        channels = 4 * width
        self.patch = PATCH[stem]
        self.padding = -image_size % self.patch
        side = (image_size + self.padding) // self.patch
        self.register_buffer("positions", _positions(side), persistent=False)
        self.latents = nn.Parameter(torch.randn(LATENTS, channels) * 0.02)
        self.blocks = nn.ModuleList(
            PerceiverBlock(
                dim=channels,
                context_dim=3 * self.patch**2 + self.positions.shape[1],
                cross_heads=1,
                cross_dim_head=channels,
                latent_heads=HEADS,
                latent_dim_head=channels // HEADS,
                self_per_cross_attn=SELF_ATTENTIONS,
            )
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(channels)
        self.widths = (channels,) * DEPTH
        self.features = channels

    def forward(self, images: Tensor, fuse: Fuse = keep) -> Tensor:
        padded = F.pad(images, (0, self.padding, 0, self.padding))
        patches = F.pixel_unshuffle(padded, self.patch).flatten(2).transpose(1, 2)  # (B, T, 3PP)
        where = self.positions.to(patches.dtype).expand(len(images), -1, -1)
        context = torch.cat((patches, where), dim=2)  # (B, T, 3PP + 2 (2 BANDS + 1))
        x = self.latents.expand(len(images), -1, -1)  # (B, L, C)
        for place in range(DEPTH):
            block: Any = self.blocks[place]
            x = block.cross_attn(x, context=context) + x
            x = block.cross_ff(x) + x
            x = fuse(place, x)
            for attention, feed_forward in block.self_attns:
                x = attention(x) + x
                x = feed_forward(x) + x
        features: Tensor = self.norm(x.mean(dim=1))  # (B, C)
        return features


def _positions(side: int) -> Tensor:
    """Fourier features (S * S, 2 (2 BANDS + 1)) of the patches' positions."""
    axis = torch.linspace(-1, 1, side)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)  # (S, S, 2)
    encoded: Tensor = fourier_encode(grid, max_freq=float(side), num_bands=BANDS)
    return encoded.reshape(side * side, -1)


def perceiver(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver of depth 2 with 32 latents; width 64 gives them 256 channels."""
    return Perceiver(width, stem, image_size)
