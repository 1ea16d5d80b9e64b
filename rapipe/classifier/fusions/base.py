"""What every fusion is: tokens and their neighbours -> tokens that know their neighbours.

Letters: B batch, T tokens, C channels, K neighbours, D embedding, H heads, P projection.
"""

from __future__ import annotations

from torch import Tensor, nn

from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.specs import FusionSpec


class Fusion(nn.Module):
    """Base class.

    Args:
        channels: C of the tokens.
        dimension: D of the neighbours' vectors.
        classes: number of classes that a neighbour's label may have.
        spec: its knobs.
    """

    def __init__(self, channels: int, dimension: int, classes: int, spec: FusionSpec) -> None:
        super().__init__()

    def project(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """What there is to see of neighbours, each by itself: (..., D) and (...) -> (..., P).

        A prediction asks it once for each row of a bank, and looks the rest up.
        """
        raise NotImplementedError

    def forward(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C); those of an image without neighbours stay as they are."""
        raise NotImplementedError

    def weights(self, tokens: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """How much each head attends from each token (B, T, C) to each neighbour: (B, H, T, K).

        Rows sum to at most 1, and are zero where no neighbours are present.
        """
        raise NotImplementedError
