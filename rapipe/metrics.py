"""Scores as pure functions of arrays.

Letters: N samples, C classes, B bins, D embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float64]  # (N, C), rows sum to 1
Labels = npt.NDArray[np.int64]  # (N,)


def softmax(logits: npt.NDArray[np.floating]) -> Probabilities:
    """Probabilities (N, C) of logits (N, C), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def top_k(scores: npt.NDArray[np.floating], labels: Labels, k: int) -> float:
    """Share of samples whose label is among the k highest scores.

    Equal scores count against the label, so a constant classifier earns nothing.
    """
    n = len(labels)
    own = scores[np.arange(n), labels]  # (N,)
    at_least = (scores >= own[:, None]).sum(axis=1)  # (N,), the label itself included
    return float((at_least <= k).mean())


def by_class(scores: npt.NDArray[np.floating], labels: Labels, classes: int) -> list[float | None]:
    """Top-1 accuracy of the samples of each class; None for a class that has none."""
    own = [labels == label for label in range(classes)]
    return [top_k(scores[mask], labels[mask], 1) if mask.any() else None for mask in own]


def recall_at_k(found: npt.NDArray[np.integer], true: npt.NDArray[np.integer]) -> float:
    """Share of the true neighbours (N, K) that are among those found (N, K), whatever the order."""
    hits = [np.isin(own, other).mean() for own, other in zip(true, found, strict=True)]
    return float(np.mean(hits))


def nll(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def ece(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error over equal-width confidence bins.

    The weighted mean of |accuracy - confidence| over the bins (Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017).
    """
    confidence = probabilities.max(axis=1)  # (N,)
    correct = probabilities.argmax(axis=1) == labels  # (N,)
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # (N,)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)  # (B,)
    return float(np.abs(gaps).sum() / len(labels))


def feature_std(vectors: npt.NDArray[np.floating]) -> float:
    """Mean over dimensions of the standard deviation of unit vectors (N, D), times sqrt(D).

    1 when they spread over the sphere, 0 when they have collapsed to a point
    (Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021).
    """
    return float(vectors.std(axis=0).mean() * np.sqrt(vectors.shape[1]))


def effective_rank(vectors: npt.NDArray[np.floating]) -> float:
    """Exponential of the entropy of the normalised singular values of centred vectors (N, D).

    Between 1 and min(N, D) (Roy & Vetterli, "The effective rank", EUSIPCO 2007).
    """
    centred = vectors - vectors.mean(axis=0)
    values = np.linalg.svd(centred.astype(np.float64), compute_uv=False)
    total = values.sum()
    if total == 0:
        return 1.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def summarise(logits: npt.NDArray[np.floating], labels: Labels) -> dict[str, float]:
    """top1, top3, nll and ece of logits (N, C)."""
    probabilities = softmax(logits)
    return {
        "top1": top_k(probabilities, labels, 1),
        "top3": top_k(probabilities, labels, 3),
        "nll": nll(probabilities, labels),
        "ece": ece(probabilities, labels),
    }
