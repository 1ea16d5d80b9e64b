"""What does noise do to a neighbourhood, and what does that cost?

Letters: Q queries, K neighbours.
"""

from __future__ import annotations

import numpy as np

from rapipe import metrics
from rapipe.records import Embeddings, Indices, Labels, Neighbours, Vectors
from rapipe.retrieval.search import similarities_of


def label_purity(indices: Indices, bank: Embeddings, targets: Labels) -> float | None:
    """Share of the labelled neighbours (Q, K) that have the query's class; None if none has one."""
    labels = bank.labels[indices]  # (Q, K)
    labelled = labels >= 0
    if not labelled.any():
        return None
    return float((labels == targets[:, None])[labelled].mean())


def drift(
    clean: Neighbours, noisy: Neighbours, vectors: Vectors, bank: Embeddings, targets: Labels
) -> dict[str, float | None]:
    """How far the neighbours of noisy images are from those of the same images without noise.

    Args:
        vectors: (Q, D) of the noisy images.
        targets: (Q,) classes of the images.

    Returns:
        `recall`: share of the clean images' neighbours that are still retrieved.
        `rank_correlation`: Spearman's, between the similarities that the clean
        and the noisy image have to the clean one's neighbours; mean over images, None
        where there is but one neighbour.
        `purity`: share of the noisy images' neighbours that have their class.
    """
    similarities = similarities_of(vectors, bank.vectors, clean.indices)  # (Q, K)
    correlation = metrics.rank_correlation(clean.similarities, similarities)
    defined = correlation[~np.isnan(correlation)]
    return {
        "recall": metrics.recall_at_k(noisy.indices, clean.indices),
        "rank_correlation": float(defined.mean()) if len(defined) else None,
        "purity": label_purity(noisy.indices, bank, targets),
    }


def split_loss(clean: float, noisy: float, with_clean_neighbours: float) -> dict[str, float]:
    """The accuracy lost to noise, in two parts that sum to it.

    Args:
        clean, noisy: accuracy without and with noise.
        with_clean_neighbours: of noisy images with what their clean selves are shown.

    Returns:
        `retrieval_failed`: what the clean image's neighbours would have saved.
        `fusion_failed`: what is lost even with them.
    """
    return {
        "retrieval_failed": with_clean_neighbours - noisy,
        "fusion_failed": clean - with_clean_neighbours,
    }
