"""Perceivers (Jaegle et al., ICML 2021) of perceiver-pytorch's layers.

Latents attend to the image and then to themselves, `DEPTH` times; neighbours
enter after every attention to the image. `perceiver` is the network of this
project's first studies. The sizes m, l and xl double their channels from one to
the next, and their self-attention is twice as wide as that of `perceiver`
(eight heads in place of four), so no two names make the same network.

Letters: B batch, T patches, L latents, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from perceiver_pytorch import PerceiverBlock
from torch import Tensor, nn

from rapipe.encoder.backbones.base import Backbone, Fuse, no_fusion
from rapipe.encoder.backbones.patches import Patches

DEPTH = 2
LATENTS = 32
SELF_ATTENTIONS = 1


class Perceiver(Backbone):
    """A Perceiver whose result is the mean of its latents.

    Args:
        channels: C of the latents, a multiple of 4.
        heads: of the self-attention, C / 4 wide each.
        stem: sets the side of the patches: `cifar` 1, `half` 2, `imagenet` 4.
        image_size: side of the images in pixels.
    """

    branches = True

    def __init__(self, channels: int, heads: int, stem: str, image_size: int) -> None:
        super().__init__()
        self.patches = Patches(stem, image_size)
        self.latents = nn.Parameter(torch.randn(LATENTS, channels) * 0.02)
        self.blocks = nn.ModuleList(
            PerceiverBlock(
                dim=channels,
                context_dim=self.patches.features,
                cross_heads=1,
                cross_dim_head=channels,
                latent_heads=heads,
                latent_dim_head=channels // 4,
                self_per_cross_attn=SELF_ATTENTIONS,
            )
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(channels)
        self.widths = (channels,) * DEPTH
        self.features = channels

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        context = self.patches(images)  # (B, T, patches.features)
        x = self.latents.expand(len(images), -1, -1)  # (B, L, C)
        for stage in range(DEPTH):
            block: Any = self.blocks[stage]
            if len(context) < len(x):  # which has branched
                context = context.repeat(len(x) // len(context), 1, 1)
            x = block.cross_attn(x, context=context) + x
            x = block.cross_ff(x) + x
            x = fuse(stage, x)
            for attention, feed_forward in block.self_attns:
                x = attention(x) + x
                x = feed_forward(x) + x
        features: Tensor = self.norm(x.mean(dim=1))  # (B, C)
        return features


def perceiver(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver of depth 2 with 32 latents; width 64 gives them 256 channels.

    Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021.
    """
    return Perceiver(4 * width, 4, stem, image_size)


def perceiver_m(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver with latents of 1 * width channels and 8 heads; 0.29 million weights at width 64.

    Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021.
    """
    return Perceiver(width, 8, stem, image_size)


def perceiver_l(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver with latents of 2 * width channels and 8 heads; 1.1 million weights at width 64.

    Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021.
    """
    return Perceiver(2 * width, 8, stem, image_size)


def perceiver_xl(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver with latents of 4 * width channels and 8 heads; 4.5 million weights at width 64.

    Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021.
    """
    return Perceiver(4 * width, 8, stem, image_size)
