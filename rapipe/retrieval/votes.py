"""Votes of neighbours: what a neighbour table is worth without any training.

A vote is a function of similarities (Q, K), best first, that gives each
neighbour's weight (Q, K); the class with the largest sum wins. Neighbours that a
strategy gives in another order are put in this one first. Adding a vote is
adding a function and a line in `VOTES`.

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
Counted = npt.NDArray[np.float64]  # (Q, C)

TEMPERATURE = 0.07
NEAREST = 1e-6
"""Least distance, so that a copy of the query does not weigh infinitely much."""
TIE = 1e-9
"""What being the nearest is worth between classes that have equally many votes."""
KS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of neighbours to choose from, and all there are."""


def plurality(similarities: Similarities) -> Weights:
    """One neighbour, one vote; of equal counts the one with the nearest neighbour wins."""
    _, k = similarities.shape
    return np.broadcast_to(1 + TIE * 0.5 ** np.arange(k), similarities.shape)


def distance(similarities: Similarities) -> Weights:
    """One over the distance between unit vectors (scikit-learn's `weights="distance"`)."""
    apart = np.sqrt(np.maximum(2 - 2 * similarities.astype(np.float64), 0))
    return np.asarray(1 / np.maximum(apart, NEAREST))


def softmax(similarities: Similarities, temperature: float = TEMPERATURE) -> Weights:
    """exp(similarity / temperature), up to a factor that all votes share.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018.
    """
    return np.asarray(np.exp((similarities.astype(np.float64) - 1) / temperature))


def rank(similarities: Similarities) -> Weights:
    """1 / (i + 2) for the i-th nearest, counted from 0: how near plays no part, only the order."""
    _, k = similarities.shape
    return np.broadcast_to(1 / (np.arange(k) + 2), similarities.shape)


VOTES: dict[str, Callable[[Similarities], Weights]] = {
    "plurality": plurality,
    "distance": distance,
    "softmax": softmax,
    "rank": rank,
}


def count_votes(labels: Labels, weights: Weights, classes: int) -> Counted:
    """Sum of the weights by class (Q, C); labels (Q, K) below 0, or not below C, have no vote."""
    votes = np.zeros((len(labels), classes))
    rows, columns = np.nonzero((labels >= 0) & (labels < classes))
    np.add.at(votes, (rows, labels[rows, columns]), weights[rows, columns])
    return votes


class Voters(NamedTuple):
    """Neighbours who vote."""

    similarities: Similarities  # (Q, K)
    labels: Labels  # (Q, K)


class Vote(NamedTuple):
    """A way to vote, with the number of neighbours that was best on validation."""

    name: str
    k: int
    validation_top1: float

    def __call__(self, similarities: Similarities, labels: Labels, classes: int) -> Counted:
        """Votes (Q, C) of the first k of neighbours (Q, K)."""
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
        Nothing, where no neighbour has a class of the task.
    """
    if not ((labels >= 0) & (labels < classes)).any():
        return []
    _, most = similarities.shape
    found = []
    for name in VOTES:
        tried = [Vote(name, k, 0.0) for k in sorted({k for k in KS if k < most} | {most})]
        scored = [
            vote._replace(
                validation_top1=metrics.top_k(vote(similarities, labels, classes), targets, 1)
            )
            for vote in tried
        ]
        found.append(max(scored, key=lambda vote: (vote.validation_top1, -vote.k)))
    return found
