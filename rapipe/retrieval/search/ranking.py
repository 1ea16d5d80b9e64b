"""The one rule by which neighbours are ranked, whoever found them.

A backend proposes candidates with approximate similarities. Here they are
computed again, in float64 by one order of summation, and rounded to float32:
the same pair has the same similarity in every table. Equal similarities are
ordered by id, then row. An exact backend also says how wrong its similarities
can be; a query is settled when no row that was not proposed can belong to it.

Letters: Q queries, N bank rows, D embedding, K neighbours, P candidates.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Ids, Indices, Similarities, Vectors

MARGIN = 4
"""Candidates beyond those that are asked for, so that most queries are settled at once."""
UNSETTLED = 0.2
"""Share of queries above which an index is not worth asking first."""
PAIRS = 1 << 22
"""Candidates of all queries at once: many rows may be equal, and ask for many candidates."""
HELD_BYTES = 1 << 28
"""Of float64: a smaller bank is held whole, of a larger one this much is gathered at once."""
CHUNK = 4096


class KeyedVectors(NamedTuple):
    """Vectors (N, D) of unit length and the ids (N,) they belong to: queries, or a bank."""

    ids: Ids
    vectors: Vectors


class Keyed(Protocol):
    """A bank: `Keys`, or `Embeddings`. Its vectors may be mapped from a file."""

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


class Proposed(NamedTuple):
    """Bank rows (Q, K) and their similarities (Q, K), ranked; row -1 where there are too few."""

    rows: Indices
    similarities: Similarities


class Index(Protocol):
    """A bank made ready to be searched."""

    exact: bool
    """Whether no row is missed that is more than `error` better than the last candidate."""
    error: float
    """How far an approximate similarity can be from the true one."""
    chunk: int
    """Queries to ask at once."""
    factor: int
    """Candidates worth asking for, for each neighbour."""

    @property
    def again(self) -> Index:
        """The index that settles what this one could not; itself if there is no better."""
        ...

    def candidates(self, vectors: Vectors, count: int) -> Candidates:
        """The `count` best rows of each query vector (Q, D)."""
        ...


def check_k(k: int, exclude: Ids, bank_ids: Ids) -> int:
    """Raise `UserError` unless every query has k neighbours that it may find.

    Returns:
        The most rows of the bank that one query has to leave out.
    """
    unique, counts = np.unique(bank_ids, return_counts=True)
    own = int(counts[np.isin(unique, exclude)].max(initial=0))
    most = len(bank_ids) - own
    if most < 1:
        raise UserError(
            f"retrieval.k is {k}, but the memory holds no other image than the one that asks: "
            "choose a larger retrieval.bank"
        )
    if not 1 <= k <= most:
        raise UserError(
            f"retrieval.k is {k}, but the memory offers a query at most {most} neighbours; "
            f"choose from 1 to {most}, or a larger retrieval.bank"
        )
    return own


def rank(index: Index, queries: Vectors, bank: Keyed, k: int, exclude: Ids) -> Proposed:
    """The k best of the candidates that an index proposes, for each query, by the one rule.

    An exact index is asked again, for more, until every query is settled. An
    approximate one is asked once, and may have too few.
    """
    own = check_k(k, exclude, bank.ids)
    places, products = _places(bank.ids), _Products(bank.vectors, k * len(queries))
    n, q = len(bank.ids), len(queries)
    found = Proposed(np.empty((q, k), np.int32), np.empty((q, k), np.float32))
    starts = range(0, q, index.chunk)
    for start in track(starts, "searching", len(starts)):
        part = slice(start, start + index.chunk)
        vectors, ids = np.array(queries[part]), exclude[part]
        todo, asked = np.arange(len(ids)), index
        count = min(n, (k + own) * index.factor + MARGIN)
        while len(todo):
            left = []
            step = max(1, PAIRS // count)
            for few in (todo[at : at + step] for at in range(0, len(todo), step)):
                near = asked.candidates(vectors[few], count)
                rows, exact = _ordered(
                    near.rows, vectors[few], ids[few], bank.ids, places, products
                )
                settled = near.similarities[:, -1] + asked.error < exact[:, k - 1]
                settled |= count == n or not asked.exact
                done = start + few[settled]
                found.rows[done], found.similarities[done] = rows[settled, :k], exact[settled, :k]
                left.append(few[~settled])
            todo = np.concatenate(left)
            if asked is asked.again:
                count = min(n, 4 * count)
            elif len(todo) > UNSETTLED * len(ids):
                index = asked.again  # for the other chunks too
            asked = asked.again
        memory_map.release_pages()
    return found


def similarities_of(queries: Vectors, bank_vectors: Vectors, rows: Indices) -> Similarities:
    """Cosine similarities (Q, P) of queries (Q, D) to rows (Q, P) of the bank."""
    found = np.empty(rows.shape, np.float32)
    bank = _Products(bank_vectors, rows.size)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = bank.similarities(np.array(queries[part]), rows[part])
        memory_map.release_pages()
    return found


class _Products:
    """Products of queries with single rows of a bank (N, D), in float64.

    Each is one sum along D in one order, whatever else is computed beside it;
    matrix products give no such promise.
    """

    def __init__(self, bank: Vectors, wanted: int) -> None:
        """Make a bank ready for so many products."""
        self.bank = bank
        self.d = bank.shape[1]
        self.whole: Tensor | None = None
        if bank.size * 8 <= HELD_BYTES and wanted > len(bank):
            self.whole = torch.from_numpy(bank.astype(np.float64))

    def similarities(self, queries: Vectors, rows: Indices) -> Similarities:
        """Cosine similarities (Q, P) of queries (Q, D) to rows (Q, P), rounded to float32."""
        q, p = rows.shape
        found = np.empty((q, p), np.float32)
        own = torch.from_numpy(queries.astype(np.float64))
        wide = HELD_BYTES // (8 * self.d)  # pairs at once
        width = min(p, wide) if self.whole is None else p
        height = max(1, wide // width) if self.whole is None else q
        for top in range(0, q, height):
            for left in range(0, p, width):
                part = np.s_[top : top + height, left : left + width]
                found[part] = self._of(own[top : top + height], rows[part])
        return found

    def _of(self, queries: Tensor, rows: Indices) -> Similarities:
        q, p = rows.shape
        bank, columns = self.whole, torch.from_numpy(rows.astype(np.int64).reshape(-1))
        if bank is None:
            bank = torch.from_numpy(
                memory_map.take_rows(self.bank, rows.reshape(-1)).astype(np.float64)
            )
            columns = torch.arange(q * p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # sparse tensors are in beta state
            wanted = torch.sparse_csr_tensor(
                torch.arange(0, q * p + 1, p),
                columns,
                torch.zeros(q * p, dtype=torch.float64),
                (q, len(bank)),
                check_invariants=False,  # a row may stand twice, and in any order
            )
            products = torch.sparse.sampled_addmm(wanted, queries, bank.T, beta=0.0)
        return np.asarray(products.values().view(q, p).float().numpy())


class _Places(NamedTuple):
    """Bank rows by (id, row): the place (N,) of each row, and the row (N,) of each place."""

    of_row: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def _places(bank_ids: Ids) -> _Places:
    rows = np.argsort(bank_ids, kind="stable")
    of_row = np.empty_like(rows)
    of_row[rows] = np.arange(len(rows))
    return _Places(of_row, rows)


def _ordered(
    rows: Indices, vectors: Vectors, ids: Ids, bank_ids: Ids, places: _Places, products: _Products
) -> tuple[Indices, Similarities]:
    """Candidates (Q, P) by falling similarity; those that a query may not find come last."""
    at = places.of_row[rows]
    at[rows < 0] = -1
    at = torch.from_numpy(at).sort(dim=1).values.numpy()
    rows = places.rows[at].astype(np.int32)  # (Q, P), equal similarities stay in this order
    exact = products.similarities(vectors, rows)
    barred = (at < 0) | (bank_ids[rows] == ids[:, None])
    exact[barred] = -np.inf
    rows[barred] = -1
    ranked = torch.from_numpy(exact).sort(dim=1, descending=True, stable=True)
    return np.take_along_axis(rows, ranked.indices.numpy(), 1), ranked.values.numpy()
