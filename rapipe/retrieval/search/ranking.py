"""The one rule by which neighbours are ranked, whichever backend proposes them.

A backend proposes candidates with approximate similarities. Here they are
computed again, in float64 by one order of summation, and rounded to float32:
the same pair has the same similarity in every table. Equal similarities are
ordered by id, then row. An exact backend also says how wrong its similarities
can be; a query is settled when no row that was not proposed can belong to its neighbours.

Letters: Q queries, N bank rows, D embedding, K neighbours, P candidates.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.errors import ArgumentError
from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Ids, Indices, Similarities, Vectors

MARGIN = 4
"""Candidates beyond those that are needed, so that most queries are settled at once."""
UNSETTLED = 0.2
"""Share of unsettled queries above which the exact fallback is searched first."""
PAIRS = 1 << 22
"""Candidates of all queries at once: many rows may be equal, and need many candidates."""
FLOAT64_BYTES = 1 << 28
"""A smaller bank is copied to float64; of a larger one this much is gathered at once."""
CHUNK = 4096


class VectorsWithIds(NamedTuple):
    """Vectors (N, D) of unit length and their ids (N,): queries, or a bank."""

    ids: Ids
    vectors: Vectors

    def take(self, rows: npt.NDArray[np.int64]) -> VectorsWithIds:
        """These rows; the vectors are read when they are used."""
        return VectorsWithIds(self.ids[rows], memory_map.lazy_rows(self.vectors, rows))


class Bank(Protocol):
    """A bank: `VectorsWithIds`, or `Embeddings`. Its vectors may be mapped from a file."""

    @property
    def ids(self) -> Ids: ...
    @property
    def vectors(self) -> Vectors: ...


class Candidates(NamedTuple):
    """Bank rows (Q, P) and their approximate similarities (Q, P), best first.

    Where there are too few, the row is -1.
    """

    rows: Indices
    similarities: Similarities


class TopK(NamedTuple):
    """Bank rows (Q, K) and their similarities (Q, K), ranked; row -1 where there are too few."""

    rows: Indices
    similarities: Similarities


class Index(Protocol):
    """A bank that can be searched."""

    exact: bool
    """Whether no row is missed that is more than `error` better than the last candidate."""
    error: float
    """How far an approximate similarity can be from the true one."""
    chunk: int
    """Queries to search at once."""
    factor: int
    """Candidates to propose for each neighbour."""

    @property
    def exact_fallback(self) -> Index:
        """The index that settles what this one cannot; itself if there is no better."""
        ...

    def candidates(self, vectors: Vectors, count: int) -> Candidates:
        """The `count` best rows of each query vector (Q, D)."""
        ...


def count_excluded(exclude: Ids, bank_ids: Ids) -> int:
    """The most rows of the bank that one query excludes."""
    unique, counts = np.unique(bank_ids, return_counts=True)
    return int(counts[np.isin(unique, exclude)].max(initial=0))


def check_k(k: int, exclude: Ids, bank_ids: Ids) -> int:
    """Raise `ArgumentError` unless every query has k neighbours after its exclusions.

    Returns:
        The most rows of the bank that one query excludes.
    """
    most_excluded = count_excluded(exclude, bank_ids)
    most = len(bank_ids) - most_excluded
    if most < 1:
        raise ArgumentError(
            f"`k` is {k}, but the bank holds no other image than the query itself: "
            "raise `bank` if it is limited, or add images"
        )
    if not 1 <= k <= most:
        raise ArgumentError(
            f"`k` is {k}, but the bank offers a query at most {most} neighbours; "
            f"choose from 1 to {most}, raise `bank` if it is limited, or add images"
        )
    return most_excluded


def rank(index: Index, queries: Vectors, bank: Bank, k: int, exclude: Ids) -> TopK:
    """The k best of the candidates that an index proposes, for each query, by the one rule.

    An exact index is searched again, for more candidates, until every query is settled. An
    approximate one is searched once, and may propose too few.
    """
    most_excluded = check_k(k, exclude, bank.ids)
    return rank_up_to(index, queries, bank, k, exclude, most_excluded)


def rank_up_to(
    index: Index, queries: Vectors, bank: Bank, k: int, exclude: Ids, most_excluded: int
) -> TopK:
    """The same where a query may have fewer than k, the rest of which is row -1.

    Args:
        k: at most the number of rows.
        most_excluded: the most rows of the bank that one query excludes.
    """
    id_order, products = _id_order(bank.ids), _Products(bank.vectors, k * len(queries))
    n, q = len(bank.ids), len(queries)
    top = TopK(np.empty((q, k), np.int32), np.empty((q, k), np.float32))
    starts = range(0, q, index.chunk)
    for start in track(starts, "searching", len(starts)):
        part = slice(start, start + index.chunk)
        vectors, ids = np.array(queries[part]), exclude[part]
        unsettled, current = np.arange(len(ids)), index
        count = min(n, (k + most_excluded) * index.factor + MARGIN)
        while len(unsettled):
            remaining = []
            step = max(1, PAIRS // count)
            for block in (unsettled[at : at + step] for at in range(0, len(unsettled), step)):
                near = current.candidates(vectors[block], count)
                rows, similarities = _rank_candidates(
                    near.rows, vectors[block], ids[block], bank.ids, id_order, products
                )
                settled = near.similarities[:, -1] + current.error < similarities[:, k - 1]
                settled |= count == n or not current.exact
                done = start + block[settled]
                top.rows[done] = rows[settled, :k]
                top.similarities[done] = similarities[settled, :k]
                remaining.append(block[~settled])
            unsettled = np.concatenate(remaining)
            if current is current.exact_fallback:
                count = min(n, 4 * count)
            elif len(unsettled) > UNSETTLED * len(ids):
                index = current.exact_fallback  # for the other chunks too
            current = current.exact_fallback
        memory_map.release_pages()
    return top


def top_k(rows: Indices, similarities: Similarities, bank_ids: Ids, k: int) -> TopK:
    """The k best of candidates (Q, P), by the rule of `search`.

    Equal similarities are ordered by id, then row. Row -1, of similarity -inf, comes last.
    """
    order = np.lexsort((rows, bank_ids[rows], -similarities), axis=1)[:, :k]
    return TopK(
        np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarities, order, axis=1)
    )


def similarities_of(queries: Vectors, bank_vectors: Vectors, rows: Indices) -> Similarities:
    """Cosine similarities (Q, P) of queries (Q, D) to rows (Q, P) of the bank."""
    similarities = np.empty(rows.shape, np.float32)
    products = _Products(bank_vectors, rows.size)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        similarities[part] = products.similarities(np.array(queries[part]), rows[part])
        memory_map.release_pages()
    return similarities


class _Products:
    """Products of queries with single rows of a bank (N, D), in float64.

    Each is one sum along D in one order, whatever else is computed beside it;
    matrix products give no such promise.
    """

    def __init__(self, bank: Vectors, count: int) -> None:
        """Prepare a bank for `count` products."""
        self.bank = bank
        self.d = bank.shape[1]
        self.float64_bank: Tensor | None = None
        if bank.size * 8 <= FLOAT64_BYTES and count > len(bank):
            self.float64_bank = torch.from_numpy(bank.astype(np.float64))

    def similarities(self, queries: Vectors, rows: Indices) -> Similarities:
        """Cosine similarities (Q, P) of queries (Q, D) to rows (Q, P), rounded to float32."""
        q, p = rows.shape
        similarities = np.empty((q, p), np.float32)
        query_tensor = torch.from_numpy(queries.astype(np.float64))
        pairs = FLOAT64_BYTES // (8 * self.d)  # at once
        width = min(p, pairs) if self.float64_bank is None else p
        height = max(1, pairs // width) if self.float64_bank is None else q
        for top in range(0, q, height):
            for left in range(0, p, width):
                part = np.s_[top : top + height, left : left + width]
                similarities[part] = self._multiply(query_tensor[top : top + height], rows[part])
        return similarities

    def _multiply(self, queries: Tensor, rows: Indices) -> Similarities:
        q, p = rows.shape
        bank, columns = self.float64_bank, torch.from_numpy(rows.astype(np.int64).reshape(-1))
        if bank is None:
            bank = torch.from_numpy(
                memory_map.take_rows(self.bank, rows.reshape(-1)).astype(np.float64)
            )
            columns = torch.arange(q * p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # sparse tensors are in beta state
            pattern = torch.sparse_csr_tensor(
                torch.arange(0, q * p + 1, p),
                columns,
                torch.zeros(q * p, dtype=torch.float64),
                (q, len(bank)),
                check_invariants=False,  # a row may stand twice, and in any order
            )
            products = torch.sparse.sampled_addmm(pattern, queries, bank.T, beta=0.0)
        return np.asarray(products.values().view(q, p).float().numpy())


class _IdOrder(NamedTuple):
    """Bank rows sorted by (id, row): the position (N,) of each row, and the rows (N,) in order."""

    position: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def _id_order(bank_ids: Ids) -> _IdOrder:
    rows = np.argsort(bank_ids, kind="stable")
    position = np.empty_like(rows)
    position[rows] = np.arange(len(rows))
    return _IdOrder(position, rows)


def _rank_candidates(
    rows: Indices,
    vectors: Vectors,
    ids: Ids,
    bank_ids: Ids,
    id_order: _IdOrder,
    products: _Products,
) -> tuple[Indices, Similarities]:
    """Candidates (Q, P) by falling similarity; those that a query excludes come last."""
    positions = id_order.position[rows]
    positions[rows < 0] = -1
    positions = torch.from_numpy(positions).sort(dim=1).values.numpy()
    rows = id_order.rows[positions].astype(np.int32)  # (Q, P), equal similarities stay so
    similarities = products.similarities(vectors, rows)
    excluded = (positions < 0) | (bank_ids[rows] == ids[:, None])
    similarities[excluded] = -np.inf
    rows[excluded] = -1
    ranked = torch.from_numpy(similarities).sort(dim=1, descending=True, stable=True)
    return np.take_along_axis(rows, ranked.indices.numpy(), 1), ranked.values.numpy()
