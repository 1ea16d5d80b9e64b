"""A first-in-first-out memory: the nearest of the images that came shortly before.

The bank is a stream in one order for all trainings, so its tables are prefetched like any
other. Queries at close positions of the stream share most of their windows: what they share
is searched once, exactly, and what they do not share is compared row by row. At most one
window is copied at a time.

Letters: B queries of a segment, S positions of a segment, W rows of a window, N bank rows,
K neighbours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Embeddings, Ids, Neighbours
from rapipe.retrieval.search import VectorsWithIds, check_k, similarities_of
from rapipe.retrieval.search.ranking import TopK, top_k
from rapipe.retrieval.strategies.base import (
    EXACT_SEARCH,
    NotServedError,
    RetrievalRequest,
    Rows,
    nearest,
    to_bank_rows,
)

SEGMENT = 128
"""Positions of the stream whose queries are searched together."""


def replay(queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest) -> Neighbours:
    """The k nearest of the images that came just before in a stream: a first-in-first-out memory.

    The images of the bank come in an order that depends only on the seed and their ids, so
    it stays what it is for the others when some are removed. A query that is in the bank
    sees the `request.replay` rows before its position (the stream is a cycle, as in a second
    epoch); any other query sees the last `request.replay` rows of the stream. If there are
    no more rows, a query sees all the others. It never sees its own id.

    Source: Rolnick et al., "Experience Replay for Continual Learning", NeurIPS 2019.
    (The idea is from Lin, "Self-Improving Reactive Agents Based on Reinforcement Learning,
    Planning and Teaching", Machine Learning 1992.)

    Raises:
        NotServedError: `k` is larger than `replay`.
        ArgumentError: `k` is out of range.
    """
    k, size = request.k, request.replay
    check_k(k, queries.ids, bank.ids)
    check_room(k, size)
    stream = stream_order(bank.ids, request.seed)
    positions = positions_of(queries.ids, bank.ids[stream])  # (Q,), -1 = not in the bank
    shape = len(positions), k
    top = TopK(np.empty(shape, np.int32), np.empty(shape, np.float32))
    window = min(size, len(bank) - 1)
    span = min(SEGMENT, window + 1)
    segments = np.where(positions < 0, -1, positions // span)
    unique = np.unique(segments).tolist()
    for segment in track(unique, "replaying", len(unique)):
        group = np.flatnonzero(segments == segment)
        part = queries.take(group)
        if segment < 0:
            near = nearest_in(np.sort(stream[-size:]), part, bank, k)
        else:
            start = segment * span
            offsets = positions[group] - start
            near = _nearest_in_segment(part, bank, stream, (start, span, window), offsets, k)
        top.rows[group], top.similarities[group] = near
    return Neighbours(queries.ids, *top, EXACT_SEARCH)


def check_room(k: int, size: int) -> None:
    """Raise `NotServedError` if a replay memory of this size cannot show k rows."""
    if k > size:
        raise NotServedError(
            f"`replay` is {size}, but `k` is {k}; choose a `replay` of at least {k}, or a "
            "smaller `k`"
        )


def stream_order(ids: Ids, seed: int) -> Rows:
    """The order (N,) in which the rows of a bank come; copies come together."""
    return np.argsort(mix_ids(ids, seed), kind="stable")


def mix_ids(ids: Ids, seed: int) -> npt.NDArray[np.uint64]:
    """A random number (N,) for each id, which depends on it and the seed alone.

    Ids are mixed as in SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014), which gives no two of them the same number.
    """
    start = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    mixed = np.add(ids.astype(np.uint64), start, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> 31))


def positions_of(ids: Ids, stream_ids: Ids) -> Rows:
    """The first position of each id (Q,) in the stream (N,); -1 if it is not in it.

    Copies come together, so those of a query are in its window only if all others are, too.
    """
    unique, first = np.unique(stream_ids, return_index=True)
    at = np.minimum(np.searchsorted(unique, ids), len(unique) - 1)
    return np.where(unique[at] == ids, first[at], -1)


def nearest_in(subset: Rows, queries: VectorsWithIds, bank: Embeddings, k: int) -> TopK:
    """Up to k nearest of a subset of the bank."""
    near, _ = nearest(queries, bank.take(subset), k)
    return TopK(to_bank_rows(subset, near.rows), near.similarities)


def _nearest_in_segment(
    queries: VectorsWithIds,
    bank: Embeddings,
    stream: Rows,
    layout: tuple[int, int, int],
    offsets: Rows,
    k: int,
) -> TopK:
    """The k nearest in each query's window, for queries of one segment of the stream.

    Args:
        layout: the segment's first position, its length S, and the length W of a window.
        offsets: (B,) of the queries in the segment.
    """
    start, span, window = layout
    n, edge = len(stream), np.arange(span - 1)
    # The query at offset j sees positions from start + j - W to start + j - 1. All see this:
    shared = stream[np.arange(start + span - 1 - window, start) % n]
    # Of these stretches before and after it, j sees the first from j on, the second up to j:
    around = stream[np.concatenate([start - window + edge, start + edge]) % n]
    columns = np.where(edge >= offsets[:, None], edge, edge + span - 1)  # (B, S - 1)
    vectors = memory_map.take_rows(bank.vectors, around)
    similarities = similarities_of(queries.vectors, vectors, columns.astype(np.int32))
    rows = around[columns].astype(np.int32)
    excluded = bank.ids[rows] == queries.ids[:, None]
    rows[excluded], similarities[excluded] = -1, -np.inf
    if len(shared):
        core = nearest_in(np.sort(shared), queries, bank, min(k, len(shared)))
        rows = np.concatenate([rows, core.rows], axis=1)
        similarities = np.concatenate([similarities, core.similarities], axis=1)
    return top_k(rows, similarities, bank.ids, k)
