"""What retrieval strategies share: how they are asked, and how part of a bank is searched.

A strategy that wants the nearest of some rows only searches those rows exactly: an index
of them would be made for nothing else.

Letters: Q queries, N bank rows, D embedding, K neighbours, P candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.records import Embeddings, Facts, Ids, Indices, Neighbours, Similarities
from rapipe.retrieval.search import EXACT, KeyedVectors, SearchMethod, search
from rapipe.retrieval.search.ranking import Proposed


@dataclass(frozen=True)
class RetrievalRequest:
    """How neighbours are asked for; strategies take of it what they need."""

    k: int
    seed: int
    method: SearchMethod
    diversity: float = 0.5
    """Of `diverse`: weight of unlikeness among neighbours, 0 to 1."""
    replay: int = 1000
    """Of `replay`: rows of the first-in-first-out memory."""


Rows = npt.NDArray[np.int64]
Strategy = Callable[[KeyedVectors, Embeddings, RetrievalRequest], Neighbours]

EXACTLY: Facts = {"backend": "torch", "index": EXACT, "effort": "", "recall": 1.0, "sample": 0}
"""`Neighbours.found_by` of what was searched, but by no index of the whole bank."""


class NotServedError(UserError):
    """This memory cannot serve this strategy, whoever asks."""


def copies(ids: Ids, bank_ids: Ids) -> npt.NDArray[np.int64]:
    """For each query id (Q,) the number of bank rows (Q,) that have it."""
    unique, counts = np.unique(bank_ids, return_counts=True)
    place = np.minimum(np.searchsorted(unique, ids), len(unique) - 1)
    return np.where(unique[place] == ids, counts[place], 0)


def nearest(
    queries: KeyedVectors, bank: Embeddings, most: int, method: SearchMethod | None = None
) -> tuple[Proposed, Facts]:
    """Up to `most` nearest rows of each query, ranked, its own id left out; and how found.

    A query whose id is in the bank may find fewer than another, and gets -1 instead; what
    one is given does not depend on who else asks.

    Args:
        bank: of at least one row.
        method: exact, by torch, unless given.
    """
    widths = np.minimum(most, len(bank) - copies(queries.ids, bank.ids))  # (Q,)
    shape = len(widths), most
    found = Proposed(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))
    facts: Facts = {}
    for width in np.unique(widths[widths > 0]).tolist():
        asking = np.flatnonzero(widths == width)
        vectors, ids = memory_map.lazy_rows(queries.vectors, asking), queries.ids[asking]
        near = search(vectors, bank, width, ids, method)
        found.rows[asking, :width] = near.indices
        found.similarities[asking, :width] = near.similarities
        facts = near.found_by
    return found, facts


def rows_of(part: Rows, local: Indices) -> Indices:
    """Bank rows (Q, P) for rows (Q, P) of a part (N,) of the bank; -1 stays."""
    return np.append(part, -1)[local].astype(np.int32)


def ranked(rows: Indices, similarities: Similarities, bank_ids: Ids, k: int) -> Proposed:
    """The k best of candidates (Q, P), by the rule of `search`.

    Equal similarities are ordered by id, then row. Row -1, of similarity -inf, comes last.
    """
    order = np.lexsort((rows, bank_ids[rows], -similarities), axis=1)[:, :k]
    return Proposed(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
    )
