"""Drift of neighbours, and the two parts of what noise costs."""

from __future__ import annotations

import numpy as np
import pytest

from rapipe.evaluation.measures import drift
from rapipe.records import Embeddings
from rapipe.retrieval.search import search


def test_drift_of_a_hand_placed_neighbourhood() -> None:
    angles = np.deg2rad([0, 10, 20, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    bank = Embeddings(
        np.arange(4), vectors, np.array([0, 0, 1, -1]), np.full(4, "a"), np.full(4, "train")
    )
    asked = np.deg2rad([1, 60])
    clean, noisy = np.stack([np.cos(asked), np.sin(asked)], axis=1).astype(np.float32)[:, None]
    before, after = (search(own, bank, 3, np.array([9])) for own in (clean, noisy))
    assert before.indices.tolist() == [[0, 1, 2]]
    assert after.indices.tolist() == [[3, 2, 1]]
    targets = np.array([0])
    found = drift.drift(before, after, noisy, bank, targets)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["rank_correlation"] == pytest.approx(-1)  # nearest first has become last
    assert found["purity"] == pytest.approx(1 / 2)  # of those with a label
    same = drift.drift(before, before, clean, bank, targets)
    assert (same["recall"], same["rank_correlation"]) == (1, pytest.approx(1))
    assert drift.label_purity(np.array([[3]]), bank, targets) is None
    one = search(clean, bank, 1, np.array([9]))
    assert drift.drift(one, one, clean, bank, targets)["rank_correlation"] is None


def test_the_two_failures_sum_to_the_loss() -> None:
    found = drift.split_loss(0.9, 0.5, 0.7)
    assert found == pytest.approx({"retrieval_failed": 0.2, "fusion_failed": 0.2})
    assert sum(drift.split_loss(0.9, 0.4, 0.95).values()) == pytest.approx(0.5)
