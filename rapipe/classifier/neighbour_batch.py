"""The neighbours of a batch, gathered from a bank; and the vectors of its own images.

A network does not tell the two apart: an image's own vector, where it is shown, stands before
its neighbours as one of them, without a label.

Letters: N rows, B batch, K neighbours, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rapipe.batches.loader import ArrayField, Field, copy_async
from rapipe.io import memory_map
from rapipe.records import UNLABELLED, Embeddings, Indices, Vectors


class NeighbourBatch(NamedTuple):
    """The neighbours of a batch."""

    vectors: Tensor  # (B, K, D) float
    labels: Tensor  # (B, K) int64, -1 = none
    present: Tensor  # (B,) bool: false where an image is to see no neighbours


class DeviceBank:
    """The memory as a classifier sees it: on its device if it fits, else mapped from its file.

    Vectors are copied when they are first needed: never, where only an image's own is shown.

    Args:
        classes: of the classifier; labels of other classes count as none.
    """

    def __init__(self, bank: Embeddings, classes: int, device: torch.device) -> None:
        self.device = device
        self.bank = bank
        labels = np.where(bank.labels < classes, bank.labels, UNLABELLED)
        self.labels = torch.from_numpy(labels).to(device)

    @cached_property
    def vectors(self) -> ArrayField:
        """Those of the bank (N, D)."""
        return ArrayField(self.bank.vectors, self.device)

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
        indices: (N, K), rows of the bank; K is at least 1.
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


def gather_fields(
    device: torch.device,
    bank: DeviceBank | None,
    indices: Indices | None,
    query_vectors: Vectors | None,
    resident: bool = True,
) -> list[Field]:
    """The fields of a batch that `join` makes its neighbours of; none if nothing is shown.

    Args:
        bank, indices: the memory, and rows (N, K) of it; K may be 0.
        query_vectors: (N, D) of the images themselves, if they are shown.
        resident: as of `ArrayField`, for `query_vectors`.
    """
    fields: list[Field] = []
    if bank is not None and indices is not None and indices.shape[1]:
        fields.append(NeighbourField(indices, bank))
    if query_vectors is not None:
        fields.append(ArrayField(query_vectors, device, resident))
    return fields


def join(parts: Sequence[NeighbourBatch | Tensor]) -> NeighbourBatch | None:
    """What the fields of `gather_fields` hold, as one batch; the images' own vectors come first."""
    neighbours = next((part for part in parts if isinstance(part, NeighbourBatch)), None)
    vectors = next((part[:, None] for part in parts if isinstance(part, Tensor)), None)
    if vectors is None:
        return neighbours
    labels = torch.full(vectors.shape[:2], UNLABELLED, device=vectors.device)  # (B, 1)
    if neighbours is None:
        present = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        return NeighbourBatch(vectors, labels, present)
    return NeighbourBatch(
        torch.cat([vectors, neighbours.vectors], dim=1),
        torch.cat([labels, neighbours.labels], dim=1),
        neighbours.present,
    )
