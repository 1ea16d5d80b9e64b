"""The neighbours of a batch, gathered from a bank.

Letters: N rows, B batch, K neighbours, D embedding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rapipe.batches.loader import ArrayField, copy_async
from rapipe.io import memory_map
from rapipe.records import UNLABELLED, Embeddings, Indices


class NeighbourBatch(NamedTuple):
    """The neighbours of a batch."""

    vectors: Tensor  # (B, K, D) float
    labels: Tensor  # (B, K) int64, -1 = none
    present: Tensor  # (B,) bool: false where an image is to see no neighbours


class DeviceBank:
    """The memory as a classifier sees it: on its device if it fits, else mapped from its file.

    Args:
        classes: of the classifier; labels of other classes count as none.
    """

    def __init__(self, bank: Embeddings, classes: int, device: torch.device) -> None:
        self.device = device
        self.vectors = ArrayField(bank.vectors, device)
        labels = np.where(bank.labels < classes, bank.labels, UNLABELLED)
        self.labels = torch.from_numpy(labels).to(device)

    def fetch(self, rows: Tensor) -> Any:
        """Rows of the bank (B, K) int64, on the device if the vectors are; as `Field.fetch`."""
        device_rows = rows if self.vectors.resident else copy_async(rows.numpy(), self.device)
        return self.vectors.fetch(rows), device_rows

    def assemble(self, fetched: Any) -> NeighbourBatch:
        """What was fetched -> these neighbours, all of them present."""
        vectors, rows = fetched
        present = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        return NeighbourBatch(self.vectors.assemble(vectors), self.labels[rows], present)


class NeighbourField:
    """The field of a batch that holds its neighbours.

    Args:
        indices: (N, K), rows of the bank.
    """

    def __init__(self, indices: Indices, bank: DeviceBank) -> None:
        self.bank = bank
        self.indices = ArrayField(indices, bank.device, resident=bank.vectors.resident)

    @property
    def resident(self) -> bool:
        return self.indices.resident and self.bank.vectors.resident

    def fetch(self, rows: Tensor) -> Any:
        """Rows (B,) of the table, and of the bank if that is not on the device."""
        if self.bank.vectors.resident:
            return self.indices.fetch(rows)
        bank_rows = memory_map.take_rows(self.indices.array, rows.numpy())
        return self.bank.fetch(torch.from_numpy(bank_rows.astype(np.int64)))

    def assemble(self, fetched: Any) -> NeighbourBatch:
        """What was fetched -> the neighbours."""
        if self.bank.vectors.resident:
            fetched = self.bank.fetch(self.indices.assemble(fetched).long())
        return self.bank.assemble(fetched)
