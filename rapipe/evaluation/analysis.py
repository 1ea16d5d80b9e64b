"""What a classifier does with what it looks up."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.device import device
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation import attribution, drift
from rapipe.evaluation.attribution import Influence
from rapipe.evaluation.counterfactuals import Counterfactuals, evaluate_counterfactuals
from rapipe.evaluation.noise_levels import (
    LevelPredictions,
    PredictionsBuilder,
)
from rapipe.pipeline.inputs import bank_card, labelled, neighbours_of
from rapipe.records import Images
from rapipe.retrieval import votes

SHOWN = 8
"""Rows of the memory that the results name, of the most harmful and of the most helpful."""


class RetrievalAnalysis:
    """What a classifier does with what it looks up, gathered level by level.

    Whatever is chosen (votes, rows to prune) is chosen on the validation split.
    """

    def __init__(
        self,
        params: Params,
        variant: Variant,
        classifier: Classifier,
        lookup: Retriever,
        images: Images,
    ) -> None:
        self.params, self.classifier, self.lookup, self.images = params, classifier, lookup, images
        self.classes = len(images.classes)
        self.bank = DeviceBank(lookup.bank, self.classes, device())
        self.blamed: Influence | None = None
        self.found: dict[str, Any] = {"votes": [], "drift": [], "swaps": []}
        self.clean: LevelPredictions | None = None
        self._on_validation(variant)

    def _on_validation(self, variant: Variant) -> None:
        """Choose the votes; leave neighbours out one at a time."""
        asking = labelled("validation")
        table, bank = neighbours_of(asking, variant, "validation"), self.lookup.bank
        ask = not self.lookup.all_known
        queries = self.lookup.queries(asking, asking.pixels) if ask else None
        voters = self.lookup.voters(table, queries)
        self.votes = votes.choose_votes(*voters, asking.labels, self.classes)
        pruned, count = np.empty(0, np.int64), min(self.params.evaluate.attributed, len(asking))
        if count:
            rng = np.random.default_rng(self.params.seed)
            some = np.sort(rng.permutation(len(asking))[:count])
            found = attribution.attribute(
                self.classifier,
                asking.pixels[some],
                asking.labels[some],
                self.bank,
                table.indices[some],
            )
            self.blamed = attribution.influence(found)
            share = self.params.retrieval.prune
            pruned = attribution.most_harmful(self.blamed, share, len(bank), variant.k)
            rows = self.blame_rows()
            self.found["attribution"] = {
                **attribution.summary(found, self.params.seed),
                "rows": len(rows),
                "harmful": int((self.blamed.effect < 0).sum()),
                "pruned": len(pruned),
                "harm": rows[:SHOWN],
                "help": rows[: -SHOWN - 1 : -1],
            }
        self.swaps = Counterfactuals(
            self.images,
            self.lookup,
            self.classes,
            self.classifier.spec.attend,
            self.params.evaluate.poisoned,
            pruned,
            self.params.retrieval.strategies,
        )

    def add(self, seen: LevelPredictions, noted: PredictionsBuilder) -> None:
        """Votes, drift and swaps at one noise level; the clean one comes first."""
        assert seen.found is not None
        assert seen.queries is not None
        assert seen.voters is not None
        labels, bank = self.images.labels, self.lookup.bank
        level = {"noise_std": seen.noise_std}
        for vote in self.votes:
            counted = vote(*seen.voters, self.classes)
            own = {"vote": vote.name, "k": vote.k, "validation_top1": vote.validation_top1}
            self.found["votes"].append({**level, **own, "top1": metrics.top_k(counted, labels, 1)})
        clean = self.clean = self.clean or seen
        assert clean.found is not None
        moved = drift.drift(clean.found, seen.found, seen.queries.vectors, bank, labels)
        repaired = seen.logits
        if seen is not clean:
            repaired = self.classifier.predict(seen.pixels, self.bank, clean.found.indices)
        top1 = [metrics.top_k(own, labels, 1) for own in (clean.logits, seen.logits, repaired)]
        self.found["drift"].append({**level, **moved, **drift.split(*top1)})
        noted.note("repaired", metrics.hits(repaired, labels))
        if seen.noise_std in self.params.evaluate.swap_std:
            swapped = evaluate_counterfactuals(self.classifier, seen, self.swaps, self.bank)
            self.found["swaps"] += swapped.rows
            for change, distance in zip(swapped.change, swapped.moved, strict=True):
                noted.note("change", change)
                noted.note("moved", distance)

    def blame_rows(self) -> list[dict[str, object]]:
        """The rows of the memory that validation images looked up, the most harmful first."""
        assert self.blamed is not None
        bank, classes = self.lookup.bank, bank_card()["classes"]
        return [
            {
                "id": int(bank.ids[row]),
                "class": classes[bank.labels[row]] if bank.labels[row] >= 0 else "",
                "source": str(bank.sources[row]),
                "shown": int(shown),
                "effect": round(float(effect), 6),
            }
            for row, shown, effect in zip(*self.blamed, strict=True)
        ]
