"""What retrieval strategies share: the request, and the search of part of a bank.

A strategy that needs the nearest of a subset of rows searches it exactly: an index of the
subset would be built for nothing else.

Letters: Q queries, N bank rows, D embedding, K neighbours, P candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError
from rapipe.records import Embeddings, Facts, Ids, Indices, Neighbours
from rapipe.retrieval.search import EXACT, SearchMethod, VectorsWithIds, search
from rapipe.retrieval.search.ranking import TopK


@dataclass(frozen=True)
class RetrievalRequest:
    """How neighbours are retrieved; each strategy reads the fields that it needs."""

    k: int
    seed: int = 0
    method: SearchMethod = field(default_factory=SearchMethod)
    diversity: float = 0.5
    """Of `diverse`: weight of the dissimilarity among neighbours, 0 to 1."""
    replay: int = 1000
    """Of `replay` and `prioritised-replay`: rows of the memory."""


Rows = npt.NDArray[np.int64]
Strategy = Callable[[VectorsWithIds, Embeddings, RetrievalRequest], Neighbours]

EXACT_SEARCH: Facts = {"backend": "torch", "index": EXACT, "effort": "", "recall": 1.0, "sample": 0}
"""`Neighbours.found_by` of an exact search of subsets."""


class NotServedError(ArgumentError):
    """This bank cannot serve this strategy, whatever the query."""


def count_copies(ids: Ids, bank_ids: Ids) -> npt.NDArray[np.int64]:
    """For each query id (Q,) the number of bank rows (Q,) that have it."""
    unique, counts = np.unique(bank_ids, return_counts=True)
    position = np.minimum(np.searchsorted(unique, ids), len(unique) - 1)
    return np.where(unique[position] == ids, counts[position], 0)


def nearest(
    queries: VectorsWithIds, bank: Embeddings, most: int, method: SearchMethod | None = None
) -> tuple[TopK, Facts]:
    """Up to `most` nearest rows of each query, ranked, its id excluded; and the search's facts.

    A query whose id is in the bank may find fewer than another, and gets -1 instead; its
    result does not depend on the other queries.

    Args:
        bank: of at least one row.
        method: exact, by torch, by default.
    """
    widths = np.minimum(most, len(bank) - count_copies(queries.ids, bank.ids))  # (Q,)
    shape = len(widths), most
    top = TopK(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))
    facts: Facts = {}
    for width in np.unique(widths[widths > 0]).tolist():
        group = np.flatnonzero(widths == width)
        part = queries.take(group)
        near = search(part.vectors, bank, width, part.ids, method)
        top.rows[group, :width] = near.indices
        top.similarities[group, :width] = near.similarities
        facts = near.found_by
    return top, facts


def to_bank_rows(subset: Rows, rows: Indices) -> Indices:
    """Bank rows (Q, P) for rows (Q, P) of a subset (N,) of the bank; -1 stays."""
    return np.append(subset, -1)[rows].astype(np.int32)
