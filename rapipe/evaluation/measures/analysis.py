"""How well does a classifier do, and what does it do with its neighbours?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.measures import attribution, drift
from rapipe.evaluation.measures.attribution import Influence
from rapipe.evaluation.measures.counterfactuals import Counterfactuals, evaluate_counterfactuals
from rapipe.evaluation.measures.noise_levels import (
    LevelPredictions,
    PredictionsBuilder,
    predict_levels,
    scores,
)
from rapipe.records import PER_COUNTERFACTUAL, Images, Neighbours, Predictions
from rapipe.retrieval.votes import Vote, best_vote, choose_votes

LISTED = 8
"""Rows of the bank that the results name, of the most harmful and of the most helpful."""


@dataclass(kw_only=True)
class RetrievalAnalysis:
    """What a classifier does with its neighbours, analysed level by level.

    Where nothing of the bank is shown, but the image's own vector, there are no votes, no drift
    and no attribution.

    Args:
        images: test images.
        bank_classes: names of the classes of the bank.
        seed: of every random choice.
        levels: noise levels at which neighbours are swapped.
        poisoned: shares of the bank whose contents are replaced in counterfactuals.
        strategies: whose neighbours are shown in counterfactuals.
        attributed: validation images whose neighbours are left out one at a time.
        prune: share of the bank to prune, at most.
    """

    classifier: Classifier
    retriever: Retriever
    images: Images
    bank_classes: Sequence[str]
    seed: int
    levels: Sequence[float]
    poisoned: Sequence[float]
    strategies: tuple[str, ...]
    attributed: int
    prune: float
    influence: Influence | None = None
    votes: Sequence[Vote] = ()
    clean: LevelPredictions | None = None
    facts: dict[str, Any] = field(default_factory=lambda: {"votes": [], "drift": [], "swaps": []})
    """What the results hold of it."""

    def __post_init__(self) -> None:
        self.classes = len(self.images.classes)
        self.bank = DeviceBank(self.retriever.bank, self.classes, self.classifier.device)

    def choose(self, validation: Images, neighbours: Neighbours) -> None:
        """Choose votes, and rows to prune, by validation images and their neighbours."""
        queries = None
        if neighbours.k and not self.retriever.fully_labelled:
            queries = self.retriever.queries(validation, validation.pixels)
        voters = self.retriever.labelled_neighbours(neighbours, queries)
        self.votes = choose_votes(*voters, validation.labels, self.classes)
        self.counterfactuals = Counterfactuals(
            self.images,
            self.retriever,
            self.classes,
            self.classifier.inputs,
            self.poisoned,
            self._attribute(validation, neighbours),
            self.strategies,
        )

    def _attribute(self, validation: Images, neighbours: Neighbours) -> npt.NDArray[np.int64]:
        """Leave out neighbours one at a time; the rows of the bank to prune."""
        count = min(self.attributed, len(validation)) if neighbours.k else 0
        if not count:
            return np.empty(0, np.int64)
        images = np.sort(np.random.default_rng(self.seed).permutation(len(validation))[:count])
        pixels, labels = validation.pixels[images], validation.labels[images]
        shown = neighbours.take(images)
        attributed = attribution.attribute(self.classifier, pixels, labels, self.bank, shown)
        self.influence = attribution.influence(attributed)
        bank_size = len(self.retriever.bank)
        pruned = attribution.most_harmful(self.influence, self.prune, bank_size, neighbours.k)
        rows = self.influence_rows()
        self.facts["attribution"] = {
            **attribution.summary(attributed, self.seed),
            "rows": len(rows),
            "harmful": int((self.influence.effect < 0).sum()),
            "pruned": len(pruned),
            "harm": rows[:LISTED],
            "help": rows[: -LISTED - 1 : -1],
        }
        return pruned

    def add(self, level: LevelPredictions, predictions: PredictionsBuilder) -> None:
        """Votes, drift and counterfactuals at one noise level; the clean one comes first."""
        clean = self.clean = self.clean or level
        assert level.retrieval is not None
        assert clean.retrieval is not None
        labels, std = self.images.labels, {"noise_std": level.noise_std}
        for vote in self.votes:
            top1 = metrics.top_k(vote(*level.retrieval.voters, self.classes), labels, 1)
            facts = {"vote": vote.name, "k": vote.k, "validation_top1": vote.validation_top1}
            self.facts["votes"].append({**std, **facts, "top1": top1})
        assert level.with_clean is not None
        shown, with_clean = clean.retrieval.neighbours, level.with_clean
        if shown.k:
            neighbours, vectors = level.retrieval.neighbours, level.retrieval.queries.vectors
            drifted = drift.drift(shown, neighbours, vectors, self.retriever.bank, labels)
            logits = (clean.logits, level.logits, with_clean)
            loss = drift.split_loss(*(metrics.top_k(scores, labels, 1) for scores in logits))
            self.facts["drift"].append({**std, **drifted, **loss})
        predictions.append("correct_with_clean_neighbours", metrics.hits(with_clean, labels))
        if level.noise_std in self.levels:
            effects = evaluate_counterfactuals(
                self.classifier, level, self.counterfactuals, self.bank
            )
            self.facts["swaps"] += effects.rows
            for name in PER_COUNTERFACTUAL:
                for column in getattr(effects, name):
                    predictions.append(name, column)

    def influence_rows(self) -> list[dict[str, object]]:
        """The rows of the bank that validation images retrieved, the most harmful first."""
        if self.influence is None:
            return []
        bank = self.retriever.bank
        return [
            {
                "id": int(bank.ids[row]),
                "class": self.bank_classes[bank.labels[row]] if bank.labels[row] >= 0 else "",
                "source": str(bank.sources[row]),
                "shown": int(appearances),
                "effect": round(float(effect), 6),
            }
            for row, appearances, effect in zip(*self.influence, strict=True)
        ]


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
        bank, vote = analysis.bank, best_vote(analysis.votes)
    elif retriever:
        bank = DeviceBank(retriever.bank, classifier.spec.classes, classifier.device)
    builder = PredictionsBuilder(images, retriever.bank if retriever else None, vote)
    rows: list[dict[str, Any]] = []
    by_class: list[float | None] = []
    asked = images, levels, retriever, bank, seed
    for level in predict_levels(classifier, *asked, with_clean=analysis is not None):
        builder.add(level)
        k = level.retrieval.neighbours.k if level.retrieval else 0
        bank_size = len(retriever.bank) if retriever and k else 0
        measured = scores(level, images, bank)
        rows.append({"noise_std": level.noise_std, **measured, "bank_size": bank_size})
        by_class = by_class or metrics.by_class(level.logits, images.labels, len(images.classes))
        if analysis:
            analysis.add(level, builder)
    by_name = dict(zip(images.classes, by_class, strict=True))
    return Evaluation(rows, by_name, builder.predictions())
