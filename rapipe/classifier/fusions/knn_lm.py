"""A mixture of what the network says and what its neighbours vote.

Letters: B batch, F features, K neighbours, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapipe.classifier.fusions.base import (
    SEES_VOTES,
    LateFusion,
    labelled_weights,
    similarities_of,
    sum_by_class,
)
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.metrics import MIN_PROBABILITY
from rapipe.specs import FusionSpec


class KnnLm(LateFusion):
    """p = lambda p_kNN + (1 - lambda) p, with lambda from features, similarities and the vote.

    p_kNN is a softmax over the similarities of neighbours, by class; its temperature is learned.
    lambda is a logistic function of the features, of the largest and the mean similarity, and of
    the vote's largest share and its entropy.

    Source: Khandelwal et al., "Generalization through Memorization: Nearest Neighbor Language
    Models", ICLR 2020; with lambda by image as in He et al., "Efficient Nearest Neighbor Language
    Models", EMNLP 2021.
    """

    inputs = SEES_VOTES
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels + 4, 1)

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        weights, share = self._vote(features, neighbours)
        vote = sum_by_class(weights, neighbours.labels, self.classes)  # (B, L)
        mixture = share * vote + (1 - share) * logits.softmax(dim=-1)
        return mixture.clamp_min(MIN_PROBABILITY).log(), (neighbours.labels >= 0).any(dim=1)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        weights, share = self._vote(features, neighbours)
        return weights * share

    def _vote(self, features: Tensor, neighbours: NeighbourBatch) -> tuple[Tensor, Tensor]:
        """Weights of neighbours (B, K), and lambda (B, 1)."""
        similarities, labels = similarities_of(neighbours), neighbours.labels
        weights = labelled_weights(similarities * self.log_scale.exp(), labels)
        vote = sum_by_class(weights, labels, self.classes)
        facts = vote_facts(similarities, vote)  # (B, 4)
        share = self.gate(torch.cat([self.norm(features), facts], dim=1)).sigmoid()
        return weights, share


def vote_facts(similarities: Tensor, vote: Tensor) -> Tensor:
    """The largest and the mean similarity, and the vote's largest share and entropy: (B, 4)."""
    facts = (
        similarities.amax(dim=1),
        similarities.mean(dim=1),
        vote.amax(dim=1),
        torch.special.entr(vote.clamp_min(MIN_PROBABILITY)).sum(dim=1),  # steep at 0
    )
    return torch.stack(facts, dim=1)
