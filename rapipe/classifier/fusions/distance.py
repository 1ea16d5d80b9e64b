"""Cross-attention that sees how similar neighbours are, and may read none of them.

Letters: B batch, K neighbours, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapipe.classifier.fusions.base import similarities_of
from rapipe.classifier.fusions.cross_attention import CrossAttention
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import SIMILARITIES, FusionSpec


class DistanceAttention(CrossAttention):
    """`cross-attention` with a similarity in its scores, and a learned key for none of them.

    A head adds a learned multiple of the similarity to a neighbour's score, and a learned bias
    against the key of none, which is always there: trust may fall with distance.

    Source: this project; that distances belong in the scores is what TabR argues (Gorishniy et
    al., ICLR 2024).
    """

    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.scale = nn.Parameter(torch.ones(self.heads))
        self.offset = nn.Parameter(torch.zeros(self.heads))

    @classmethod
    def inputs_of(cls, spec: FusionSpec) -> frozenset[str]:
        return super().inputs_of(spec) | {SIMILARITIES}

    def bias(self, neighbours: NeighbourBatch) -> Tensor:
        similarities = similarities_of(neighbours)[:, None]  # (B, 1, K)
        return self.scale[:, None] * similarities + self.offset[:, None]
