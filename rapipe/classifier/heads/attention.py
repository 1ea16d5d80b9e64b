"""Self-attention among the tokens of an image, before they are averaged.

Letters: B batch, T tokens, C channels.
"""

from __future__ import annotations

from torch import nn

from rapipe.classifier.heads.base import TokenHead, attention_heads

BLOCKS = 2
EXPANSION = 4
"""Hidden channels of a feed-forward layer, as a multiple of C."""


class Attention(TokenHead):
    """Blocks of self-attention over the tokens of the backbone's last stage, then their mean.

    Each block is pre-norm: multi-head attention, and a feed-forward layer, both added to the
    tokens. The order of the tokens plays no part: where a token stands counts only as far as
    the backbone has written it into the token.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
    """

    def __init__(self, channels: int, features: int, classes: int) -> None:
        blocks = (
            nn.TransformerEncoderLayer(
                channels,
                attention_heads(channels),
                EXPANSION * channels,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(BLOCKS)
        )
        super().__init__(nn.Sequential(*blocks), channels, classes)
