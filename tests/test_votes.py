"""Votes of neighbours, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_embeddings
from sklearn.neighbors import KNeighborsClassifier

from rapipe import metrics
from rapipe.retrieval import votes
from rapipe.retrieval.search import search

CLASSES = 3


@pytest.mark.parametrize("k", [1, 4, 7])
def test_distance_votes_are_those_of_scikit_learn(k: int) -> None:
    bank, queries = make_embeddings(200, seed=4), make_embeddings(50, seed=5)
    found = search(queries.vectors, bank, k, queries.ids)
    counts = votes.count_votes(
        bank.labels[found.indices], votes.distance(found.similarities), CLASSES
    )
    theirs = KNeighborsClassifier(k, weights="distance").fit(bank.vectors, bank.labels)
    expected = theirs.predict_proba(queries.vectors)
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def test_votes_are_sums_over_labelled_neighbours() -> None:
    similarities = np.array([[0.9, 0.5, 0.5, 0.1]], np.float32)
    labels = np.array([[1, 0, -1, 0]])
    expected = {
        "plurality": [2, 1],
        "softmax": [np.exp(-0.5 / 0.07) + np.exp(-0.9 / 0.07), np.exp(-0.1 / 0.07)],
        "rank": [1 / 3 + 1 / 5, 1 / 2],
    }
    for name, values in expected.items():
        found = votes.count_votes(labels, votes.VOTES[name](similarities), 2)
        np.testing.assert_allclose(found, [values], rtol=1e-5, err_msg=name)


def test_classes_the_task_does_not_know_have_no_vote() -> None:
    found = votes.count_votes(np.array([[5, 1]]), np.ones((1, 2)), 2)
    assert found.tolist() == [[0, 1]]


def test_neighbours_vote_nearest_first_in_whatever_order_they_come() -> None:
    similarities = np.array([[0.1, 0.9, 0.5]], np.float32)
    labels = np.array([[0, 1, 0]])
    assert votes.Vote("rank", 1, 0.0)(similarities, labels, 2).tolist() == [[0, 0.5]]
    found = votes.Vote("rank", 3, 0.0)(similarities, labels, 2)
    np.testing.assert_allclose(found, [[1 / 3 + 1 / 4, 1 / 2]])


def test_without_a_class_of_the_task_nobody_votes() -> None:
    labels = np.array([[-1, 5]])
    assert votes.choose_votes(np.ones((1, 2), np.float32), labels, np.array([0]), 2) == []
    assert votes.best_vote([]) is None


def test_equal_counts_go_to_the_nearest() -> None:
    similarities = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    for labels, winner in (([0, 1, 1, 0], 0), ([1, 0, 0, 1], 1), ([0, 1, 0, 1], 0)):
        weights = votes.plurality(similarities)
        counts = votes.count_votes(np.array([labels]), weights, 2)[0]
        assert counts[winner] > counts[1 - winner]


def test_k_is_chosen_by_validation_and_smaller_if_equal() -> None:
    """Only the nearest is ever right, but for one query where only five together are."""
    similarities = np.linspace(0.9, 0.1, 12, dtype=np.float32)[None].repeat(4, 0)
    labels = np.ones((4, 12), int)
    labels[:3, 0] = 0
    targets = np.zeros(4, int)
    for vote in votes.choose_votes(similarities, labels, targets, 2):
        assert vote.k == 1
        assert vote.validation_top1 == 0.75
        assert metrics.top_k(vote(similarities, labels, 2), targets, 1) == 0.75
    assert votes.best_vote(votes.choose_votes(similarities, labels, targets, 2)).name == "plurality"
