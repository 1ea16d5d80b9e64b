"""The k nearest, with the same number from each class.

Classes give in rounds: in each round every class that has a row left gives its nearest.
So classes with few rows give what they have and the others fill up, and in a last round
with too few places the classes whose next row is nearest give.

Each class is searched alone, exactly: of the bank a class at a time is copied, and
CANDIDATES are held at once.

Letters: B queries of a block, N bank rows, K neighbours, C classes, P candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rapipe.io import memory_map
from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import KeyedVectors, check_k
from rapipe.retrieval.search.ranking import Proposed
from rapipe.retrieval.strategies.base import (
    EXACTLY,
    NotServedError,
    RetrievalRequest,
    Rows,
    nearest,
    ranked,
    rows_of,
)

CANDIDATES = 1 << 21
"""Of all queries of a block: some 64 MiB with what they are ordered by."""


def class_balanced(queries: KeyedVectors, bank: Embeddings, ask: RetrievalRequest) -> Neighbours:
    """The nearest images of every class, as many of each class as of any other.

    They are k // C of each class, and one more of the classes whose next row is nearest.
    A class is one of the bank's labels. Rows without label are taken only by a query for
    which fewer than k are labelled: then its nearest of them fill up.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016.

    Raises:
        NotServedError: no row has a label.
        UserError: k is out of range.
    """
    own = check_k(ask.k, queries.ids, bank.ids)
    shares = _shares(bank, ask.k, own)
    q, width = len(queries.ids), sum(depth for _, depth, _ in shares)
    found = Proposed(np.empty((q, ask.k), np.int32), np.empty((q, ask.k), np.float32))
    step = max(1, CANDIDATES // width)
    for start in range(0, q, step):
        block = np.arange(start, min(q, start + step))
        asking = KeyedVectors(queries.ids[block], memory_map.lazy_rows(queries.vectors, block))
        found.rows[block], found.similarities[block] = _rounds(asking, bank, shares, ask.k)
    return Neighbours(queries.ids, *found, EXACTLY)


def _shares(bank: Embeddings, k: int, own: int) -> list[tuple[Rows, int, int]]:
    """For each class its rows, how many of them may be needed, and its first round.

    Those without label come last, if at all, in rounds that come after all others.

    Args:
        own: the most rows that one query has to leave out.
    """
    classes = np.unique(bank.labels[bank.labels >= 0])
    if not len(classes):
        raise NotServedError(
            "retrieval.strategies has 'class-balanced', but no image of the memory has a label; "
            "choose strategies that need none (knn, diverse, replay, sampled), or another "
            "retrieval.bank"
        )
    rows = [np.flatnonzero(bank.labels == label) for label in classes]
    sizes = np.maximum([len(part) - own for part in rows], 0)
    enough = (depth for depth in range(1, k) if np.minimum(sizes, depth).sum() >= k)
    depth = next(enough, k)
    shares = [(part, depth, 0) for part in rows]
    lacking = k - (sum(map(len, rows)) - own)
    if lacking > 0 and (bank.labels < 0).any():
        shares.append((np.flatnonzero(bank.labels < 0), lacking, k))
    return shares


def _rounds(
    queries: KeyedVectors, bank: Embeddings, shares: list[tuple[Rows, int, int]], k: int
) -> Proposed:
    """The k first of each query, by round, then similarity, then id; ranked."""

    def candidates() -> Iterator[tuple[npt.NDArray, npt.NDArray, npt.NDArray]]:
        for part, depth, first in shares:
            near, _ = nearest(queries, bank.take(part), depth)
            rows = rows_of(part, near.rows)
            yield rows, near.similarities, np.where(rows < 0, 2 * k, first + np.arange(depth))

    rows, similarities, rounds = (
        np.concatenate(parts, axis=1) for parts in zip(*candidates(), strict=True)
    )  # (B, P) each
    order = np.lexsort((rows, bank.ids[rows], -similarities, rounds), axis=1)[:, :k]
    rows, similarities = (np.take_along_axis(own, order, axis=1) for own in (rows, similarities))
    return ranked(rows, similarities, bank.ids, k)
