"""The nearest of other classes: neighbours that mislead.

Letters: Q queries, N bank rows, K neighbours.
"""

from __future__ import annotations

import numpy as np

from rapipe.records import UNLABELLED, Embeddings, Labels, Neighbours
from rapipe.retrieval.search import VectorsWithIds, check_k
from rapipe.retrieval.search.ranking import TopK
from rapipe.retrieval.strategies.base import (
    NotServedError,
    RetrievalRequest,
    Rows,
    nearest,
    to_bank_rows,
)


def hard(queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest) -> Neighbours:
    """The nearest images of other classes than the predicted one: a stress test.

    The predicted class of a query is the one of most of its k nearest (of the nearest, if
    several classes have equally many), unlabelled rows left out. If none of the k has a
    label, it is the class of the nearest row that has one. The query's label plays no part,
    not even in training: at test time it would give the answer away, since the right class
    would be the one that is missing.

    The k nearest are searched by `request.method`, those of other classes exactly; meanwhile
    the bank without the class in question is copied.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face
    Recognition and Clustering", CVPR 2015.

    Raises:
        NotServedError: the labelled rows are of one class, or too few are of others.
        ArgumentError: `k` is out of range.
    """
    most_excluded = check_k(request.k, queries.ids, bank.ids)
    _check_classes(bank.labels, request.k, most_excluded)
    near, facts = nearest(queries, bank, request.k, request.method)
    predicted = plurality(bank.labels[near.rows])  # (Q,)
    _predict_by_nearest_label(predicted, queries, bank)
    top = TopK(np.empty_like(near.rows), np.empty_like(near.similarities))
    for label in np.unique(predicted):
        group = np.flatnonzero(predicted == label)
        others: Rows = np.flatnonzero((bank.labels >= 0) & (bank.labels != label))
        misleading, _ = nearest(queries.take(group), bank.take(others), request.k)
        top.rows[group] = to_bank_rows(others, misleading.rows)
        top.similarities[group] = misleading.similarities
    return Neighbours(queries.ids, *top, facts)


def plurality(labels: Labels) -> Labels:
    """The most frequent label (Q,) of labels (Q, K), nearest first; of equals the nearest one.

    -1 has no vote, and is the result where there is nothing else.
    """
    q, k = labels.shape
    votes = np.stack([(labels == labels[:, [column]]).sum(axis=1) for column in range(k)], axis=1)
    votes[labels == UNLABELLED] = 0
    return np.asarray(labels[np.arange(q), votes.argmax(axis=1)])


def _predict_by_nearest_label(predicted: Labels, queries: VectorsWithIds, bank: Embeddings) -> None:
    """Replace each -1 by the class of the query's nearest labelled row."""
    group = np.flatnonzero(predicted == UNLABELLED)
    if len(group):
        labelled = bank.take(np.flatnonzero(bank.labels >= 0))
        near, _ = nearest(queries.take(group), labelled, 1)
        predicted[group] = labelled.labels[near.rows[:, 0]]


def _check_classes(labels: Labels, k: int, most_excluded: int) -> None:
    """Raise `NotServedError` unless k rows are left whichever class is predicted.

    Args:
        most_excluded: the most rows that one query excludes.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) < 2:
        raise NotServedError(
            "`strategies` has 'hard', which needs labelled images of two classes or more, but "
            f"the bank has them of {len(classes)}; choose other `strategies`, or another `bank`"
        )
    most = int(counts.sum() - counts.max()) - most_excluded
    if k > most:
        fewer = f"at most {most}, " if most > 0 else ""
        raise NotServedError(
            f"`k` is {k}, but for 'hard' of `strategies` the bank is sure to offer only "
            f"{max(0, most)} labelled images of other classes; choose {fewer}other strategies, "
            "or a larger `bank`"
        )
