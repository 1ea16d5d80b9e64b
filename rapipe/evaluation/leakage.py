"""Does anything that is held out reach what is learned from, or looked up?

What must never be is found by id, which equal pixels share: an id in two places,
a query that finds itself, a row that does not exist. What may be, and should be
known, is a test image that is nearly a copy of one in the memory. How alike is
nearly a copy? Two images of different classes are not copies of each other, so
likeness up to what validation images have with other classes proves nothing.
Above it are near copies, and images of one class that are merely much alike: who
reads the list decides by looking.

Letters: Q queries, N bank rows, K neighbours, D embedding, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rapipe.device import device
from rapipe.io import memory_map
from rapipe.records import UNLABELLED, Ids, Labels, Neighbours, Vectors
from rapipe.retrieval.search import similarities_of

QUANTILE = 0.999
"""Of the likeness of validation images to other classes: one in a thousand is above by chance."""
BINS = 50
CHUNK, TILE = 1024, 8192
"""Queries and bank rows compared at once: 32 MiB of similarities."""
NOTHING = np.zeros(0, np.bool_)
Likeness = npt.NDArray[np.float32]  # (Q,), cosine; nan = nothing to be like


def shared_ids(one: Ids, other: Ids) -> Ids:
    """Ids that are in both, ascending."""
    return np.intersect1d(one, other)


def outside_bank(table: Neighbours, rows: int) -> Ids:
    """Ids of the queries with a neighbour beyond a bank of so many rows."""
    starts = range(0, len(table.indices), TILE)
    wrong = [(table.indices[start : start + TILE] >= rows).any(axis=1) for start in starts]
    return np.asarray(table.query_ids[np.concatenate([NOTHING, *wrong])])


def self_hits(table: Neighbours, bank_ids: Ids) -> Ids:
    """Ids of the queries that retrieve themselves; no neighbour may be outside the bank (N,)."""
    wrong = [NOTHING]
    for start in range(0, len(table.indices), TILE):
        part = slice(start, start + TILE)
        neighbour_ids = bank_ids[table.indices[part]]  # (Q, K)
        wrong.append(np.asarray((neighbour_ids == table.query_ids[part, None]).any(axis=1)))
        memory_map.release_pages()
    return np.asarray(table.query_ids[np.concatenate(wrong)])


def other_class_similarity(
    queries: Vectors, labels: Labels, bank: Vectors, bank_labels: Labels
) -> Likeness:
    """Cosine similarity (Q,) of each query to the most similar bank row of another class.

    A label may be any number from 0 on, known to the task or not. Rows without one
    are not compared, since they may be of the query's class.

    Args:
        queries: (Q, D) of unit length.
        labels: (Q,), all of them at least 0.
        bank: (N, D) of unit length; may be mapped from a file larger than memory.
        bank_labels: (N,), -1 = none.

    Returns:
        nan where the bank has no labelled row of another class. The rows are chosen in
        float32, so a value may be below the largest by what float32 rounds.
    """
    n, q = len(bank_labels), len(labels)
    best, row = torch.full((q,), -torch.inf), torch.full((q,), -1)
    for left in range(0, n, TILE):
        tile = torch.from_numpy(memory_map.in_memory(bank[left : left + TILE])).to(device())
        tile_labels = torch.from_numpy(np.array(bank_labels[left : left + TILE])).to(device())
        for top in range(0, q, CHUNK):
            part = slice(top, top + CHUNK)
            chunk = torch.from_numpy(np.array(queries[part])).to(device())
            chunk_labels = torch.from_numpy(np.array(labels[part])).to(device())
            products = chunk @ tile.T  # (Q, N)
            same_class = tile_labels == chunk_labels[:, None]
            products.masked_fill_((tile_labels < 0) | same_class, -torch.inf)
            value, column = (result.cpu() for result in products.max(dim=1))  # (Q,), (Q,)
            better = value > best[part]
            best[part][better], row[part][better] = value[better], column[better] + left
        memory_map.release_pages()
    similarities = np.full(q, np.nan, np.float32)
    comparable = np.flatnonzero(row.numpy() >= 0)
    rows = row.numpy()[comparable, None].astype(np.int32)  # (Q, 1)
    # By the rule of `search`.
    similarities[comparable] = similarities_of(queries[comparable], bank, rows)[:, 0]
    return similarities


def threshold(similarities: Likeness, quantile: float = QUANTILE) -> float | None:
    """The similarity above which at most a share of 1 - quantile of these (Q,) lies.

    It is one of them, so with fewer than 1 / (1 - quantile) it is the largest: choose
    it by those of validation, never of test. nan is left out.

    Returns:
        None if there are none.
    """
    numbers = similarities[~np.isnan(similarities)]
    return float(np.quantile(numbers, quantile, method="higher")) if len(numbers) else None


@dataclass(frozen=True)
class NearDuplicates:
    """Queries (Q,) and the bank rows (Q,) that they are nearly copies of, most similar first."""

    queries: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    similarities: Likeness
    same_class: npt.NDArray[np.bool_]
    """Whether the two have the same label; a row without a label has not."""


def near_duplicates(
    nearest: Neighbours, labels: Labels, bank_labels: Labels, above: float | None
) -> NearDuplicates:
    """The queries whose nearest bank row is more similar than `above`; none if that is None.

    Args:
        nearest: a table with K = 1.
        labels: (Q,) of the queries.
        bank_labels: (N,), -1 = none.
    """
    likeness = nearest.similarities[:, 0]
    queries = np.flatnonzero(likeness > (np.inf if above is None else above))
    queries = queries[np.argsort(-likeness[queries], kind="stable")]
    rows = nearest.indices[queries, 0].astype(np.int64)
    same_class = (bank_labels[rows] == labels[queries]) & (bank_labels[rows] != UNLABELLED)
    return NearDuplicates(queries, rows, likeness[queries], same_class)


def histograms(bins: int = BINS, **similarities: Likeness) -> dict[str, list[float] | list[int]]:
    """Counts (B,) of several sets of similarities by name, and the `edges` (B + 1) they share.

    The edges go from the lowest similarity, rounded down to a hundredth, to 1. nan is left out.
    """
    numbers = {
        name: values[~np.isnan(values)].astype(np.float64) for name, values in similarities.items()
    }
    lowest = np.concatenate([*numbers.values()]).min(initial=0.99)
    edges = np.linspace(np.floor(lowest * 100) / 100, 1, bins + 1)
    counts = {
        name: np.histogram(np.minimum(values, 1), edges)[0].tolist()
        for name, values in numbers.items()
    }
    return {"edges": np.round(edges, 6).tolist(), **counts}
