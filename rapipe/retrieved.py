"""The neighbours of a batch, gathered from a bank.

Letters: N rows, B batch, K neighbours, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rapipe.feed import CPU, Column
from rapipe.records import UNLABELLED, Embeddings, Indices


class Retrieved(NamedTuple):
    """The neighbours of a batch."""

    vectors: Tensor  # (B, K, D) float
    labels: Tensor  # (B, K) int64, -1 = none
    present: Tensor  # (B,) bool: false where an image is to see no neighbours


class Bank:
    """The memory as a classifier sees it: on its device if it fits, else mapped from its file.

    Args:
        classes: of the classifier; labels of other classes count as none.
    """

    def __init__(self, bank: Embeddings, classes: int, device: torch.device) -> None:
        self.device = device
        self.vectors = Column(bank.vectors, device)
        labels = np.where(bank.labels < classes, bank.labels, UNLABELLED)
        self.labels = torch.from_numpy(labels).to(device)

    @property
    def resident(self) -> bool:
        """Whether it is on the device: then `gather` wants its rows there too."""
        return self.vectors.resident

    def gather(self, rows: Tensor) -> Retrieved:
        """Rows of the bank (B, K) int64 -> these neighbours, all of them present."""
        present = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        return Retrieved(self.vectors.take(rows), self.labels[rows.to(self.device)], present)


class Neighbourhood:
    """The part of a batch that are its neighbours.

    Args:
        indices: (N, K), rows of the bank.
    """

    def __init__(self, indices: Indices, bank: Bank) -> None:
        self.bank = bank
        self.indices = Column(indices, bank.device if bank.resident else CPU)

    @property
    def resident(self) -> bool:
        return self.indices.resident and self.bank.resident

    def take(self, rows: Tensor) -> Retrieved:
        """Rows (B,) -> their neighbours."""
        return self.bank.gather(self.indices.take(rows).long())
