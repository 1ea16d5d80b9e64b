"""A soft vote by a distance that is learned with the network.

Letters: B batch, F features, K neighbours, D embedding, P projection, L classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.classifier.fusions.base import LateFusion, labelled_weights, sum_by_class
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.metrics import MIN_PROBABILITY
from rapipe.specs import LABELS, VECTORS, FusionSpec

PROJECTED = 64
"""P, dimensions in which distances are measured."""


class ModernNca(LateFusion):
    """Neighbours vote by exp(-distance) to the image, both projected by learned layers.

    The image is its features, as the network learns them; a neighbour is its vector. With the
    strategy `sampled` the bank is sampled anew for each image, though not for each step, as in
    the paper. What the head says is not asked where neighbours are present.

    Source: Ye et al., "Revisiting Nearest Neighbor for Tabular Data: A Deep Tabular Baseline Two
    Decades Later", ICLR 2025.
    """

    inputs = frozenset({VECTORS, LABELS})

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, PROJECTED))
        self.key = nn.Linear(dimension, PROJECTED)

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Keys: (..., P)."""
        keys: Tensor = self.key(vectors)
        return keys

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        weights = self.shares(features, logits, neighbours)
        vote = sum_by_class(weights, neighbours.labels, self.classes)
        return vote.clamp_min(MIN_PROBABILITY).log(), (neighbours.labels >= 0).any(dim=1)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        keys = neighbours.projected_by(self.project).float()  # (B, K, P)
        differences = self.query(features).float()[:, None] - keys
        distances = (differences.square().sum(dim=-1) + MIN_PROBABILITY).sqrt()  # (B, K)
        return labelled_weights(-distances, neighbours.labels)
