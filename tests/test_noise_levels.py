"""Corruptions, and predictions at noise levels as a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_images
from follower import CLASSES, Follower, followed

from rapipe import metrics
from rapipe.batches.loader import CPU
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.evaluation.measures.noise_levels import (
    PredictionsBuilder,
    other_images,
    predict,
    scores,
)
from rapipe.evaluation.measures.shifts import evaluate_shifts
from rapipe.records import Predictions
from rapipe.retrieval import votes


def test_predictions_are_collected_and_read_back(tmp_path: Path) -> None:
    images, retriever, level = followed()
    vote = votes.Vote("plurality", 3, 0.5)
    builder = PredictionsBuilder(images, retriever.bank, vote)
    builder.add(level)
    builder.add(replace(level, noise_std=0.1, logits=-level.logits))
    for swap in range(3):  # more swaps than levels
        builder.append("total_variation", np.full(len(images), swap, np.float32))
    written = builder.predictions()
    written.write(tmp_path / "p.arrow")
    read = Predictions.read(tmp_path / "p.arrow")
    assert read.levels == (0.0, 0.1)
    per_level = ("correct", "confidence", "similarity", "vote_entropy", "vote_correct")
    for name in ("ids", *per_level, "total_variation"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
    assert read.correct[0].mean() == metrics.top_k(level.logits, images.labels, 1)
    labels = retriever.bank.labels[level.retrieval.neighbours.indices]
    counts = vote(level.retrieval.neighbours.similarities, labels, CLASSES)
    assert read.vote_correct is not None
    assert read.vote_correct[1].mean() == metrics.top_k(counts, images.labels, 1)
    plain = PredictionsBuilder(images, None, None)
    plain.add(level)
    plain.predictions().write(tmp_path / "q.arrow")
    assert Predictions.read(tmp_path / "q.arrow").similarity is None


def test_noise_is_the_same_whichever_images_stand_beside_it() -> None:
    corrupt, images = gaussian_noise, make_images(6)
    assert (corrupt(images.pixels, images.ids, 0, 0) == images.pixels).all()
    corrupted = corrupt(images.pixels, images.ids, 0.2, 0)
    assert (corrupted != images.pixels).any(axis=(1, 2, 3)).all()
    assert (corrupt(images.pixels[2:4], images.ids[2:4], 0.2, 0) == corrupted[2:4]).all()
    assert (corrupt(images.pixels, images.ids, 0.2, 1) != corrupted).any()


def test_reliance_purity_and_share_are_those_of_a_loop() -> None:
    """Of one who says what most of its neighbours are."""
    images, retriever, _ = followed()
    bank = DeviceBank(retriever.bank, CLASSES, CPU)
    follower: Any = Follower()
    retriever = replace(retriever, encoder=Embedder())
    level = predict(follower, images, images.pixels, retriever, bank)
    row = scores(level, images, bank)
    assert level.retrieval is not None
    indices = level.retrieval.neighbours.indices
    others = other_images(len(images), 0)
    assert (others != np.arange(len(images))).all()
    assert sorted(others) == list(range(len(images)))
    right, moved = 0, []
    for i, label in enumerate(images.labels):
        labels, strange = (retriever.bank.labels[indices[j]] for j in (i, others[i]))
        right += (labels == label).sum()
        one, other = (
            metrics.softmax(np.bincount(part, minlength=3)[None] + np.eye(3)[:1] * 1e-3)
            for part in (labels, strange)
        )
        moved.append(np.abs(one - other).sum() / 2)
    assert row["purity"] == pytest.approx(right / indices.size)
    assert row["reliance"] == pytest.approx(np.mean(moved))
    assert row["neighbour_share"] == pytest.approx(1)
    assert row["neighbour_recall"] == 1


def test_corruptions_and_shifts_have_a_row_each() -> None:
    """Images from elsewhere are tested as they are, corrupted ones as their function says."""
    images, retriever, _ = followed()
    retriever = replace(retriever, encoder=Embedder())
    bank, vote = DeviceBank(retriever.bank, CLASSES, CPU), votes.Vote("plurality", 3, 0.5)
    follower: Any = Follower()
    elsewhere = make_images(12, seed=9)
    parts: Any = images, ["fog:2", "jpeg_compression:5"], {"far": elsewhere}, retriever, bank, vote
    corrupted, shifted = evaluate_shifts(follower, *parts, 3)
    assert [(row["corruption"], row["severity"]) for row in corrupted] == [
        ("fog", 2),
        ("jpeg_compression", 5),
    ]
    fog = CORRUPTIONS["fog"](images.pixels, images.ids, 2, 3)
    for row, pixels, part in (
        (corrupted[0], fog, images),
        (shifted[0], elsewhere.pixels, elsewhere),
    ):
        level = predict(follower, part, pixels, retriever, bank)
        assert level.retrieval is not None
        assert row["top1"] == metrics.top_k(level.logits, part.labels, 1)
        counts = vote(*level.retrieval.voters, CLASSES)
        assert row["vote_top1"] == metrics.top_k(counts, part.labels, 1)
        assert row["n_test"] == len(part)
    assert shifted[0]["shift"] == "far"
    plain, _ = evaluate_shifts(follower, *parts[:3], None, None, None, 3)
    assert not {"purity", "reliance", "vote_top1"} & set(plain[0])


class Embedder:
    """An encoder: the mean colours of eight parts of an image."""

    device = CPU

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        parts = pixels.reshape(len(pixels), 8, -1).mean(axis=2).astype(np.float32) + 1
        return np.asarray(parts / np.linalg.norm(parts, axis=1, keepdims=True))
