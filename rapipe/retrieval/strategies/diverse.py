"""Neighbours that are near the query, but unlike each other.

Memory: the similarities among each pool's rows, and their vectors, are in float64 for as
many queries as fit into POOLED_BYTES, and for at least one.

Letters: B queries of a block, D embedding, K neighbours, P rows of a pool.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Embeddings, Neighbours, Similarities, Vectors
from rapipe.retrieval.search import VectorsWithIds, check_k
from rapipe.retrieval.strategies.base import RetrievalRequest, nearest

POOL = 4
"""Rows to choose from, for each neighbour."""
POOLED_BYTES = 1 << 27


def diverse(queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest) -> Neighbours:
    """The k images, of the 4 k nearest, that are like the query but unlike each other.

    Maximal marginal relevance: from the pool of the 4 k nearest (all that a query may find,
    if there are fewer) that image is taken, again and again, for which
    (1 - diversity) * similarity to the query - diversity * greatest similarity to one taken
    is largest; of equals the nearer, then the one with the lower id. With a diversity of 0
    that is `knn`. The pool is searched by `request.method`.

    Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for
    Reordering Documents and Producing Summaries", SIGIR 1998.

    Raises:
        ArgumentError: `k` is out of range.
    """
    k = request.k
    check_k(k, queries.ids, bank.ids)
    pool, facts = nearest(queries, bank, min(POOL * k, len(bank)), request.method)
    (q, p), (_, d) = pool.rows.shape, bank.vectors.shape
    columns = np.empty((q, k), np.int64)
    step = max(1, POOLED_BYTES // (8 * p * (p + d)))
    starts = range(0, q, step)
    for start in track(starts, "choosing diverse ones", len(starts)):
        part = slice(start, start + step)
        vectors = memory_map.take_rows(bank.vectors, pool.rows[part].reshape(-1)).reshape(-1, p, d)
        near = pool.similarities[part]
        columns[part] = marginal_relevance(near, _pairwise(vectors), k, request.diversity)
        memory_map.release_pages()
    columns.sort(axis=1)  # the pool is ranked, so this ranks what was taken of it
    rows = np.take_along_axis(pool.rows, columns, axis=1)
    similarities = np.take_along_axis(pool.similarities, columns, axis=1)
    return Neighbours(queries.ids, rows, similarities, {**facts, "pool": p})


def _pairwise(vectors: Vectors) -> Similarities:
    """Similarities (B, P, P) among the rows of each pool (B, P, D).

    Summed in float64 and rounded to float32, as `search` does, so that the order of the sum
    does not show: equal vectors are equally similar.
    """
    wide = vectors.astype(np.float64)
    return np.asarray((wide @ wide.transpose(0, 2, 1)).astype(np.float32))


def marginal_relevance(
    near: Similarities, pairwise: Similarities, k: int, diversity: float
) -> npt.NDArray[np.int64]:
    """Columns (B, K) of the pool that are taken, in the order in which they are taken.

    Args:
        near: (B, P) similarities to the query, falling; -inf is never taken.
        pairwise: (B, P, P) similarities within the pool.
    """
    b, _ = near.shape
    queries = np.arange(b)
    relevance = (1 - diversity) * near.astype(np.float64)
    relevance[np.isneginf(near)] = -np.inf  # 0 * -inf is nan
    closest = np.zeros(near.shape)  # to one taken; nothing is yet
    columns = np.empty((b, k), np.int64)
    for turn in range(k):
        best = (relevance - diversity * closest).argmax(axis=1)  # the first of equals
        columns[:, turn] = best
        relevance[queries, best] = -np.inf
        to_best = pairwise[queries, best]  # (B, P)
        closest = np.maximum(closest, to_best) if turn else to_best.astype(np.float64)
    return columns
