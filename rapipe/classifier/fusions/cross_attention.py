"""Cross-attention from a backbone's tokens to their neighbours.

Letters: B batch, T tokens, C channels, K neighbours, D embedding, H heads, L classes and none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.fusions.base import TokenFusion
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import FusionSpec

ATTENTION_HEADS = 4
"""Fewer where channels cannot be split among as many."""


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: (B, H, T, C), (B, H, K, C), (B, H, K, C) -> (B, H, T, C).

    A bias (B, H, 1, K) is added to the scores. Spelled out on a CPU, where torch's fused kernel is
    5 to 12 times slower for so few channels.
    """
    if q.is_cuda:
        mask = None if bias is None else bias.to(q.dtype).expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, mask)
    scaled = q * q.shape[-1] ** -0.5  # of q, which is smaller than the weights
    scores = scaled @ k.mT
    values: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1) @ v
    return values


class CrossAttention(TokenFusion):
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
        self.dimension = dimension if self.attend != "label" else 0
        self.contexts = 1 if self.attend == "embedding" else classes + 1
        self.heads = math.gcd(channels, ATTENTION_HEADS)
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        if self.attend != "label":
            self.embedding = nn.Linear(dimension, channels)
        if self.attend != "embedding":
            self.label = nn.Embedding(classes + 1, channels, padding_idx=classes)
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.nothing = nn.Parameter(torch.zeros(channels)) if self.abstains(spec) else None

    @classmethod
    def abstains(cls, spec: FusionSpec) -> bool:
        return spec.gate or cls.always_abstains

    def forward(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        b, t, c = tokens.shape
        if self.training and self._projecting_is_dearer(b, t, neighbours.labels.shape[1]):
            values = self._values_by_vectors(tokens, neighbours)  # (B, H, T, C/H)
        else:  # always in a prediction: that of an image is the same, whatever it is asked with
            values = attention(*self._projections(tokens, neighbours), self._bias(neighbours))
        update = self.out(values.transpose(1, 2).reshape(b, t, c))  # (B, T, C)
        fused: Tensor = tokens + update * neighbours.present[:, None, None]
        return fused

    def weights(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """How much each head attends from each token to each neighbour: (B, H, T, K).

        Rows sum to 1, or to less where a gate takes the rest. They are zero where no neighbours
        are present.
        """
        q, k, _ = self._projections(tokens, neighbours)
        scores = q * q.shape[-1] ** -0.5 @ k.mT  # (B, H, T, K) or K + 1
        bias = self._bias(neighbours)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        of_neighbours: Tensor = weights[..., : neighbours.labels.shape[1]]
        return of_neighbours * neighbours.present[:, None, None, None]

    def bias(self, neighbours: NeighbourBatch) -> Tensor | None:
        """What is added to the scores of neighbours, (B, H, K)."""
        return None

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Keys and values: (..., 2C)."""
        terms = []
        if self.attend != "label":
            terms.append(self.embedding(vectors))
        if self.attend != "embedding":
            terms.append(self.label(self._rows(labels)))
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

    def _bias(self, neighbours: NeighbourBatch) -> Tensor | None:
        """The same for all tokens, (B, H, 1, K), or K + 1 with a gate, whose own is 0."""
        bias = self.bias(neighbours)
        if bias is not None:
            bias = (bias if self.nothing is None else F.pad(bias, (0, 1)))[:, :, None]
        return bias

    def _projecting_is_dearer(self, b: int, t: int, k: int) -> bool:
        """Whether `_values_by_vectors` is the faster way, by the multiplications of an image.

        Its products are small, and take twice the time of projections that multiply as much:
        measured with torch 2.15 on a CPU, in both precisions, with 1 to 64 tokens.
        """
        c, d = self.query.in_features, self.dimension
        projecting = k * c * (d + 2 * c) + 2 * t * k * c
        weights = 2 * c * c * d / b  # once a batch
        by_vectors = 2 * t * d * (c + self.heads * k) + 2 * t * c * self.contexts + weights
        return 2 * by_vectors < projecting

    def _values_by_vectors(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """What attention reads, (B, H, T, C/H), without a projection of any neighbour.

        Keys and values are linear in a neighbour's vector x: with q a query, and W all that is
        between x and its key, q (W x) = (q W) x. So queries are brought into the space of the
        vectors, and what they read there is brought back. What a label, or a bias, adds is the
        same for all neighbours of a class, and is looked up.
        """
        (b, t, c), h, k = tokens.shape, self.heads, neighbours.labels.shape[1]
        q = self.query(self.norm(tokens)).view(b * t, h, c // h) * (c // h) ** -0.5
        q = q.transpose(0, 1)  # (H, B*T, C/H)
        to_context = self.key_value(self._contexts()).view(-1, 2, h, c // h)  # (L, 2, H, C/H)
        context_keys, context_values = to_context.permute(1, 2, 0, 3)  # (H, L, C/H)
        scores: list[Tensor] = []  # (B, H, T, K) each
        if self.dimension:
            weight = self.key_value.weight @ self.embedding.weight  # (2C, D)
            to_key, to_value = weight.view(2, h, c // h, self.dimension)
            probes = self._by_image(q @ to_key, b)  # (B, H, T, D)
            vectors = neighbours.vectors.to(probes.dtype)  # once, in autocast too
            scores.append((probes.flatten(1, 2) @ vectors.mT).view(b, h, t, k))
        if self.contexts > 1:
            rows = self._rows(neighbours.labels)[:, None, None].expand(b, h, t, k)
            scores.append(self._by_image(q @ context_keys.mT, b).gather(-1, rows))
        bias = self.bias(neighbours)
        if bias is not None:
            scores.append(bias[:, :, None])
        weights = sum(scores[1:], scores[0])
        if self.nothing is not None:
            nothing = self.nothing.view(h, 1, c // h)
            if self.contexts == 1:  # which every other score is lower by
                nothing = nothing - context_keys
            weights = torch.cat([weights, self._by_image(q @ nothing.mT, b)], dim=-1)
        weights = weights.softmax(dim=-1)[..., :k]
        if self.contexts > 1:
            shares = weights.new_zeros(b, h, t, self.contexts).scatter_add(-1, rows, weights)
            read: Tensor = shares @ context_values.to(shares.dtype)  # (B, H, T, C/H)
        else:
            read = context_values[:, 0, None]
            if self.nothing is not None:
                read = read * weights.sum(dim=-1, keepdim=True)
        if self.dimension:
            mean = (weights.flatten(1, 2) @ vectors).view(b, h, t, -1)
            mean = mean.transpose(0, 1).reshape(h, b * t, -1)  # (H, B*T, D)
            read = read + self._by_image(mean @ to_value.mT, b)
        return read

    def _contexts(self) -> Tensor:
        """What neighbours have beside their vectors, (L, C): by label, or the same for all."""
        terms = []
        if self.attend != "label":
            terms.append(self.embedding.bias[None])
        if self.attend != "embedding":
            terms.append(F.pad(self.label.weight[:-1], (0, 0, 0, 1)))  # none: zeros that stay
        contexts: Tensor = sum(terms[1:], terms[0])
        return contexts

    def _rows(self, labels: Tensor) -> Tensor:
        """The row of `_contexts` of each label, -1 included."""
        rows: Tensor = torch.where(labels < 0, self.contexts - 1, labels)
        return rows

    @staticmethod
    def _by_image(x: Tensor, b: int) -> Tensor:
        """(H, B*T, N) -> (B, H, T, N)."""
        h, _, n = x.shape
        return x.view(h, b, -1, n).transpose(0, 1)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, C/H)."""
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)
