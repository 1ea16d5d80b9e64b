"""The k nearest, with the same number from each class.

Classes take turns in rounds: in each round every class that has a row left adds its nearest.
So classes with few rows add all of them and the others fill up, and in a last round with too
few places the classes whose next row is nearest come first.

Each class is searched apart, exactly: of the bank a class at a time is copied, and at most
CANDIDATES are in memory at once.

Letters: B queries of a block, N bank rows, K neighbours, C classes, P candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import VectorsWithIds, check_k
from rapipe.retrieval.search.ranking import TopK, top_k
from rapipe.retrieval.strategies.base import (
    EXACT_SEARCH,
    NotServedError,
    RetrievalRequest,
    Rows,
    nearest,
    to_bank_rows,
)

CANDIDATES = 1 << 21
"""Of all queries of a block: some 64 MiB with what they are sorted by."""


def class_balanced(
    queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest
) -> Neighbours:
    """The nearest images of every class, as many of each class as of any other.

    They are k // C of each class, and one more of the classes whose next row is nearest.
    A class is one of the bank's labels. Unlabelled rows are taken only by a query for
    which fewer than k are labelled: then its nearest of them fill up.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016.

    Raises:
        NotServedError: no row has a label.
        ArgumentError: `k` is out of range.
    """
    most_excluded = check_k(request.k, queries.ids, bank.ids)
    shares = _shares(bank, request.k, most_excluded)
    q, width = len(queries.ids), sum(depth for _, depth, _ in shares)
    top = TopK(np.empty((q, request.k), np.int32), np.empty((q, request.k), np.float32))
    step = max(1, CANDIDATES // width)
    for start in range(0, q, step):
        block = np.arange(start, min(q, start + step))
        near = _take_rounds(queries.take(block), bank, shares, request.k)
        top.rows[block], top.similarities[block] = near
    return Neighbours(queries.ids, *top, EXACT_SEARCH)


def _shares(bank: Embeddings, k: int, most_excluded: int) -> list[tuple[Rows, int, int]]:
    """For each class its rows, how many of them may be needed, and its first round.

    The unlabelled rows come last, if at all, in rounds after all others.

    Args:
        most_excluded: the most rows that one query excludes.
    """
    classes = np.unique(bank.labels[bank.labels >= 0])
    if not len(classes):
        raise NotServedError(
            "`strategies` has 'class-balanced', but no image of the bank has a label; "
            "choose strategies that need none (knn, diverse, replay, sampled), or another "
            "`bank`"
        )
    rows = [np.flatnonzero(bank.labels == label) for label in classes]
    sizes = np.maximum([len(subset) - most_excluded for subset in rows], 0)
    enough = (depth for depth in range(1, k) if np.minimum(sizes, depth).sum() >= k)
    depth = next(enough, k)
    shares = [(subset, depth, 0) for subset in rows]
    lacking = k - (sum(map(len, rows)) - most_excluded)
    if lacking > 0 and (bank.labels < 0).any():
        shares.append((np.flatnonzero(bank.labels < 0), lacking, k))
    return shares


def _take_rounds(
    queries: VectorsWithIds, bank: Embeddings, shares: list[tuple[Rows, int, int]], k: int
) -> TopK:
    """The k first of each query, by round, then similarity, then id; ranked."""

    def candidates() -> Iterator[tuple[npt.NDArray, npt.NDArray, npt.NDArray]]:
        for subset, depth, first in shares:
            near, _ = nearest(queries, bank.take(subset), depth)
            rows = to_bank_rows(subset, near.rows)
            yield rows, near.similarities, np.where(rows < 0, 2 * k, first + np.arange(depth))

    rows, similarities, rounds = (
        np.concatenate(parts, axis=1) for parts in zip(*candidates(), strict=True)
    )  # (B, P) each
    order = np.lexsort((rows, bank.ids[rows], -similarities, rounds), axis=1)[:, :k]
    rows = np.take_along_axis(rows, order, axis=1)
    return top_k(rows, np.take_along_axis(similarities, order, axis=1), bank.ids, k)
