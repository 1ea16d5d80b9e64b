"""Does a model know when it is right?

Letters: N samples, Q queries, K neighbours, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.retrieval.votes import count_votes

Scores = npt.NDArray[np.floating]  # (N,), higher = surer
Correct = npt.NDArray[np.bool_]  # (N,)
Floats = npt.NDArray[np.float64]


class Bin(NamedTuple):
    """One bar of a reliability diagram."""

    confidence: float
    """Mean confidence, 0 to 1."""
    accuracy: float
    """Share of right answers, 0 to 1."""
    samples: int


def reliability(confidence: Scores, correct: Correct, bins: int = 15) -> list[Bin]:
    """The bins of `metrics.ece` that hold samples, by rising confidence.

    Their gaps |accuracy - confidence|, weighted by samples, add up to the error that
    `metrics.ece_of` gives (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    bin_of = metrics.confidence_bins(confidence, bins)  # (N,)
    masks = [bin_of == number for number in np.unique(bin_of)]
    return [
        Bin(float(confidence[mask].mean()), float(correct[mask].mean()), int(mask.sum()))
        for mask in masks
    ]


def risk_coverage(score: Scores, correct: Correct) -> tuple[Floats, Floats]:
    """Coverage (N,) and risk (N,) when samples are answered from the highest score down.

    Coverage is the share answered, 1/N to 1; risk the share of errors among them. Samples
    of equal score come in random order, and the risk is its expectation over these orders.

    Source: Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks",
    NeurIPS 2017.
    """
    _, group, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    share_wrong = np.bincount(group, weights=~correct) / sizes  # (groups,)
    answered = np.arange(1, len(score) + 1)  # (N,)
    # Each sample within a group of equals is an error with the group's share of errors.
    risk = np.repeat(share_wrong, sizes).cumsum() / answered  # (N,)
    return answered / len(score), risk


def aurc(score: Scores, correct: Correct) -> float:
    """Area under the risk-coverage curve: the mean risk over the N coverages, lower is better.

    A random or constant score gives the error rate; a score that puts every right answer
    before every wrong one gives less, though not 0 while there are errors.

    Source: Geifman et al., "Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers", ICLR 2019.
    """
    return float(risk_coverage(score, correct)[1].mean())


def vote_entropy(labels: npt.NDArray[np.int64], classes: int) -> Floats:
    """Entropy (Q,), in nats, of the classes among each query's neighbours' labels (Q, K).

    Neighbours without a label (-1), or of a class that the task does not have, do not vote.
    Without any vote the entropy is the largest there is, log(classes).
    """
    counts = count_votes(labels, np.ones(labels.shape), classes)  # (Q, C)
    total = counts.sum(axis=1, keepdims=True)  # (Q, 1)
    share = np.divide(counts, total, out=np.full_like(counts, 1 / classes), where=total > 0)
    # A share of 0 adds 0: the logarithm is taken of 1 instead.
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1))).sum(axis=1) + 0.0)
