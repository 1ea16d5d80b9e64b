"""A first-in-first-out memory: the nearest of what was seen a short while ago.

The bank is a stream in one order for all trainings, so its tables are prefetched like any
other. Queries that stand close together in the stream share most of their windows: what
they share is searched once, exactly, and what they do not share is compared row by row.
At most one window is copied at a time.

Letters: B queries of a segment, S places of a segment, W rows of a window, N bank rows,
K neighbours.
"""

from __future__ import annotations

import numpy as np

from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Embeddings, Ids, Neighbours
from rapipe.retrieval.search import KeyedVectors, check_k, similarities_of
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

SEGMENT = 128
"""Places of the stream whose queries are served together."""


def replay(queries: KeyedVectors, bank: Embeddings, ask: RetrievalRequest) -> Neighbours:
    """The k nearest of the images that came just before in a stream: a first-in-first-out memory.

    The images of the bank come in an order that depends on the seed and their ids alone, so
    it stays what it is for the others when some are removed. A query that is in the bank
    sees the `ask.replay` rows before its own (the stream is a cycle, as in a second epoch);
    any other query sees the last `ask.replay` rows of the stream. All others are seen where
    there are no more. It never sees its own id.

    Source: Rolnick et al., "Experience Replay for Continual Learning", NeurIPS 2019.
    (The idea is from Lin, "Self-Improving Reactive Agents Based on Reinforcement Learning,
    Planning and Teaching", Machine Learning 1992.)

    Raises:
        NotServedError: k is larger than `ask.replay`.
        UserError: k is out of range.
    """
    check_k(ask.k, queries.ids, bank.ids)
    if ask.k > ask.replay:
        raise NotServedError(
            f"retrieval.replay is {ask.replay}, but retrieval.k is {ask.k}; choose a "
            f"retrieval.replay of at least {ask.k}, or a smaller retrieval.k"
        )
    stream = stream_of(bank.ids, ask.seed)
    places = _places(queries.ids, bank.ids[stream])  # (Q,), -1 = not in the bank
    shape = len(places), ask.k
    found = Proposed(np.empty(shape, np.int32), np.empty(shape, np.float32))
    window = min(ask.replay, len(bank) - 1)
    span = min(SEGMENT, window + 1)
    segments = np.where(places < 0, -1, places // span)
    each = np.unique(segments).tolist()
    for segment in track(each, "replaying", len(each)):
        asking = np.flatnonzero(segments == segment)
        keys = KeyedVectors(queries.ids[asking], memory_map.lazy_rows(queries.vectors, asking))
        if segment < 0:
            near = _nearest_of(np.sort(stream[-ask.replay :]), keys, bank, ask.k)
        else:
            start = segment * span
            offsets = places[asking] - start
            near = _in_segment(keys, bank, stream, (start, span, window), offsets, ask.k)
        found.rows[asking], found.similarities[asking] = near
    return Neighbours(queries.ids, *found, EXACTLY)


def stream_of(ids: Ids, seed: int) -> Rows:
    """The order (N,) in which the rows of a bank come; copies come together.

    Ids are mixed as in SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014), which gives no two of them the same place.
    """
    start = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    mixed = np.add(ids.astype(np.uint64), start, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * np.uint64(factor)
    return np.argsort(mixed ^ (mixed >> 31), kind="stable")


def _places(ids: Ids, streamed: Ids) -> Rows:
    """Where in the stream (N,) each id (Q,) comes first; -1 where it does not come.

    Copies come together, so those of a query are in its window only if all others are, too.
    """
    unique, first = np.unique(streamed, return_index=True)
    at = np.minimum(np.searchsorted(unique, ids), len(unique) - 1)
    return np.where(unique[at] == ids, first[at], -1)


def _nearest_of(rows: Rows, queries: KeyedVectors, bank: Embeddings, k: int) -> Proposed:
    """Up to k nearest of these rows of the bank."""
    near, _ = nearest(queries, bank.take(rows), k)
    return Proposed(rows_of(rows, near.rows), near.similarities)


def _in_segment(
    queries: KeyedVectors,
    bank: Embeddings,
    stream: Rows,
    layout: tuple[int, int, int],
    offsets: Rows,
    k: int,
) -> Proposed:
    """The k nearest in each query's window, for queries of one segment of the stream.

    Args:
        layout: the segment's first place, its length S, and the length W of a window.
        offsets: (B,) of the queries in the segment.
    """
    start, span, window = layout
    n, edge = len(stream), np.arange(span - 1)
    # The query at offset j sees places from start + j - W to start + j - 1. All see this:
    shared = stream[np.arange(start + span - 1 - window, start) % n]
    # Of these stretches before and after it, j sees the first from j on, the second up to j:
    around = stream[np.concatenate([start - window + edge, start + edge]) % n]
    columns = np.where(edge >= offsets[:, None], edge, edge + span - 1)  # (B, S - 1)
    vectors = memory_map.take_rows(bank.vectors, around)
    similarities = similarities_of(queries.vectors, vectors, columns.astype(np.int32))
    rows = around[columns].astype(np.int32)
    own = bank.ids[rows] == queries.ids[:, None]
    rows[own], similarities[own] = -1, -np.inf
    if len(shared):
        core = _nearest_of(np.sort(shared), queries, bank, min(k, len(shared)))
        rows = np.concatenate([rows, core.rows], axis=1)
        similarities = np.concatenate([similarities, core.similarities], axis=1)
    return ranked(rows, similarities, bank.ids, k)
