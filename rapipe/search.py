"""Exact nearest neighbours by cosine similarity, in chunks, with one rule for ties.

A float32 matrix product preselects, then the candidates' similarities are
computed again in float64 and rounded to float32. So equal vectors have equal
similarities whatever chunk they were in, and the table is the same bytes
however the preselection was done.

Letters: Q queries, N bank rows, D embedding, K neighbours, P preselected.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rapipe.errors import UserError
from rapipe.progress import track
from rapipe.records import Ids, Indices, Neighbours, Similarities, Vectors

CHUNK = 512
MARGIN = 32
"""Candidates beyond the k that are asked for."""
SLACK = 1e-4
"""More than the rounding of a float32 product of unit vectors."""


class Queries(NamedTuple):
    """What is looked up: vectors (Q, D) and the ids (Q,) that they must not find."""

    ids: Ids
    vectors: Vectors


def check_k(k: int, query_ids: Ids, bank_ids: Ids) -> None:
    """Raise `UserError` unless every query can have k neighbours that are not itself."""
    unique, counts = np.unique(bank_ids, return_counts=True)
    own = counts[np.isin(unique, query_ids)].max(initial=0)
    most = len(bank_ids) - int(own)
    if not 1 <= k <= most:
        raise UserError(
            f"retrieval.k is {k}, but the memory offers a query at most {most} neighbours; "
            f"choose from 1 to {most}, or a larger retrieval.bank"
        )


def search(queries: Queries, bank_ids: Ids, bank_vectors: Vectors, k: int) -> Neighbours:
    """The k most similar bank rows of each query, its own id left out.

    Args:
        queries: Q queries; rows of the bank with a query's id are no neighbours of it.
        bank_ids: (N,) int64.
        bank_vectors: (N, D) float32 of unit length.
        k: from 1 to the number of rows that are not the query's own.

    Returns:
        Neighbours (Q, K), by falling similarity, equal ones by rising id (and then row).

    Raises:
        UserError: k is out of range.
    """
    check_k(k, queries.ids, bank_ids)
    order = np.lexsort((np.arange(len(bank_ids)), bank_ids))  # rows by id
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    bank = torch.from_numpy(np.array(bank_vectors))
    indices = np.empty((len(queries.ids), k), np.int32)
    similarities = np.empty((len(queries.ids), k), np.float32)
    starts = range(0, len(queries.ids), CHUNK)
    for start in track(starts, "searching", len(starts)):
        part = slice(start, start + CHUNK)
        ids, vectors = queries.ids[part], np.array(queries.vectors[part])
        with torch.autocast("cpu", enabled=False):
            approximate = torch.from_numpy(vectors) @ bank.T  # (Q, N)
        _leave_out(approximate, ids, bank_ids, order)
        indices[part], similarities[part] = _select(approximate, vectors, bank_vectors, rank, k)
    return Neighbours(queries.ids, indices, similarities)


def similarities_of(queries: Vectors, bank_vectors: Vectors, indices: Indices) -> Similarities:
    """Cosine similarities (Q, K) of queries (Q, D) to rows (Q, K) of the bank."""
    found = np.empty(indices.shape, np.float32)
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        rows = bank_vectors[indices[part]].astype(np.float64)  # (Q, K, D)
        found[part] = np.einsum("qd,qkd->qk", queries[part].astype(np.float64), rows)
    return found


def _leave_out(similarities: torch.Tensor, ids: Ids, bank_ids: Ids, order: np.ndarray) -> None:
    """Set the similarity of each query to the rows with its own id to minus infinity."""
    by_id = bank_ids[order]
    first, last = np.searchsorted(by_id, ids, "left"), np.searchsorted(by_id, ids, "right")
    for query in np.flatnonzero(last > first):
        similarities[query, order[first[query] : last[query]]] = -torch.inf


def _select(
    approximate: torch.Tensor, vectors: Vectors, bank: Vectors, rank: np.ndarray, k: int
) -> tuple[Indices, Similarities]:
    """Rank the best of `approximate` (Q, N) exactly; widen where a tie reaches over the edge."""
    q, n = approximate.shape
    p = min(n, k + MARGIN)
    indices = np.empty((q, k), np.int32)
    similarities = np.empty((q, k), np.float32)
    todo = np.arange(q)
    while len(todo):
        values, candidates = approximate[torch.from_numpy(todo)].topk(p, dim=1, sorted=True)
        rows = candidates.numpy().astype(np.int32)  # (Q, P)
        exact = similarities_of(vectors[todo], bank, rows)  # (Q, P)
        exact[np.isneginf(values.numpy())] = -np.inf
        by = np.lexsort((rank[rows], -exact), axis=1)[:, :k]  # (Q, K)
        kth = np.take_along_axis(exact, by[:, -1:], axis=1)[:, 0]
        sure = (p == n) | (values[:, -1].numpy() < kth - SLACK)
        done = todo[sure]
        indices[done] = np.take_along_axis(rows, by, axis=1)[sure]
        similarities[done] = np.take_along_axis(exact, by, axis=1)[sure]
        todo = todo[~sure]
        p = min(n, 4 * p)
    return indices, similarities
