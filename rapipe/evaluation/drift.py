"""What does noise do to a neighbourhood, and what does that cost?

Letters: Q queries, K neighbours.
"""

from __future__ import annotations

import numpy as np

from rapipe import metrics
from rapipe.records import Embeddings, Indices, Labels, Neighbours, Vectors
from rapipe.retrieval.search import similarities_of


def purity(indices: Indices, bank: Embeddings, targets: Labels) -> float | None:
    """Share of the labelled neighbours (Q, K) that have the query's class; None if none has one."""
    labels = bank.labels[indices]  # (Q, K)
    known = labels >= 0
    if not known.any():
        return None
    return float((labels == targets[:, None])[known].mean())


def drift(
    clean: Neighbours, noisy: Neighbours, vectors: Vectors, bank: Embeddings, targets: Labels
) -> dict[str, float | None]:
    """How far the neighbours of noisy images are from those of the same images without noise.

    Args:
        vectors: (Q, D) of the noisy images.
        targets: (Q,) classes of the images.

    Returns:
        `recall`: share of the clean images' neighbours that are still found.
        `rank_correlation`: Spearman's, between the similarities that the clean
        and the noisy image have to the clean one's neighbours; mean over images, None
        where there is but one neighbour.
        `purity`: share of the noisy images' neighbours that have their class.
    """
    now = similarities_of(vectors, bank.vectors, clean.indices)  # (Q, K)
    correlation = metrics.rank_correlation(clean.similarities, now)
    defined = correlation[~np.isnan(correlation)]
    return {
        "recall": metrics.recall_at_k(noisy.indices, clean.indices),
        "rank_correlation": float(defined.mean()) if len(defined) else None,
        "purity": purity(noisy.indices, bank, targets),
    }


def split(clean: float, noisy: float, repaired: float) -> dict[str, float]:
    """The accuracy lost to noise, in two parts that sum to it.

    Args:
        clean, noisy: accuracy without and with noise.
        repaired: of noisy images that are given the neighbours of their clean selves.

    Returns:
        `retrieval_failed`: what the clean image's neighbours would have saved.
        `fusion_failed`: what is lost even with them: the classifier's own eyes.
    """
    return {"retrieval_failed": repaired - noisy, "fusion_failed": clean - repaired}
