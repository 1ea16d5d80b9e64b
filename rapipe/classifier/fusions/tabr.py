"""Neighbours near the image in a learned space, each a class and a correction by the difference.

Letters: B batch, F features, K neighbours, D embedding, P projection, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.fusions.base import LateFusion
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import LABELS, VECTORS, FusionSpec

PROJECTED = 64
"""P, dimensions of keys and values."""


class TabR(LateFusion):
    """Softmax of -||k - k_i||^2 over values: embedding of the class, plus T(k - k_i).

    k is made of the image's features, k_i of a neighbour's vector, by learned layers; T has one
    hidden layer. What is read is added to the logits by a linear layer, which is to a linear head
    what adding it to the features is, as the paper does.

    Source: Gorishniy et al., "TabR: Tabular Deep Learning Meets Nearest Neighbors", ICLR 2024.
    """

    inputs = frozenset({VECTORS, LABELS})

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, PROJECTED))
        self.key = nn.Linear(dimension, PROJECTED)
        self.label = nn.Embedding(classes + 1, PROJECTED, padding_idx=classes)
        self.hidden = nn.Linear(PROJECTED, PROJECTED)
        self.correction = nn.Linear(PROJECTED, PROJECTED, bias=False)
        self.out = nn.Linear(PROJECTED, classes)

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Keys: (..., P)."""
        keys: Tensor = self.key(vectors)
        return keys

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        differences = self._differences(features, neighbours)  # (B, K, P)
        weights = self._weights(differences)[:, None]  # (B, 1, K)
        labels = neighbours.labels
        classes = self.label(torch.where(labels < 0, self.label.num_embeddings - 1, labels))
        # T's last layer is linear, so it is applied to the mean
        hidden = (weights @ F.relu(self.hidden(differences)).float())[:, 0]  # (B, P)
        read = (weights @ classes)[:, 0] + self.correction(hidden)
        return logits + self.out(read), torch.ones_like(labels[:, 0], dtype=torch.bool)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        return self._weights(self._differences(features, neighbours))

    def _differences(self, features: Tensor, neighbours: NeighbourBatch) -> Tensor:
        keys = neighbours.projected_by(self.project).float()
        query: Tensor = self.query(features).float()
        return query[:, None] - keys

    @staticmethod
    def _weights(differences: Tensor) -> Tensor:
        return (-differences.square().sum(dim=-1)).softmax(dim=-1)
