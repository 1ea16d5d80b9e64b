"""Logits of a cache, which neighbours are, added to those of the network.

Letters: B batch, F features, K neighbours, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapipe.classifier.fusions.base import SEES_VOTES, LateFusion, similarities_of, sum_by_class
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import FusionSpec

LOG_ALPHA = -2.0
"""At first; it and beta are learned."""
MOST = 10.0
"""Of the logarithm of what one neighbour adds, so that none overflows."""


class TipAdapter(LateFusion):
    """logits + alpha * the sum over neighbours of exp(-beta (1 - similarity)) for their classes.

    alpha and beta are learned with the network. Similarities are standardised, which changes the
    values of the two and nothing else. The cache is the k nearest neighbours instead of a whole
    training set of few images. Its variant that learns the keys (-F) is left out: a memory whose
    rows are weights cannot be edited without training.

    Source: Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot
    Classification", ECCV 2022.
    """

    inputs = SEES_VOTES
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.log_alpha = nn.Parameter(torch.tensor(LOG_ALPHA))
        self.log_beta = nn.Parameter(torch.zeros(()))

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        labels = neighbours.labels
        cache = sum_by_class(self._affinity(neighbours), labels, self.classes)
        return logits + cache, (labels >= 0).any(dim=1)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Of 1 and all that neighbours add: near 0 where they add little."""
        affinity = self._affinity(neighbours) * (neighbours.labels >= 0)
        return affinity / (1 + affinity.sum(dim=1, keepdim=True))

    def _affinity(self, neighbours: NeighbourBatch) -> Tensor:
        """What each neighbour adds to the logit of its class, (B, K)."""
        exponent = self.log_alpha + self.log_beta.exp() * similarities_of(neighbours)
        return exponent.clamp_max(MOST).exp()
