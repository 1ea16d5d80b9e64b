"""How good are an encoder's features, before any classifier has been trained on them?

Letters: Q queries, K neighbours, N bank rows, C classes.
"""

from __future__ import annotations

import numpy as np

from rapipe import metrics
from rapipe.encoder.linear_probe import fit_linear
from rapipe.records import Images, Pixels, Vectors
from rapipe.retrieval import votes
from rapipe.retrieval.search import VectorsWithIds, search

K = 20
TEMPERATURE = 0.1
SPECTRUM_ROWS = 2048
"""Rows from which the effective rank is computed."""


def knn_accuracy(
    train: Images, train_vectors: Vectors, queries: Images, query_vectors: Vectors
) -> float:
    """Top-1 accuracy (0 to 1) of a vote of the K nearest training images.

    Training images with the pixels of a query are left out; where none is left, none is right.
    """
    k = min(K, len(train) - int(np.unique(train.ids, return_counts=True)[1].max()))
    if not k:
        return 0.0
    neighbours = search(query_vectors, VectorsWithIds(train.ids, train_vectors), k, queries.ids)
    weights = votes.softmax(neighbours.similarities, TEMPERATURE)
    counts = votes.count_votes(train.labels[neighbours.indices], weights, len(train.classes))
    return metrics.top_k(counts, queries.labels, 1)


def linear_accuracy(
    train: Images, train_vectors: Vectors, queries: Images, query_vectors: Vectors
) -> float:
    """Top-1 accuracy (0 to 1) of a linear classifier of frozen features: multinomial regression.

    On standardised features, with scikit-learn's L2 penalty as it comes (C = 1).
    """
    rows = np.flatnonzero(~np.isin(train.ids, queries.ids))
    if not len(rows):
        return 0.0
    [model] = fit_linear(train_vectors, train.labels, rows)
    return float((model.predict(query_vectors) == queries.labels).mean())


def describe(
    train: Images, train_vectors: Vectors, queries: Images, query_vectors: Vectors
) -> dict[str, float]:
    """Accuracy of the neighbours' vote, spread and effective rank of the query vectors."""
    return {
        "knn_top1": knn_accuracy(train, train_vectors, queries, query_vectors),
        "feature_std": metrics.feature_std(query_vectors),
        "effective_rank": metrics.effective_rank(query_vectors[:SPECTRUM_ROWS]),
    }


def raw_pixels(pixels: Pixels) -> Vectors:
    """Pixels (N, H, W, 3) themselves as unit vectors (N, H * W * 3); black is almost black."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) + np.float32(1e-3)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / norms)
