"""Corruptions, and predictions at noise levels as a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import make_images
from follower import CLASSES, followed

from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.evaluation.measures.noise_levels import PredictionsBuilder
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
