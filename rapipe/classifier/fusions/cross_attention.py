"""Cross-attention from a backbone's tokens to their neighbours.

Letters: B batch, T tokens, C channels, K neighbours, D embedding, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.fusions.base import Fusion
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import FusionSpec

ATTENTION_HEADS = 4
"""Fewer where channels cannot be split among as many."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: (B, H, T, C), (B, H, K, C), (B, H, K, C) -> (B, H, T, C).

    Spelled out on a CPU, where torch's fused kernel is 5 to 12 times slower for so few channels.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v)
    scaled = q * q.shape[-1] ** -0.5  # of q, which is smaller than the weights
    values: Tensor = (scaled @ k.mT).softmax(dim=-1) @ v
    return values


class CrossAttention(Fusion):
    """Pre-norm multi-head cross-attention to the neighbours, added to the tokens.

    Neighbours are a set: their order plays no part. With the output projection
    at zero, or no neighbours present, tokens pass unchanged.

    `attend` says what keys and values are made of: `embedding` (the vector), `label` (a
    learned vector for the class; zero if it has none) or `both`. With a `gate` there is a
    learned key beside the neighbours whose value is zero, so that a token that finds none of
    them worth reading reads nothing (`add_zero_attn` of torch's attention, with a key that is
    learned).

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Jaegle et al., "Perceiver:
    General Perception with Iterative Attention", ICML 2021.
    """

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.attend = spec.attend
        self.heads = math.gcd(channels, ATTENTION_HEADS)
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        if self.attend != "label":
            self.embedding = nn.Sequential(nn.LayerNorm(dimension), nn.Linear(dimension, channels))
        if self.attend != "embedding":
            self.label = nn.Embedding(classes + 1, channels, padding_idx=classes)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.nothing = nn.Parameter(torch.zeros(channels)) if spec.gate else None

    def forward(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        b, t, c = tokens.shape
        values = attention(*self._projections(tokens, neighbours))  # (B, H, T, C/H)
        update = self.out(values.transpose(1, 2).reshape(b, t, c))  # (B, T, C)
        fused: Tensor = tokens + update * neighbours.present[:, None, None]
        return fused

    def weights(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """How much each head attends from each token to each neighbour: (B, H, T, K).

        Rows sum to 1, or to less where a gate takes the rest. They are zero where no neighbours
        are present.
        """
        q, k, _ = self._projections(tokens, neighbours)
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)  # (B, H, T, K) or K + 1
        of_neighbours: Tensor = weights[..., : neighbours.labels.shape[1]]
        return of_neighbours * neighbours.present[:, None, None, None]

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Keys and values: (..., 2C)."""
        terms = []
        if self.attend != "label":
            terms.append(self.embedding(vectors))
        if self.attend != "embedding":
            unlabelled = torch.full_like(labels, self.label.num_embeddings - 1)
            terms.append(self.label(torch.where(labels < 0, unlabelled, labels)))
        projected: Tensor = self.key_value(sum(terms[1:], terms[0]))
        return projected

    def _projections(
        self, tokens: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, C/H), and keys and values (B, H, K, C/H), or K + 1 with a gate."""
        q = self._split(self.query(self.norm(tokens)))
        key_values = neighbours.projected_by(self.project)  # (B, K, 2C)
        if self.nothing is not None:
            b, _, c = tokens.shape
            nothing = F.pad(self.nothing, (0, c)).expand(b, 1, 2 * c)
            key_values = torch.cat([key_values, nothing], dim=1)
        k, v = map(self._split, key_values.chunk(2, dim=-1))
        return q, k, v

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, C/H)."""
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)
