"""Cross-attention from a backbone's tokens to retrieved neighbours.

Letters: B batch, T tokens, C channels, K neighbours, D embedding, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.neighbour_batch import NeighbourBatch

ATTENTION_HEADS = 4
"""Of attention; fewer where channels cannot be split among as many."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: (B, H, T, C), (B, H, K, C), (B, H, K, C) -> (B, H, T, C).

    Spelled out on a CPU, where torch's fused kernel is 5 to 12 times slower for so few channels.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v)
    scaled = q * q.shape[-1] ** -0.5  # of q, which is smaller than the weights
    read: Tensor = (scaled @ k.mT).softmax(dim=-1) @ v
    return read


class CrossAttention(nn.Module):
    """Pre-norm multi-head cross-attention (Vaswani et al., 2017), added to the tokens.

    Neighbours are a set: their order plays no part. With the output projection
    at zero, or no neighbours present, tokens pass unchanged.

    Args:
        channels: C of the tokens.
        dimension: D of the neighbours' vectors.
        classes: number of classes that a neighbour's label may have.
        attend: what keys and values are made of: `embedding` (the vector),
            `label` (a learned vector for the class; zero if it has none) or `both`.
        gate: beside the neighbours there is a learned key whose value is zero, so that a token
            that finds none of them worth reading reads nothing (`add_zero_attn` of torch's
            attention, with a key that is learned).
    """

    def __init__(
        self, channels: int, dimension: int, classes: int, attend: str, gate: bool = False
    ) -> None:
        super().__init__()
        self.attend = attend
        self.heads = math.gcd(channels, ATTENTION_HEADS)
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        if attend != "label":
            self.embedding = nn.Sequential(nn.LayerNorm(dimension), nn.Linear(dimension, channels))
        if attend != "embedding":
            self.label = nn.Embedding(classes + 1, channels, padding_idx=classes)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.nothing = nn.Parameter(torch.zeros(channels)) if gate else None

    def forward(self, tokens: Tensor, retrieved: NeighbourBatch) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        b, t, c = tokens.shape
        read = attention(*self._projected(tokens, retrieved))  # (B, H, T, C/H)
        added = self.out(read.transpose(1, 2).reshape(b, t, c))  # (B, T, C)
        fused: Tensor = tokens + added * retrieved.present[:, None, None]
        return fused

    def weights(self, tokens: Tensor, retrieved: NeighbourBatch) -> Tensor:
        """How much the tokens attend to each neighbour (B, K): mean over heads and tokens.

        They sum to 1, or to less where a gate takes the rest. All zero where no neighbours are
        present.
        """
        q, k, _ = self._projected(tokens, retrieved)
        shares = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)  # (B, H, T, K) or K + 1
        shares = shares[..., : retrieved.labels.shape[1]]
        mean: Tensor = shares.mean(dim=(1, 2)) * retrieved.present[:, None]
        return mean

    def _projected(
        self, tokens: Tensor, retrieved: NeighbourBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, C/H), and keys and values (B, H, K, C/H), or K + 1 with a gate."""
        q = self._split(self.query(self.norm(tokens)))
        projected = self.key_value(self._memory(retrieved))  # (B, K, 2C)
        if self.nothing is not None:
            b, _, c = tokens.shape
            none = F.pad(self.nothing, (0, c)).expand(b, 1, 2 * c)
            projected = torch.cat([projected, none], dim=1)
        k, v = map(self._split, projected.chunk(2, dim=-1))
        return q, k, v

    def _memory(self, retrieved: NeighbourBatch) -> Tensor:
        """What can be attended to: (B, K, C)."""
        parts = []
        if self.attend != "label":
            parts.append(self.embedding(retrieved.vectors))
        if self.attend != "embedding":
            labels = retrieved.labels
            none = torch.full_like(labels, self.label.num_embeddings - 1)
            parts.append(self.label(torch.where(labels < 0, none, labels)))
        memory: Tensor = sum(parts[1:], parts[0])
        return memory

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, C/H)."""
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)
