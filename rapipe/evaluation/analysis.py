"""What does a classifier do with its neighbours?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation import attribution, drift
from rapipe.evaluation.attribution import Influence
from rapipe.evaluation.counterfactuals import Counterfactuals, evaluate_counterfactuals
from rapipe.evaluation.noise_levels import LevelPredictions, PredictionsBuilder
from rapipe.records import PER_COUNTERFACTUAL, Images, Neighbours
from rapipe.retrieval import votes

LISTED = 8
"""Rows of the bank that the results name, of the most harmful and of the most helpful."""


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """What is analysed.

    Args:
        seed: of every random choice.
        levels: noise levels, at which neighbours are swapped.
        poisoned: shares of the bank whose contents are replaced in counterfactuals.
        strategies: whose neighbours are shown in counterfactuals.
        attributed: validation images whose neighbours are left out one at a time.
        prune: share of the bank to prune, at most.
    """

    seed: int
    levels: Sequence[float] = (0.0,)
    poisoned: Sequence[float] = ()
    strategies: tuple[str, ...] = ()
    attributed: int = 0
    prune: float = 0.0


class RetrievalAnalysis:
    """What a classifier does with its neighbours, analysed level by level.

    Whatever is chosen (votes, rows to prune) is chosen on the validation split.

    Args:
        images: test images.
        validation: validation images.
        validation_neighbours: theirs, one row an image.
        bank_classes: names of the classes of the bank.
    """

    def __init__(
        self,
        classifier: Classifier,
        retriever: Retriever,
        images: Images,
        validation: Images,
        validation_neighbours: Neighbours,
        bank_classes: Sequence[str],
        options: AnalysisOptions,
    ) -> None:
        fusion = classifier.spec.fusion
        assert fusion is not None
        self.classifier, self.retriever, self.images = classifier, retriever, images
        self.bank_classes, self.options = bank_classes, options
        self.classes = len(images.classes)
        self.bank = DeviceBank(retriever.bank, self.classes, classifier.device)
        self.influence: Influence | None = None
        self.facts: dict[str, Any] = {"votes": [], "drift": [], "swaps": []}
        """What the results hold of it."""
        self.clean: LevelPredictions | None = None
        queries = None
        if not retriever.fully_labelled:
            queries = retriever.queries(validation, validation.pixels)
        voters = retriever.labelled_neighbours(validation_neighbours, queries)
        self.votes = votes.choose_votes(*voters, validation.labels, self.classes)
        pruned = self._attribute(validation, validation_neighbours)
        self.counterfactuals = Counterfactuals(
            images,
            retriever,
            self.classes,
            fusion.attend,
            options.poisoned,
            pruned,
            options.strategies,
        )

    def _attribute(self, validation: Images, neighbours: Neighbours) -> npt.NDArray[np.int64]:
        """Leave out neighbours one at a time; the rows of the bank to prune."""
        count = min(self.options.attributed, len(validation))
        if not count:
            return np.empty(0, np.int64)
        rng = np.random.default_rng(self.options.seed)
        images = np.sort(rng.permutation(len(validation))[:count])
        attributed = attribution.attribute(
            self.classifier,
            validation.pixels[images],
            validation.labels[images],
            self.bank,
            neighbours.indices[images],
        )
        self.influence = attribution.influence(attributed)
        _, k = neighbours.indices.shape
        pruned = attribution.most_harmful(
            self.influence, self.options.prune, len(self.retriever.bank), k
        )
        rows = self.influence_rows()
        self.facts["attribution"] = {
            **attribution.summary(attributed, self.options.seed),
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
        neighbours, vectors = clean.retrieval.neighbours, level.retrieval.queries.vectors
        drifted = drift.drift(
            neighbours, level.retrieval.neighbours, vectors, self.retriever.bank, labels
        )
        with_clean = level.logits
        if level is not clean:
            with_clean = self.classifier.predict(level.pixels, self.bank, neighbours.indices)
        logits = (clean.logits, level.logits, with_clean)
        loss = drift.split_loss(*(metrics.top_k(own, labels, 1) for own in logits))
        self.facts["drift"].append({**std, **drifted, **loss})
        predictions.append("correct_with_clean_neighbours", metrics.hits(with_clean, labels))
        if level.noise_std in self.options.levels:
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
