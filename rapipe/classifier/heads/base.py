"""What every head is: a backbone's features or tokens -> logits.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

MAX_ATTENTION_HEADS = 4


class Head(nn.Module):
    """Base class.

    Attributes:
        wants_tokens: whether it reads the tokens of the backbone's last stage, after the
            fusion there; else it reads the features.
        normalises: whether features of any scale are the same to it.
    """

    wants_tokens: bool
    normalises: bool = False

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Features (B, F), and tokens (B, T, C) for a head that wants them -> logits (B, classes).

        Raises:
            ValueError: the head wants tokens and there are none.
        """
        raise NotImplementedError


class TokenHead(Head):
    """Base class: layers over the tokens, their mean, a norm, and a linear layer.

    The features play no part, so what a backbone does behind its last stage is not
    trained. A layer maps (B, T, C) to (B, T, C).
    """

    wants_tokens = True

    def __init__(self, layers: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = layers
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, classes)

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        if tokens is None:
            raise ValueError("this head reads tokens, and got none")
        pooled = self.layers(tokens).mean(dim=1)  # (B, C)
        logits: Tensor = self.out(self.norm(pooled))
        return logits


def attention_heads(channels: int) -> int:
    """Number of attention heads that divides `channels`: at most 4."""
    return math.gcd(channels, MAX_ATTENTION_HEADS)
