"""The neighbours of a batch, gathered from a bank; and the vectors of its own images.

A network does not tell the two apart: an image's own vector, where it is shown, stands before
its neighbours as one of them, without a label.

Letters: N rows, U different ones among them, B batch, K neighbours, D embedding, P projection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rapipe.batches.loader import ArrayField, Field, copy_async, index_rows, pad_rows
from rapipe.errors import ArgumentError
from rapipe.io import memory_map
from rapipe.records import UNLABELLED, Embeddings, Indices, Neighbours, Similarities, Vectors
from rapipe.specs import SIMILARITIES, VECTORS

Project = Callable[[Tensor, Tensor], Tensor]
"""What a fusion makes of neighbours, each by itself: vectors (..., D), labels (...) -> (..., P)."""
PROJECTED_AT_ONCE = 4096
"""Rows of a bank."""


def standardise(vectors: Tensor) -> Tensor:
    """Vectors (..., D), each with mean 0 and variance 1: a layer normalisation without weights.

    As a fusion reads them, of any encoder. No weight has a part in it, so a bank needs it once.
    """
    return F.layer_norm(vectors, vectors.shape[-1:])


class NeighbourBatch(NamedTuple):
    """The neighbours of a batch."""

    vectors: Tensor  # (B, K, D) float, standardised; (B, 0, D) where they are projected or unseen
    labels: Tensor  # (B, K) int64, -1 = none
    present: Tensor  # (B,) bool: false where an image is to see no neighbours
    similarities: Tensor | None = None  # (B, K) float32, to the image; None where no fusion asks
    projected: Callable[[Project], Tensor] | None = None
    """What each fusion makes of them, (B, K, P), if that is known; by its `project`."""

    def repeated(self, b: int) -> NeighbourBatch:
        """Those of one image, for a batch of as many."""
        parts = [part.expand(b, *part.shape[1:]) for part in self[:3]]
        similarities = self.similarities
        if similarities is not None:
            similarities = similarities.expand(b, -1)
        return NeighbourBatch(parts[0], parts[1], parts[2], similarities)

    def projected_by(self, project: Project) -> Tensor:
        """What a fusion makes of them: (B, K, P)."""
        return self.projected(project) if self.projected else project(self.vectors, self.labels)


class DeviceBank:
    """The memory as a classifier sees it: on its device if it fits, else mapped from its file.

    Vectors are copied when they are first needed: never, where only an image's own is shown.

    Args:
        classes: of the classifier; labels of other classes count as none.
        dtype: of the vectors on the device. What a training multiplies in bfloat16 it else rounds
            in each step, to the same numbers.
    """

    def __init__(
        self,
        bank: Embeddings,
        classes: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device
        self.bank = bank
        self.dtype = dtype
        labels = np.where(bank.labels < classes, bank.labels, UNLABELLED)
        self.labels = torch.from_numpy(labels).to(device)

    @cached_property
    def vectors(self) -> ArrayField:
        """Those of the bank (N, D), standardised."""
        return ArrayField(self.bank.vectors, self.device, transform=self.prepare)

    def prepare(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) as they are on the device."""
        return standardise(vectors).to(self.dtype)

    def fetch(self, rows: Tensor) -> Any:
        """Rows of the bank (B, K) int64, on the device if the vectors are; as `Field.fetch`."""
        device_rows = rows if self.vectors.resident else copy_async(rows.numpy(), self.device)
        return self.vectors.fetch(rows), device_rows

    def take(self, rows: Tensor) -> NeighbourBatch:
        """Rows of the bank (..., int64) on the CPU -> these neighbours."""
        return self.assemble(self.fetch(rows.to(self.device) if self.vectors.resident else rows))

    def assemble(self, fetched: Any) -> NeighbourBatch:
        """What was fetched -> these neighbours, all of them present."""
        vectors, rows = fetched
        return self.labelled(rows)._replace(vectors=self.vectors.assemble(vectors))

    def labelled(self, rows: Tensor) -> NeighbourBatch:
        """Rows of the bank (B, K) int64 on the device -> these neighbours, without vectors."""
        b, d = len(rows), self.bank.vectors.shape[1]
        present = torch.ones(b, dtype=torch.bool, device=self.device)
        nothing = torch.empty(b, 0, d, device=self.device)
        return NeighbourBatch(nothing, index_rows(self.labels, rows), present)


class LabelField:
    """The field of a batch that holds its neighbours, of which nobody sees the vectors.

    Args:
        indices: (N, K), rows of the bank; K is at least 1.
    """

    def __init__(self, indices: Indices, bank: DeviceBank) -> None:
        self.bank = bank
        self.indices = ArrayField(indices, bank.device)

    @property
    def resident(self) -> bool:
        return self.indices.resident

    def fetch(self, rows: Tensor) -> Any:
        """Rows (B,) of the table."""
        return self.indices.fetch(rows)

    def assemble(self, fetched: Any) -> NeighbourBatch:
        """What was fetched -> the neighbours."""
        return self.bank.labelled(self.indices.assemble(fetched).long())


class SimilaritiesOfBatch(NamedTuple):
    """What tells them from other fields."""

    similarities: Tensor  # (B, K)


class SimilarityField(ArrayField):
    """The field of a batch that holds the similarities of its neighbours, (N, K)."""

    def assemble(self, fetched: Any) -> Any:
        """What was fetched -> the similarities."""
        return SimilaritiesOfBatch(super().assemble(fetched))


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


class Projections:
    """Rows of a bank as fusions see them while no weight changes: each is projected once.

    For neighbours that many images share that is a small part of the work.

    Args:
        rows: (U,) of the bank, ascending.
        projects: of the fusions.
    """

    def __init__(self, bank: DeviceBank, rows: Indices, projects: Iterable[Project]) -> None:
        self.rows = rows
        self.dimension = bank.bank.vectors.shape[1]
        self.labels = bank.labels[torch.from_numpy(rows.astype(np.int64)).to(bank.device)]  # (U,)
        order = rows[pad_rows(len(rows))].astype(np.int64)
        chunks = [order[i : i + PROJECTED_AT_ONCE] for i in range(0, len(order), PROJECTED_AT_ONCE)]
        projects = list(projects)
        tables: list[list[Tensor]] = [[] for _ in projects]
        for chunk in chunks:
            batch = bank.take(torch.from_numpy(chunk))
            for table, project in zip(tables, projects, strict=True):
                table.append(project(batch.vectors, batch.labels))
        self.tables = {p: torch.cat(table) for p, table in zip(projects, tables, strict=True)}


class ProjectedField:
    """The field of a batch that holds its neighbours, of which each is projected already.

    Args:
        indices: (N, K), rows of the bank, all of them among the `projections`.
    """

    def __init__(self, indices: Indices, projections: Projections) -> None:
        self.projections = projections
        positions = np.searchsorted(projections.rows, indices)  # (N, K)
        self.positions = ArrayField(positions, projections.labels.device)

    @property
    def resident(self) -> bool:
        return self.positions.resident

    def fetch(self, rows: Tensor) -> Any:
        """Rows (B,) of the table."""
        return self.positions.fetch(rows)

    def assemble(self, fetched: Any) -> NeighbourBatch:
        """What was fetched -> the neighbours."""
        projections, positions = self.projections, self.positions.assemble(fetched)  # (B, K)
        b = len(positions)
        return NeighbourBatch(
            torch.empty(b, 0, projections.dimension, device=positions.device),
            projections.labels[positions],
            torch.ones(b, dtype=torch.bool, device=positions.device),
            projected=lambda project: index_rows(projections.tables[project], positions),
        )


class Shown(NamedTuple):
    """What a classifier is shown beside the images: rows of a bank, their own vectors, or both."""

    bank: DeviceBank | None = None
    indices: Indices | None = None
    """(N, K), rows of the bank; K may be 0. None: no image has neighbours."""
    query_vectors: Vectors | None = None
    """(N, D) of the images themselves."""
    similarities: Similarities | None = None
    """(N, K) of the rows; needed where a fusion sees them."""

    @classmethod
    def of(cls, bank: DeviceBank | None, neighbours: Neighbours | None) -> Shown:
        """All that there is of neighbours; nothing without them."""
        if neighbours is None:
            return cls()
        parts = neighbours.indices, neighbours.query_vectors, neighbours.similarities
        return cls(bank, *parts)

    def without(self, column: int) -> Shown:
        """The same but for one neighbour of each image: (N, K - 1)."""
        indices, _, similarities = self[1:]
        return self._replace(
            indices=None if indices is None else np.delete(indices, column, axis=1),
            similarities=None if similarities is None else np.delete(similarities, column, axis=1),
        )


def fields_of(
    shown: Shown,
    device: torch.device,
    inputs: Collection[str],
    resident: bool = True,
    projections: Projections | None = None,
) -> list[Field]:
    """The fields of a batch that `join` makes its neighbours of; none if nothing is shown.

    Args:
        inputs: what the fusion sees of them: of `rapipe.specs.VECTORS`, `LABELS`, `SIMILARITIES`.
        resident: as of `ArrayField`, for what is of the images: vectors and similarities.
        projections: of the bank, where its rows are projected already.

    Raises:
        ArgumentError: similarities are seen, but none are shown.
    """
    bank, indices, query_vectors, similarities = shown
    fields: list[Field] = []
    if bank is not None and indices is not None and indices.shape[1]:
        if projections:
            fields.append(ProjectedField(indices, projections))
        else:
            fields.append((NeighbourField if VECTORS in inputs else LabelField)(indices, bank))
        if SIMILARITIES in inputs:
            if similarities is None:
                raise ArgumentError("`similarities` of the neighbours are needed by this fusion")
            fields.append(SimilarityField(similarities, device, resident))
    if query_vectors is not None:
        fields.append(ArrayField(query_vectors, device, resident, standardise))
    return fields


def project_banks(
    shown: Sequence[Shown], projects: Sequence[Project]
) -> dict[DeviceBank, Projections]:
    """The banks of which fewer rows are shown than neighbours, and the projections of these."""
    by_bank: dict[DeviceBank, list[Indices]] = {}
    for bank, indices, *_ in shown:
        if bank is not None and indices is not None and indices.shape[1]:
            by_bank.setdefault(bank, []).append(indices)
    projections = {}
    for bank, tables in by_bank.items():
        rows = np.unique(np.concatenate([np.unique(table) for table in tables]))
        if 2 * len(rows) <= sum(table.size for table in tables):
            projections[bank] = Projections(bank, rows, projects)
    return projections


def join(parts: Sequence[Any]) -> NeighbourBatch | None:
    """What the fields of `fields_of` hold, as one batch; the images' own vectors come first.

    An image has a similarity of 1 to itself.
    """
    neighbours = next((part for part in parts if isinstance(part, NeighbourBatch)), None)
    given = (part.similarities for part in parts if isinstance(part, SimilaritiesOfBatch))
    similarities = next(given, None)
    vectors = next((part[:, None] for part in parts if isinstance(part, Tensor)), None)
    if neighbours is not None:
        neighbours = neighbours._replace(similarities=similarities)
    if vectors is None:
        return neighbours
    labels = torch.full(vectors.shape[:2], UNLABELLED, device=vectors.device)  # (B, 1)
    ones = torch.ones(vectors.shape[:2], device=vectors.device)
    if neighbours is None:
        present = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        return NeighbourBatch(vectors, labels, present, ones)
    return NeighbourBatch(
        torch.cat([vectors.to(neighbours.vectors.dtype), neighbours.vectors], dim=1),
        torch.cat([labels, neighbours.labels], dim=1),
        neighbours.present,
        None if similarities is None else torch.cat([ones, similarities], dim=1),
        _after(neighbours.projected, vectors, labels) if neighbours.projected else None,
    )


def _after(
    projected: Callable[[Project], Tensor], vectors: Tensor, labels: Tensor
) -> Callable[[Project], Tensor]:
    """The projections of these, and then of the others: (B, 1 + K, P)."""
    return lambda project: torch.cat([project(vectors, labels), projected(project)], dim=1)
