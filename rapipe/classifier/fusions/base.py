"""What every fusion is: what a network knows of an image, and its neighbours -> the same with them.

Some change a backbone's tokens, and the head reads these. Others change what the head says.

Letters: B batch, T tokens, C channels, F features, K neighbours, D embedding, H heads,
P projection, L classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import LABELS, SIMILARITIES, VECTORS, FusionSpec

OF_ATTEND = {"embedding": {VECTORS}, "label": {LABELS}, "both": {VECTORS, LABELS}}
"""What neighbours are, by `FusionSpec.attend`."""


class Fusion(nn.Module):
    """Base class.

    Args:
        channels: C of the tokens, or F of the features.
        dimension: D of the neighbours' vectors.
        classes: L, number of classes that a neighbour's label may have.
        spec: its knobs.
    """

    inputs: ClassVar[frozenset[str]] = frozenset()
    """What it sees of neighbours, whatever `attend` says; empty: what `attend` says."""
    late: ClassVar[bool] = False
    """Whether it changes what the head says."""
    always_abstains: ClassVar[bool] = False
    """Whether it may give neighbours less than all weight, whatever `gate` says."""

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__()

    @classmethod
    def inputs_of(cls, spec: FusionSpec) -> frozenset[str]:
        """What it sees of neighbours: of `VECTORS`, `LABELS` and `SIMILARITIES`."""
        return cls.inputs or frozenset(OF_ATTEND[spec.attend])

    @classmethod
    def abstains(cls, spec: FusionSpec) -> bool:
        """Whether the shares of an image's neighbours may sum to less than 1."""
        return cls.always_abstains

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """What there is to see of neighbours, each by itself: (..., D) and (...) -> (..., P).

        A prediction asks it once for each row of a bank, and looks the rest up. Of a fusion that
        sees no vectors it is never asked.
        """
        raise NotImplementedError


class TokenFusion(Fusion):
    """Tokens and their neighbours -> tokens that know their neighbours."""

    def forward(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C); those of an image without neighbours stay as they are."""
        raise NotImplementedError

    def weights(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """How much each head attends from each token (B, T, C) to each neighbour: (B, H, T, K).

        Rows sum to at most 1, and are zero where no neighbours are present.
        """
        raise NotImplementedError


class LateFusion(Fusion):
    """Features and logits of an image, and its neighbours -> its logits."""

    late = True

    def forward(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Logits (B, L), of features (B, F) -> (B, L).

        Those of an image without neighbours, or with none that it can use, are `alone` of them.
        """
        alone = self.alone(logits)
        fused, usable = self.fuse(features.float(), alone.float(), neighbours)
        usable = usable & neighbours.present
        return torch.where(usable[:, None], fused.to(logits.dtype), alone)

    def alone(self, logits: Tensor) -> Tensor:
        """What it makes of logits (B, L) without neighbours: (B, L), the same unless it learned."""
        return logits

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        """The same for images whose neighbours are all present; and which images can use any.

        Of logits as `alone` gives them.
        """
        raise NotImplementedError

    def weights(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """The share that each neighbour has in a prediction: (B, 1, 1, K).

        Rows sum to at most 1, and are zero where no neighbours are present.
        """
        logits = self.alone(logits).float()
        shares = self.shares(features.float(), logits, neighbours)  # (B, K)
        return (shares * neighbours.present[:, None])[:, None, None]

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """The same for images whose neighbours are all present, (B, K)."""
        raise NotImplementedError


class ApartFusion(LateFusion):
    """One that gives the network no gradient: that learns what it would without neighbours.

    It learns beside the network, and once more, by `rapipe.classifier.stacking`, when the network
    has learned all. It sees no features, and dropout does nothing.
    """

    def digest(self, neighbours: NeighbourBatch) -> tuple[Tensor, ...]:
        """What it makes of neighbours, whatever the network says; each with B rows."""
        raise NotImplementedError

    def judge(self, logits: Tensor, *digest: Tensor) -> Tensor:
        """Logits (B, L) as `alone` gives them, and what `digest` gave -> those of `fuse` (B, L)."""
        raise NotImplementedError

    def judges(self, count: int) -> list[tuple[float, nn.Parameter]]:
        """The parameters that `alone` and `judge` have a use for, where they are fitted to rows.

        Each behind the weight of half of the sum of its squares, beside a mean over the rows.
        """
        raise NotImplementedError

    def begin_anew(self) -> None:
        """Give these the values that they begin with: drawn, where they are."""
        raise NotImplementedError


def labelled_weights(scores: Tensor, labels: Tensor) -> Tensor:
    """Softmax of scores (B, K) among neighbours with a class; zeros where no neighbour has one."""
    hidden = labels < 0
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(hidden, 0)


def sum_by_class(weights: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Weights of neighbours (B, K) -> of classes (B, L); those without a class count for none."""
    b, _ = weights.shape
    rows = torch.where(labels < 0, classes, labels)
    return weights.new_zeros(b, classes + 1).scatter_add(-1, rows, weights)[:, :classes]


def similarities_of(neighbours: NeighbourBatch) -> Tensor:
    """Similarities (B, K) that must be there."""
    assert neighbours.similarities is not None
    return neighbours.similarities


SEES_VOTES = frozenset({LABELS, SIMILARITIES})
SEES_ALL = frozenset({VECTORS, LABELS, SIMILARITIES})
