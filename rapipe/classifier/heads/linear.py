"""A linear layer on the backbone's features: the least that a head can be.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.classifier.heads.base import Head


class Linear(nn.Linear, Head):
    """One linear layer on the backbone's features.

    Source: Cox, "The Regression Analysis of Binary Sequences", J. R. Stat. Soc. B 1958.
    """

    wants_tokens = False

    def __init__(self, channels: int, features: int, classes: int) -> None:
        super().__init__(features, classes)

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        return super().forward(features)
