"""The neighbours' vote and the network as two witnesses, of whom one is trusted by the case.

Letters: B batch, F features, K neighbours, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

FACTS, HIDDEN = 8, 16
"""What trust is decided by, and units of the hidden layer."""


class Trust(LateFusion):
    """logits + w log(vote), a product of experts; w depends on how far the vote is to be trusted.

    The vote is a softmax over similarities with a learned temperature, by class, with one vote
    more for each class, so that none is impossible. w is a small network of eight facts: how near
    the neighbours are (the largest and the mean similarity), how far they agree (the vote's
    largest share, the entropy of their classes), how sure the network is (its largest probability,
    its entropy), and whether the two say the same (the vote for what the network predicts, the
    product of both). It sees no features, so that it cannot learn which training images to trust
    by heart, and what the network says of itself has no gradient: the network does not learn to
    look sure. What it needs to learn from are neighbours that deserve no trust, which
    `query_noise` shows it.

    Source: this project; the product of experts is Hinton's, "Training Products of Experts by
    Minimizing Contrastive Divergence", Neural Computation 2002.
    """

    inputs = SEES_VOTES
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.weight = nn.Sequential(nn.Linear(FACTS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        weights, trust = self._trusted(logits, neighbours)
        labels, k = neighbours.labels, neighbours.labels.shape[1]
        vote = sum_by_class(weights, labels, self.classes)  # (B, L)
        smoothed = (k * vote + 1) / (k + self.classes)
        return logits + trust * smoothed.log(), (labels >= 0).any(dim=1)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Of 1, the network's own weight, and that of the vote."""
        weights, trust = self._trusted(logits, neighbours)
        return weights * trust / (1 + trust)

    def _trusted(self, logits: Tensor, neighbours: NeighbourBatch) -> tuple[Tensor, Tensor]:
        """Weights of neighbours in the vote (B, K), and that of the vote (B, 1)."""
        similarities, labels = similarities_of(neighbours), neighbours.labels
        weights = labelled_weights(similarities * self.log_scale.exp(), labels)
        vote = sum_by_class(weights, labels, self.classes)
        counts = sum_by_class((labels >= 0).float(), labels, self.classes) / labels.shape[1]
        probabilities = logits.detach().softmax(dim=-1)
        predicted = probabilities.argmax(dim=1, keepdim=True)
        facts = (
            similarities.amax(dim=1),
            similarities.mean(dim=1),
            vote.amax(dim=1),
            _entropy(counts),
            probabilities.amax(dim=1),
            _entropy(probabilities),
            vote.gather(1, predicted)[:, 0],
            (probabilities * vote).sum(dim=1),
        )
        return weights, F.softplus(self.weight(torch.stack(facts, dim=1)).float())


def _entropy(shares: Tensor) -> Tensor:
    """In nats, (B, L) -> (B,); no gradient is infinite."""
    entropy: Tensor = torch.special.entr(shares.clamp_min(MIN_PROBABILITY)).sum(dim=1)
    return entropy
