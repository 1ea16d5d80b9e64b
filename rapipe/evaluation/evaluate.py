"""One classifier on a labelled split, at every noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.analysis import RetrievalAnalysis
from rapipe.evaluation.noise_levels import PredictionsBuilder, predict_levels, scores
from rapipe.records import Images, Predictions
from rapipe.retrieval import votes


@dataclass(frozen=True)
class Evaluation:
    """How well a classifier does."""

    rows: list[dict[str, Any]]
    """One a noise level: noise_std, top1, top3, nll, ece, n_test, bank_size."""
    by_class: dict[str, float | None]
    """Clean accuracy by class; None for a class without images."""
    predictions: Predictions


def evaluate_levels(
    classifier: Classifier,
    images: Images,
    levels: Sequence[float],
    retriever: Retriever | None,
    analysis: RetrievalAnalysis | None,
    seed: int,
) -> Evaluation:
    """Accuracy and calibration of a classifier on clean images and on noisy ones.

    Args:
        images: labelled.
        levels: of Gaussian noise, on [0, 1]; the first is 0.
        retriever: how neighbours are retrieved; None for a classifier without retrieval.
        analysis: of the same classifier and retriever; each level is added to it.
        seed: of the noise.
    """
    bank, vote = None, None
    if analysis:
        bank, vote = analysis.bank, votes.best_vote(analysis.votes)
    elif retriever:
        bank = DeviceBank(retriever.bank, classifier.spec.classes, classifier.device)
    bank_size = len(retriever.bank) if retriever else 0
    builder = PredictionsBuilder(images, retriever.bank if retriever else None, vote)
    rows: list[dict[str, Any]] = []
    by_class: list[float | None] = []
    for level in predict_levels(classifier, images, levels, retriever, bank, seed):
        builder.add(level)
        rows.append({**scores(level, images), "bank_size": bank_size})
        by_class = by_class or metrics.by_class(level.logits, images.labels, len(images.classes))
        if analysis:
            analysis.add(level, builder)
    by_name = dict(zip(images.classes, by_class, strict=True))
    return Evaluation(rows, by_name, builder.predictions())
