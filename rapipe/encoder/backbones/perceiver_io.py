"""Perceiver IO (Jaegle et al., ICLR 2022) of perceiver-pytorch's layers.

Latents attend to the image once and then to themselves, `BLOCKS` times; a
learned query reads the result from them, as in the paper's classifiers.
Neighbours enter after the attention to the image and after every block.

Letters: B batch, T patches, L latents, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from perceiver_pytorch.perceiver_pytorch import Attention, FeedForward, PreNorm
from torch import Tensor, nn

from rapipe.encoder.backbones.base import Backbone, Fuse, no_fusion
from rapipe.encoder.backbones.patches import Patches

BLOCKS = 3
LATENTS = 32
HEADS = 4


class PerceiverIO(Backbone):
    """Latents and query have 4 * `width` channels; `stem` sets the side of the patches."""

    branches = True

    def __init__(self, width: int, stem: str, image_size: int) -> None:
        super().__init__()
        channels = 4 * width
        self.patches = Patches(stem, image_size)
        self.latents = nn.Parameter(torch.randn(LATENTS, channels) * 0.02)
        self.query = nn.Parameter(torch.randn(1, channels) * 0.02)
        self.encode = _layer(channels, 1, self.patches.features)
        self.blocks = nn.ModuleList(_layer(channels, HEADS) for _ in range(BLOCKS))
        self.decode = _layer(channels, 1, channels)
        self.norm = nn.LayerNorm(channels)
        self.widths = (channels,) * (1 + BLOCKS)
        self.features = channels

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        context = self.patches(images)  # (B, T, patches.features)
        x = self.latents.expand(len(images), -1, -1)  # (B, L, C)
        x = fuse(0, _pass(self.encode, x, context=context))
        for stage, block in enumerate(self.blocks, start=1):
            x = fuse(stage, _pass(block, x))
        query = self.query.expand(len(x), -1, -1)  # (B, 1, C)
        features: Tensor = self.norm(_pass(self.decode, query, context=x).squeeze(1))  # (B, C)
        return features


def _layer(channels: int, heads: int, context: int | None = None) -> nn.Module:
    """Attention, to a context of this width or to itself, and a feed-forward network."""
    attention = Attention(channels, context, heads=heads, dim_head=channels // heads)
    return nn.ModuleList(
        (PreNorm(channels, attention, context), PreNorm(channels, FeedForward(channels)))
    )


def _pass(layer: Any, x: Tensor, **context: Tensor) -> Tensor:
    attention, feed_forward = layer
    x = attention(x, **context) + x
    out: Tensor = feed_forward(x) + x
    return out


def perceiver_io(width: int, stem: str, image_size: int) -> Backbone:
    """Perceiver IO: 32 latents see the image once, a learned query reads them.

    Source: Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs & Outputs",
    ICLR 2022.
    """
    return PerceiverIO(width, stem, image_size)
