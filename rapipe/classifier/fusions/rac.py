"""Labels of neighbours, read by a small transformer whose logits are added to the network's.

Letters: B batch, F features, K neighbours, P projection, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rapipe.classifier.fusions.base import SEES_VOTES, LateFusion, similarities_of
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import FusionSpec

WIDTH, HEADS = 64, 4
"""P, and heads of the transformer."""


class Rac(LateFusion):
    """One layer of a transformer over the neighbours, and a token that reads them for the head.

    A neighbour is the embedding of its class, plus a linear function of its similarity. In the
    paper it is a text, read by a pretrained language model; the logits of both are added as there.

    Source: Long et al., "Retrieval Augmented Classification for Long-Tail Visual Recognition",
    CVPR 2022.
    """

    inputs = SEES_VOTES
    always_abstains = True

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__(channels, dimension, classes, spec)
        self.label = nn.Embedding(classes + 1, WIDTH, padding_idx=classes)
        self.similarity = nn.Linear(1, WIDTH)
        self.reader = nn.Parameter(torch.zeros(WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, classes)

    def fuse(
        self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch
    ) -> tuple[Tensor, Tensor]:
        read = self.layer(self._tokens(neighbours))[:, 0]  # (B, P)
        labels = neighbours.labels
        return logits + self.out(self.norm(read)), torch.ones_like(labels[:, 0], dtype=torch.bool)

    def shares(self, features: Tensor, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """What the reading token attends to, mean over heads."""
        tokens = self.layer.norm1(self._tokens(neighbours))
        _, weights = self.layer.self_attn(tokens, tokens, tokens)  # (B, 1 + K, 1 + K)
        of_reader: Tensor = weights[:, 0, 1:]
        return of_reader

    def _tokens(self, neighbours: NeighbourBatch) -> Tensor:
        """The reading token, and one a neighbour: (B, 1 + K, P)."""
        labels = neighbours.labels
        rows = torch.where(labels < 0, self.label.num_embeddings - 1, labels)
        tokens = self.label(rows) + self.similarity(similarities_of(neighbours)[..., None])
        reader = self.reader.expand(len(tokens), 1, -1)
        return torch.cat([reader.to(tokens.dtype), tokens], dim=1)
