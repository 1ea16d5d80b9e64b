from __future__ import annotations

import numpy as np
import pytest

from rapipe import metrics


def made(n: int = 400, c: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, c, n)
    logits = rng.standard_normal((n, c)) * 2
    logits[np.arange(n), labels] += 1
    return logits, labels


def test_top_k_against_sorting() -> None:
    logits, labels = made()
    for k in (1, 3, 5):
        slow = np.mean(
            [label in np.argsort(-row)[:k] for row, label in zip(logits, labels, strict=True)]
        )
        assert metrics.top_k(logits, labels, k) == pytest.approx(slow)


def test_ties_earn_nothing() -> None:
    assert metrics.top_k(np.zeros((10, 5)), np.zeros(10, int), 3) == 0


def test_nll_and_softmax_against_torch() -> None:
    torch = pytest.importorskip("torch")
    logits, labels = made()
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    assert metrics.nll(metrics.softmax(logits), labels) == pytest.approx(float(expected))
    assert np.isfinite(metrics.softmax(np.array([[1e4, -1e4]]))).all()


def test_ece_against_a_loop_and_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = made()
    probabilities = metrics.softmax(logits)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    slow = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            slow += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.ece(probabilities, labels) == pytest.approx(slow)
    theirs = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=5, n_bins=15
    )
    assert metrics.ece(probabilities, labels) == pytest.approx(float(theirs), abs=1e-4)


def test_ece_by_hand() -> None:
    sure_and_wrong = np.array([[1.0, 0.0]])
    assert metrics.ece(sure_and_wrong, np.array([1])) == 1
    assert metrics.ece(sure_and_wrong, np.array([0])) == 0


def test_spread_and_rank_of_known_sets() -> None:
    same = np.tile(np.eye(1, 8), (50, 1))
    assert metrics.feature_std(same) == 0
    assert metrics.effective_rank(same) == 1
    sphere = np.random.default_rng(0).standard_normal((4000, 8))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    assert metrics.feature_std(sphere) == pytest.approx(1, abs=0.02)
    assert metrics.effective_rank(sphere) == pytest.approx(8, abs=0.1)
    plane = sphere.copy()
    plane[:, 2:] = 0
    assert metrics.effective_rank(plane) == pytest.approx(2, abs=0.1)


def test_ece_of_answers_is_ece_of_their_probabilities() -> None:
    logits, labels = made()
    probabilities = metrics.softmax(logits)
    correct = probabilities.argmax(1) == labels
    for bins in (1, 4, 15):
        assert metrics.ece_of(probabilities.max(1), correct, bins) == metrics.ece(
            probabilities, labels, bins
        )


def test_confidence_bins_have_their_lower_edge_and_the_last_has_both() -> None:
    bins = metrics.confidence_bins(np.array([0, 0.24, 0.25, 0.5, 0.99, 1]), 4)
    assert bins.tolist() == [0, 0, 1, 2, 3, 3]


def test_divergences_against_scipy_and_by_hand() -> None:
    from scipy.special import rel_entr

    p, q = (metrics.softmax(np.random.default_rng(i).standard_normal((50, 7))) for i in (0, 1))
    assert metrics.kl(p, q) == pytest.approx(rel_entr(p, q).sum(1))
    assert (metrics.kl(p, p) == 0).all()
    assert (metrics.total_variation(p, q) == metrics.total_variation(q, p)).all()
    # Pinsker's inequality ties the two together.
    assert (metrics.total_variation(p, q) <= np.sqrt(metrics.kl(p, q) / 2)).all()


def test_divergences_of_sure_predictions_are_finite() -> None:
    heads, tails, even = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])
    assert metrics.kl(heads, even) == pytest.approx(np.log(2))
    assert metrics.kl(heads, tails) == pytest.approx(-np.log(metrics.MIN_PROBABILITY))
    assert metrics.kl(heads, heads) == 0
    assert metrics.total_variation(heads, tails) == 1
    assert metrics.total_variation(heads, even) == 0.5


@pytest.mark.parametrize("levels", [3, 10**6], ids=["many ties", "no ties"])
def test_rank_correlation_against_scipy(levels: int) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, levels, (2, 40, 12)) / 7
    b[::2] += a[::2]
    expected = [spearmanr(one, other).statistic for one, other in zip(a, b, strict=True)]
    assert metrics.rank_correlation(a, b) == pytest.approx(expected)


def test_rank_correlation_sees_order_alone() -> None:
    a = np.random.default_rng(0).standard_normal((30, 20))
    assert (metrics.rank_correlation(a, np.exp(a)) == 1).all()
    assert (metrics.rank_correlation(a, -(a**3)) == -1).all()


def test_rank_correlation_with_a_constant_row_is_nan() -> None:
    a = np.array([[1.0, 2, 3], [5, 5, 5], [1, 2, 3]])
    b = np.array([[2.0, 2, 9], [1, 2, 3], [4, 4, 4]])
    rho = metrics.rank_correlation(a, b)
    assert rho[0] == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(rho[1:]).all()
