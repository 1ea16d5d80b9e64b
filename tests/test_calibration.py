"""Calibration against sklearn, torchmetrics and slow loops over all orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from rapipe import metrics
from rapipe.evaluation.measures import calibration


def made(n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right a little less often than these promise."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, n)
    return confidence, rng.random(n) < confidence**1.5


@pytest.mark.parametrize("bins", [5, 15])
def test_reliability_against_sklearn(bins: int) -> None:
    from sklearn.calibration import calibration_curve

    confidence, correct = made()
    accuracies, confidences = calibration_curve(correct, confidence, n_bins=bins)
    found = calibration.reliability(confidence, correct, bins)
    assert [b.accuracy for b in found] == pytest.approx(accuracies)
    assert [b.confidence for b in found] == pytest.approx(confidences)


def test_reliability_adds_up_to_the_calibration_error() -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    confidence, correct = made()
    found = calibration.reliability(confidence, correct)
    error = sum(b.samples * abs(b.accuracy - b.confidence) for b in found) / 500
    assert error == pytest.approx(metrics.ece_of(confidence, correct))
    theirs = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct), n_bins=15)
    assert error == pytest.approx(float(theirs), abs=1e-4)


def test_reliability_by_hand_leaves_out_empty_bins() -> None:
    confidence = np.array([0.9, 0.1, 1.0, 0.2])
    found = calibration.reliability(confidence, np.array([True, False, False, False]), 3)
    assert found == [(pytest.approx(0.15), 0, 2), (pytest.approx(0.95), 0.5, 2)]


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = calibration.risk_coverage(
        np.array([0.2, 0.9, 0.5, 0.7]), np.array([False, True, True, False])
    )
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])


def test_risk_of_ties_is_the_mean_over_their_orders() -> None:
    score = np.array([1, 2, 2, 1, 3, 2])
    correct = np.array([True, False, True, False, True, False])
    orders = [list(o) for o in permutations(range(6)) if (np.diff(score[list(o)]) <= 0).all()]
    assert len(orders) == 12
    slow = [(~correct[order]).cumsum() / np.arange(1, 7) for order in orders]
    assert calibration.risk_coverage(score, correct)[1] == pytest.approx(np.mean(slow, axis=0))


def test_risk_does_not_depend_on_the_order_of_samples() -> None:
    confidence, correct = made()
    score = np.round(confidence, 1)
    order = np.random.default_rng(1).permutation(500)
    risk = calibration.risk_coverage(score, correct)[1]
    assert (calibration.risk_coverage(score[order], correct[order])[1] == risk).all()
    assert risk[-1] == pytest.approx((~correct).mean())


def test_aurc_of_constant_random_and_best_scores() -> None:
    confidence, correct = made()
    error_rate = (~correct).mean()
    assert calibration.aurc(np.ones(500), correct) == pytest.approx(error_rate)
    rng = np.random.default_rng(0)
    random = np.mean([calibration.aurc(rng.random(500), correct) for _ in range(200)])
    assert random == pytest.approx(error_rate, abs=0.01)
    best, worst = (calibration.aurc(s, correct) for s in (correct * 1.0, ~correct * 1.0))
    assert 0 < best < calibration.aurc(confidence, correct) < error_rate < worst
    assert calibration.aurc(confidence, np.ones(500, bool)) == 0


def test_vote_entropy_by_hand() -> None:
    labels = np.array([[2, 2, 2, 2], [0, 0, 1, 1], [0, -1, -1, 0], [-1, -1, -1, -1], [3, 1, -1, 0]])
    entropy = calibration.vote_entropy(labels, 4)
    assert entropy == pytest.approx([0, np.log(2), 0, np.log(4), np.log(3)])
    assert not np.signbit(entropy).any()


def test_vote_entropy_against_scipy() -> None:
    from scipy.stats import entropy

    labels = np.random.default_rng(0).integers(-1, 6, (60, 9))
    expected = [entropy(np.bincount(row[row >= 0], minlength=6)) for row in labels]
    assert calibration.vote_entropy(labels, 6) == pytest.approx(expected)
    shuffled = np.random.default_rng(1).permuted(labels, axis=1)
    assert (calibration.vote_entropy(shuffled, 6) == calibration.vote_entropy(labels, 6)).all()


def test_a_class_that_the_task_does_not_have_does_not_vote() -> None:
    assert calibration.vote_entropy(np.array([[0, 4, 1]]), 4) == pytest.approx([np.log(2)])
