"""The nearest of other classes: neighbours that mislead.

Letters: Q queries, N bank rows, K neighbours.
"""

from __future__ import annotations

import numpy as np

from rapipe.io import memory_map
from rapipe.records import UNLABELLED, Embeddings, Labels, Neighbours
from rapipe.retrieval.search import KeyedVectors, check_k
from rapipe.retrieval.search.ranking import Proposed
from rapipe.retrieval.strategies.base import (
    NotServedError,
    RetrievalRequest,
    Rows,
    nearest,
    rows_of,
)


def hard(queries: KeyedVectors, bank: Embeddings, ask: RetrievalRequest) -> Neighbours:
    """The nearest images of other classes than the query seems to have: a stress test.

    The class that a query seems to have is the one of most of its k nearest (of the
    nearest, if several classes have equally many), rows without label left out. If none of
    the k has a label, it is the class of the nearest row that has one. The query's own
    label plays no part, in training neither: at test time it would give the answer away,
    since whatever was not shown would be right.

    The k nearest are found by `ask.method`, those of other classes exactly; the bank
    without the class in question is copied meanwhile.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face
    Recognition and Clustering", CVPR 2015.

    Raises:
        NotServedError: the labelled rows are of one class, or too few are of others.
        UserError: k is out of range.
    """
    own = check_k(ask.k, queries.ids, bank.ids)
    _check_classes(bank.labels, ask.k, own)
    near, facts = nearest(queries, bank, ask.k, ask.method)
    seeming = plurality(bank.labels[near.rows])  # (Q,)
    _ask_the_labelled(seeming, queries, bank)
    found = Proposed(np.empty_like(near.rows), np.empty_like(near.similarities))
    for label in np.unique(seeming):
        asking = np.flatnonzero(seeming == label)
        others: Rows = np.flatnonzero((bank.labels >= 0) & (bank.labels != label))
        there, _ = nearest(_some(queries, asking), bank.take(others), ask.k)
        found.rows[asking] = rows_of(others, there.rows)
        found.similarities[asking] = there.similarities
    return Neighbours(queries.ids, *found, facts)


def plurality(labels: Labels) -> Labels:
    """The label (Q,) that most of labels (Q, K) are, nearest first; of equals the nearest one.

    -1 has no vote, and is the answer where there is nothing else.
    """
    q, k = labels.shape
    votes = np.stack([(labels == labels[:, [place]]).sum(axis=1) for place in range(k)], axis=1)
    votes[labels == UNLABELLED] = 0
    return np.asarray(labels[np.arange(q), votes.argmax(axis=1)])


def _ask_the_labelled(seeming: Labels, queries: KeyedVectors, bank: Embeddings) -> None:
    """Replace each -1 by the class of the query's nearest row that has one."""
    asking = np.flatnonzero(seeming == UNLABELLED)
    if len(asking):
        known = bank.take(np.flatnonzero(bank.labels >= 0))
        near, _ = nearest(_some(queries, asking), known, 1)
        seeming[asking] = known.labels[near.rows[:, 0]]


def _some(queries: KeyedVectors, rows: np.ndarray) -> KeyedVectors:
    return KeyedVectors(queries.ids[rows], memory_map.lazy_rows(queries.vectors, rows))


def _check_classes(labels: Labels, k: int, own: int) -> None:
    """Raise `NotServedError` unless k rows are left whichever class a query seems to have.

    Args:
        own: the most rows that one query has to leave out.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) < 2:
        raise NotServedError(
            "retrieval.strategies has 'hard', which needs labelled images of two classes or "
            f"more, but the memory has them of {len(classes)}; choose other strategies, or "
            "another retrieval.bank"
        )
    most = int(counts.sum() - counts.max()) - own
    if k > most:
        fewer = f"at most {most}, " if most > 0 else ""
        raise NotServedError(
            f"retrieval.k is {k}, but for 'hard' of retrieval.strategies the memory is sure to "
            f"offer only {max(0, most)} labelled images of other classes; choose {fewer}other "
            "strategies, or a larger retrieval.bank"
        )
