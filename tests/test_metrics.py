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
