"""Graph attention among the tokens of an image: each token is a node, joined to all others.

Letters: B batch, T tokens, C channels, H attention heads, D channels of one of them (C / H).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.heads.base import TokenHead, attention_heads

LAYERS = 2
SLOPE = 0.2
"""Of the LeakyReLU below zero, as published."""


class GraphAttention(nn.Module):
    """One layer on the complete graph, loops included, added to the tokens.

    With h_i the token i, W a matrix and a_l, a_r two vectors for each of the H heads:

        e_ij = LeakyReLU(a_l . W h_i + a_r . W h_j)
        h_i + ELU(sum over j of softmax_j(e_ij) W h_j), the heads side by side
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = attention_heads(channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.left = nn.Parameter(torch.empty(heads, channels // heads))
        self.right = nn.Parameter(torch.empty(heads, channels // heads))
        for weight in (self.project.weight, self.left, self.right):
            nn.init.xavier_uniform_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        b, t, c = tokens.shape
        nodes = self.project(tokens).view(b, t, *self.left.shape).transpose(1, 2)  # (B, H, T, D)
        left = (nodes * self.left[:, None]).sum(dim=-1)  # (B, H, T)
        right = (nodes * self.right[:, None]).sum(dim=-1)
        scores = F.leaky_relu(left[..., :, None] + right[..., None, :], SLOPE)  # (B, H, T, T)
        attended = scores.softmax(dim=-1) @ nodes  # (B, H, T, D)
        return tokens + F.elu(attended.transpose(1, 2).reshape(b, t, c))


class Graph(TokenHead):
    """Graph attention over the tokens of the backbone's last stage, then their mean.

    The graph is complete, so the order of the tokens plays no part: where a token stands
    counts only as far as the backbone has written it into the token. Two layers, as
    published, each added to the tokens; without dropout.

    Source: Velickovic et al., "Graph Attention Networks", ICLR 2018.
    """

    def __init__(self, channels: int, features: int, classes: int) -> None:
        layers = nn.Sequential(*(GraphAttention(channels) for _ in range(LAYERS)))
        super().__init__(layers, channels, classes)
