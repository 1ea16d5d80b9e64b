"""Three witnesses of an image's class, each trusted by the case.

They are the network, the classes of the neighbours, and the vectors of the neighbours.

Letters: B batch, F features, D embedding, K neighbours, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.fusions.base import SEES_ALL, LateFusion, similarities_of, sum_by_class
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.metrics import MIN_PROBABILITY
from rapipe.specs import FusionSpec

FACTS, HIDDEN = 10, 16
"""What trust is decided by, and units of the hidden layer."""


class Trust(LateFusion):
    """logits + w log(1 + K vote) + v read(mean vector), a product of experts; w and v by the case.

    Vote and mean weigh neighbours by a softmax over similarities with a learned temperature. Each
    class has one vote more, so that none is impossible; `read` is a linear classifier. w and v are
    what a small network makes of ten facts: how near the neighbours are (the largest and the mean
    similarity), how far they agree (the vote's largest share, its entropy), how sure the network
    and the reading are (their largest probabilities, the network's entropy), and whether they say
    the same (the vote for what the network predicts; the products of the network's probabilities
    with the vote and with the reading). It sees no features, so that it cannot learn by heart
    which training images to trust, and facts have no gradient: nobody learns to look sure. What it
    needs to learn from are neighbours that deserve no trust, which `query_noise` shows it.

    Source: this project; the product of experts is Hinton's, "Training Products of Experts by
    Minimizing Contrastive Divergence", Neural Computation 2002.
    """

    inputs = SEES_ALL
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.read = nn.Linear(dimension, classes)
        self.weight = nn.Sequential(nn.Linear(FACTS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """What is read from each: (..., L)."""
        read: Tensor = self.read(vectors)
        return read

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        _, votes, reading, trust = self._witnesses(logits, neighbours)
        fused = logits + trust[:, :1] * votes.log1p() + trust[:, 1:] * reading
        return fused, torch.ones_like(neighbours.present)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Of 1, the network's own weight, and those of the two that know the neighbours."""
        weights, *_, trust = self._witnesses(logits, neighbours)
        total = trust.sum(dim=1, keepdim=True)
        return weights * total / (1 + total)

    def _witnesses(
        self, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of neighbours (B, K), votes (B, L), a reading (B, L), and trust in both (B, 2).

        Neighbours without a class have a part in the reading, and none in the vote.
        """
        similarities, labels = similarities_of(neighbours), neighbours.labels
        weights = (similarities * self.log_scale.exp()).softmax(dim=1)
        vote = sum_by_class(weights, labels, self.classes)
        if self.training:
            reading = self.read((weights[:, None] @ neighbours.vectors.to(weights.dtype))[:, 0])
        else:  # linear, so that is the same; each row of a bank is read once
            reading = (weights[:, None] @ neighbours.projected_by(self.project))[:, 0]
        reading = reading.float()
        facts = _facts(similarities, logits.detach(), vote.detach(), reading.detach())
        return weights, labels.shape[1] * vote, reading, F.softplus(self.weight(facts).float())


@torch.no_grad()
def _facts(similarities: Tensor, logits: Tensor, vote: Tensor, reading: Tensor) -> Tensor:
    """What trust is decided by, (B, FACTS)."""
    says, reads = logits.softmax(dim=1), reading.softmax(dim=1)
    sure, predicted = says.max(dim=1)
    facts = (
        *(similarities.amax(dim=1), similarities.mean(dim=1)),
        *(vote.amax(dim=1), _entropy(vote)),
        *(sure, _entropy(says), reads.amax(dim=1)),
        vote.gather(1, predicted[:, None])[:, 0],
        *((says * vote).sum(dim=1), (says * reads).sum(dim=1)),
    )
    return torch.stack(facts, dim=1)


def _entropy(shares: Tensor) -> Tensor:
    """In nats, (B, L) -> (B,)."""
    entropy: Tensor = torch.special.entr(shares.clamp_min(MIN_PROBABILITY)).sum(dim=1)
    return entropy
