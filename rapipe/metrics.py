"""Scores as pure functions of arrays.

Letters: N samples, C classes, B bins, D embedding, K neighbours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float64]  # (N, C), rows sum to 1
Labels = npt.NDArray[np.int64]  # (N,)

COMPARED_AT_ONCE = 2**22
"""Pairs of neighbours."""
MIN_PROBABILITY = 1e-12
"""Least probability of which a logarithm is taken."""


def softmax(logits: npt.NDArray[np.floating]) -> Probabilities:
    """Probabilities (N, C) of logits (N, C), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def hits(scores: npt.NDArray[np.floating], labels: Labels, k: int = 1) -> npt.NDArray[np.bool_]:
    """Whether each sample's label is among its k highest scores: (N,).

    Equal scores count against the label, so a constant classifier earns nothing; nor does one
    whose scores are no numbers.
    """
    n = len(labels)
    target = scores[np.arange(n), labels]  # (N,)
    not_below = (~(scores < target[:, None])).sum(axis=1)  # (N,), the label itself included
    return np.asarray((not_below <= k) & ~np.isnan(target))


def top_k(scores: npt.NDArray[np.floating], labels: Labels, k: int) -> float:
    """Share of samples whose label is among the k highest scores, as `hits` has it."""
    return float(hits(scores, labels, k).mean())


def by_class(scores: npt.NDArray[np.floating], labels: Labels, classes: int) -> list[float | None]:
    """Top-1 accuracy of the samples of each class; None for a class that has none."""
    masks = [labels == label for label in range(classes)]
    return [top_k(scores[mask], labels[mask], 1) if mask.any() else None for mask in masks]


def recall_at_k(retrieved: npt.NDArray[np.integer], true: npt.NDArray[np.integer]) -> float:
    """Share of the true neighbours (N, K) that are among the retrieved (N, K), in any order."""
    n, k = true.shape
    chunk = max(1, COMPARED_AT_ONCE // k**2)
    shares = [
        (true[i : i + chunk, :, None] == retrieved[i : i + chunk, None]).any(axis=2).mean(axis=1)
        for i in range(0, n, chunk)
    ]
    return float(np.concatenate(shares).mean())


def nll(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    of_labels = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_labels, MIN_PROBABILITY)).mean())


def confidence_bins(confidence: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.int64]:
    """Number (N,) of the equal-width bin that each confidence (N,) between 0 and 1 falls into."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)  # 1 joins the last bin


def ece_of(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """Expected calibration error of confidences (N,) in answers that were right or not (N,).

    The weighted mean of |accuracy - confidence| over equal-width bins of confidence (Guo et
    al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    bin_of = confidence_bins(confidence, bins)  # (N,)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)  # (B,)
    return float(np.abs(gaps).sum() / len(correct))


def ece(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error, as in `ece_of`, of the most likely classes."""
    return ece_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def kl(p: Probabilities, q: Probabilities) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence (N,) of q from p, in nats; 0 where they are equal.

    Probabilities below `MIN_PROBABILITY` count as that, so that a class ruled out by q alone
    costs much but not infinitely.
    """
    ratio = np.log(np.maximum(p, MIN_PROBABILITY) / np.maximum(q, MIN_PROBABILITY))  # (N, C)
    return np.asarray((p * ratio).sum(axis=1))


def total_variation(p: Probabilities, q: Probabilities) -> npt.NDArray[np.float64]:
    """Half the sum of absolute differences (N,): the share, 0 to 1, that moves from p to q."""
    return np.asarray(np.abs(p - q).sum(axis=1) / 2)


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Twice the centred rank (K,): values below, less values above. Ties share their mean."""
    ordered = np.sort(values)
    below, not_above = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray(below + not_above - len(values))


def rank_correlation(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Spearman's rho (N,) of each row of a (N, K) with that of b; nan where one is constant.

    The correlation of the ranks, with mean ranks for ties (Spearman, "The Proof and
    Measurement of Association between Two Things", 1904).
    """
    ranks_a, ranks_b = (np.array([_ranks(row) for row in rows]) for rows in (a, b))  # (N, K)
    together = (ranks_a * ranks_b).sum(axis=1)
    squares_a, squares_b = ((r**2).sum(axis=1).astype(np.float64) for r in (ranks_a, ranks_b))
    scale = np.sqrt(squares_a * squares_b)  # of one product, so that equal rows give exactly 1
    return np.asarray(np.divide(together, scale, out=np.full(len(a), np.nan), where=scale > 0))


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
