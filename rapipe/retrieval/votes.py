"""Votes of neighbours: what a neighbour table is worth without any training.

A vote is a function of similarities (Q, K), best first, that returns each
neighbour's weight (Q, K); the class with the largest sum wins. Neighbours that a
strategy returns in another order are sorted first. To add a vote is to add a
function and a line in `VOTES`.

Letters: Q queries, K neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.records import Labels, Similarities

Weights = npt.NDArray[np.float64]  # (Q, K)
VoteCounts = npt.NDArray[np.float64]  # (Q, C)

TEMPERATURE = 0.07
MIN_DISTANCE = 1e-6
"""So that a copy of the query does not weigh infinitely much."""
TIE_BREAK = 1e-9
"""The bonus of the nearest neighbour's class among classes with equally many votes."""
KS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of neighbours to choose from, besides all of them."""


def plurality(similarities: Similarities) -> Weights:
    """One neighbour, one vote; of equal counts the one with the nearest neighbour wins."""
    _, k = similarities.shape
    return np.broadcast_to(1 + TIE_BREAK * 0.5 ** np.arange(k), similarities.shape)


def distance(similarities: Similarities) -> Weights:
    """One over the distance between unit vectors (scikit-learn's `weights="distance"`)."""
    distances = np.sqrt(np.maximum(2 - 2 * similarities.astype(np.float64), 0))
    return np.asarray(1 / np.maximum(distances, MIN_DISTANCE))


def softmax(similarities: Similarities, temperature: float = TEMPERATURE) -> Weights:
    """exp(similarity / temperature), up to a factor that all votes share.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018.
    """
    return np.asarray(np.exp((similarities.astype(np.float64) - 1) / temperature))


def rank(similarities: Similarities) -> Weights:
    """1 / (i + 2) for the i-th nearest, counted from 0: only the order counts, not how near."""
    _, k = similarities.shape
    return np.broadcast_to(1 / (np.arange(k) + 2), similarities.shape)


VOTES: dict[str, Callable[[Similarities], Weights]] = {
    "plurality": plurality,
    "distance": distance,
    "softmax": softmax,
    "rank": rank,
}


def count_votes(labels: Labels, weights: Weights, classes: int) -> VoteCounts:
    """Sum of the weights by class (Q, C); labels (Q, K) below 0, or not below C, have no vote."""
    counts = np.zeros((len(labels), classes))
    rows, columns = np.nonzero((labels >= 0) & (labels < classes))
    np.add.at(counts, (rows, labels[rows, columns]), weights[rows, columns])
    return counts


class LabelledNeighbours(NamedTuple):
    """Neighbours that vote."""

    similarities: Similarities  # (Q, K)
    labels: Labels  # (Q, K)


class Vote(NamedTuple):
    """A way to vote, with the number of neighbours that was best on validation."""

    name: str
    k: int
    validation_top1: float

    def __call__(self, similarities: Similarities, labels: Labels, classes: int) -> VoteCounts:
        """Votes (Q, C) of the k nearest of neighbours (Q, K)."""
        order = np.argsort(-similarities, axis=1, kind="stable")[:, : self.k]
        near = np.take_along_axis(similarities, order, axis=1)
        return count_votes(
            np.take_along_axis(labels, order, axis=1), VOTES[self.name](near), classes
        )


def best_vote(votes: Sequence[Vote]) -> Vote | None:
    """The vote that was best on validation; the first of equals."""
    return max(votes, key=lambda vote: vote.validation_top1, default=None)


def choose_votes(
    similarities: Similarities, labels: Labels, targets: Labels, classes: int
) -> list[Vote]:
    """Every way to vote with its best k, by accuracy on validation queries; the smaller if equal.

    Args:
        similarities, labels: (Q, K) of the neighbours of validation images.
        targets: (Q,) classes of these images.

    Returns:
        An empty list if no neighbour has a class of the task.
    """
    if not ((labels >= 0) & (labels < classes)).any():
        return []
    _, most = similarities.shape
    best = []
    for name in VOTES:
        scored = []
        for k in sorted({k for k in KS if k < most} | {most}):
            counts = Vote(name, k, 0.0)(similarities, labels, classes)
            scored.append(Vote(name, k, metrics.top_k(counts, targets, 1)))
        best.append(max(scored, key=lambda vote: (vote.validation_top1, -vote.k)))
    return best
