"""Three witnesses of an image's class, each trusted by the case.

They are the network, the classes of the neighbours, and the vectors of the neighbours.

Letters: B batch, F features, D embedding, K neighbours, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.fusions.base import SEES_ALL, ApartFusion, similarities_of, sum_by_class
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.metrics import MIN_PROBABILITY
from rapipe.specs import FusionSpec

FACTS, HIDDEN = 9, 16
"""What trust is decided by, and units of the hidden layer."""
DECAY = 0.001
"""Weight of half of the sum of squares of all that is not read, beside mean cross-entropies."""
READING_STD = 0.5
"""Of the logits that are read, before anything is known: a normal prior of the weights, by which
long vectors of few images are not learned by heart."""


class Correction(nn.Module):
    """Logits (B, L) -> (B, L): logits + w affine(log probabilities), without any neighbours.

    w, above zero, is what a small network makes of how sure the logits are (their largest
    probability, their entropy): what is fitted to noisy copies corrects what noise does to a
    network's answers, such as a class that it takes all for.

    Source: this project; of one weight alone it is the matrix scaling of Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017, beside the logits themselves.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.affine = nn.Linear(classes, classes)
        self.weight = nn.Sequential(nn.Linear(2, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def forward(self, logits: Tensor) -> Tensor:
        shares = logits.softmax(dim=1)
        weight = F.softplus(self.weight(torch.stack([shares.amax(dim=1), _entropy(shares)], dim=1)))
        corrected: Tensor = logits + weight * self.affine(logits.log_softmax(dim=1))
        return corrected


class Trust(ApartFusion):
    """alone + w log(1 + K vote) + v read(mean vector), a product of experts; w and v by the case.

    `alone` is what the network says, corrected for what noise does to it: all that remains where
    there are no neighbours. Vote and mean weigh neighbours by a softmax over similarities with a
    learned temperature. Each class has one vote more, so that none is impossible; `read` is a
    linear classifier. w and v are what a small network makes of nine facts: how near the neighbours
    are (the largest and the mean similarity), how far they agree (the vote's largest share, its
    entropy), how sure the network and the reading are (their largest probabilities, the network's
    entropy), and whether they say the same (the products of the network's probabilities with the
    vote and with the reading). It sees no features, so that it cannot learn by heart which training
    images to trust, and beside a network that learns facts have no gradient. No fact jumps where
    another class becomes the likeliest, so that all that it says can be attributed.

    The network learns apart, what it would learn without neighbours. When it has, all the rest is
    fitted to what it predicts for the training images, and for noisy copies of them beside the
    copies' own neighbours (`query_noise`): so it is learned whom to trust where all are less right.
    The reading has a prior (ridge): of vectors of 1,280 dimensions, fitted to 18,000 rows without
    one, it cost three points on clean images.
    `alone` has a loss of its own: it is as good as it can be without neighbours.

    Source: this project; the product of experts is Hinton's, "Training Products of Experts by
    Minimizing Contrastive Divergence", Neural Computation 2002; fitting the second level to a
    first that has learned is Wolpert's, "Stacked Generalization", Neural Networks 1992.
    """

    inputs = SEES_ALL
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.classes = classes
        self.correction = Correction(classes)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.read = nn.Linear(dimension, classes)
        self.weight = nn.Sequential(nn.Linear(FACTS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """What is read from each: (..., L)."""
        read: Tensor = self.read(vectors)
        return read

    def alone(self, logits: Tensor) -> Tensor:
        corrected: Tensor = self.correction(logits.float())
        return corrected.to(logits.dtype)

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        weights, near, vote, evidence = self._votes(neighbours)
        reading = self._reading(weights, neighbours)
        fused = self._fused(logits, near, vote, evidence, reading)
        return fused, torch.ones_like(neighbours.present)

    def digest(self, neighbours: NeighbourBatch) -> tuple[Tensor, ...]:
        weights, near, vote, evidence = self._votes(neighbours)
        return near, vote, evidence, self._mean(weights, neighbours)

    def judge(self, logits: Tensor, *digest: Tensor) -> Tensor:
        near, vote, evidence, mean = digest
        return self._fused(logits, near, vote, evidence, self.read(mean))

    def judges(self, count: int) -> list[tuple[float, nn.Parameter]]:
        prior = self.read.in_features / (READING_STD**2 * count)  # vectors are standardised
        decays = (self.correction, DECAY), (self.weight, DECAY), (self.read, prior)
        return [(decay, parameter) for part, decay in decays for parameter in part.parameters()]

    def begin_anew(self) -> None:
        for part in (*self.correction.modules(), *self.weight.modules()):
            if isinstance(part, nn.Linear):
                part.reset_parameters()
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Of 1, the network's own weight, and those of the two that know the neighbours."""
        weights, near, vote, _ = self._votes(neighbours)
        trust = self._trust(logits, near, vote, self._reading(weights, neighbours))
        total = trust.sum(dim=1, keepdim=True)
        return weights * total / (1 + total)

    def _votes(self, neighbours: NeighbourBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of neighbours (B, K), how near they are (B, 2), their vote and its log (B, L).

        Neighbours without a class have a part in the reading, and none in the vote.
        """
        similarities, labels = similarities_of(neighbours), neighbours.labels
        weights = (similarities * self.log_scale.exp()).softmax(dim=1)
        vote = sum_by_class(weights, labels, self.classes)
        near = torch.stack([similarities.amax(dim=1), similarities.mean(dim=1)], dim=1)
        return weights, near, vote, (labels.shape[1] * vote).log1p()

    def _reading(self, weights: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """What is read from the mean of the vectors: (B, L)."""
        if self.training:
            reading: Tensor = self.read(self._mean(weights, neighbours))
        else:  # linear, so that is the same; each row of a bank is read once
            reading = (weights[:, None] @ neighbours.projected_by(self.project))[:, 0]
        return reading.float()

    def _mean(self, weights: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Of the vectors, by these weights: (B, D)."""
        return (weights[:, None] @ neighbours.vectors.to(weights.dtype))[:, 0]

    def _fused(
        self, logits: Tensor, near: Tensor, vote: Tensor, evidence: Tensor, reading: Tensor
    ) -> Tensor:
        """The product of the three: (B, L)."""
        trust = self._trust(logits, near, vote, reading)
        return logits + trust[:, :1] * evidence + trust[:, 1:] * reading

    def _trust(self, logits: Tensor, near: Tensor, vote: Tensor, reading: Tensor) -> Tensor:
        """Trust in the vote and in the reading: (B, 2)."""
        parts = near, logits, vote, reading
        facts = _facts(*(part.detach() for part in parts) if self.training else parts)
        return F.softplus(self.weight(facts).float())


def _facts(near: Tensor, logits: Tensor, vote: Tensor, reading: Tensor) -> Tensor:
    """What trust is decided by, (B, FACTS)."""
    says, reads = logits.softmax(dim=1), reading.softmax(dim=1)
    facts = (
        *near.unbind(dim=1),
        *(vote.amax(dim=1), _entropy(vote)),
        *(says.amax(dim=1), _entropy(says), reads.amax(dim=1)),
        *((says * vote).sum(dim=1), (says * reads).sum(dim=1)),
    )
    return torch.stack(facts, dim=1)


def _entropy(shares: Tensor) -> Tensor:
    """In nats, (B, L) -> (B,)."""
    entropy: Tensor = torch.special.entr(shares.clamp_min(MIN_PROBABILITY)).sum(dim=1)
    return entropy
