"""What does a classifier predict when its neighbours are swapped for others?

The classifier stays as it is, and so do the images: whatever changes in its predictions is due
to its neighbours. Where the image's own vector is shown beside them it stays too, but for the
counterfactuals `none` and OTHER_IMAGE, and those that show what another strategy shows.

Letters: Q queries, K neighbours, N bank rows, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.device import memory_budget
from rapipe.encoder.retriever import Retriever, nearest_of_class
from rapipe.evaluation.measures.noise_levels import LevelPredictions, Retrieval, other_images
from rapipe.records import (
    OTHER_IMAGE,
    Embeddings,
    Images,
    Indices,
    Labels,
    Neighbours,
    Similarities,
    Vectors,
)
from rapipe.retrieval import votes
from rapipe.retrieval.strategies import NotServedError
from rapipe.specs import LABELS, VECTORS

Logits = npt.NDArray[np.float32]  # (Q, C)
ALWAYS = ("sampled", "knn")
"""Strategies whose neighbours every classifier is shown."""


class Counterfactual(NamedTuple):
    """Other neighbours, and the bank that they are from; no indices: no neighbours."""

    name: str
    indices: Indices | None  # (Q, K)
    bank: Embeddings
    query_vectors: Vectors | None = None  # (Q, D), that stand for the images' own
    similarities: Similarities | None = None  # (Q, K), that the classifier sees, if it sees any

    @classmethod
    def showing(cls, name: str, neighbours: Neighbours, bank: Embeddings) -> Counterfactual:
        """One that shows all that there is of these neighbours."""
        parts = neighbours.query_vectors, neighbours.similarities
        return cls(name, neighbours.indices, bank, *parts)


@dataclass(frozen=True)
class Counterfactuals:
    """The counterfactuals that there are for the images at one noise level.

    Args:
        classes: C of the task; rows of other classes count as unlabelled.
        inputs: what the classifier sees of neighbours; what it does not is not swapped.
        poisoned: shares of the bank, 0 to 1, whose contents are replaced.
        pruned: rows to leave out of the bank; empty for none.
        strategies: whose neighbours are shown, beside ALWAYS.
    """

    images: Images
    retriever: Retriever
    classes: int
    inputs: Collection[str]
    poisoned: Sequence[float]
    pruned: npt.NDArray[np.int64]
    strategies: tuple[str, ...] = ()

    def of(self, retrieval: Retrieval) -> Iterator[Counterfactual]:
        """Every counterfactual, each drawn from nothing but the seed and its name.

        A strategy that the bank cannot serve is left out. Where nothing of the bank is shown,
        nothing of it is swapped: there are this strategy, `none`, and OTHER_IMAGE.
        """
        shown, bank = retrieval.neighbours, self.retriever.bank
        others = (*ALWAYS, *self.strategies) if shown.k else ()
        for strategy in dict.fromkeys((*others, self.retriever.strategy)):
            if strategy == self.retriever.strategy:
                yield Counterfactual.showing(strategy, shown, bank)
                continue
            with suppress(NotServedError):
                neighbours = self.retriever.neighbours(retrieval.queries, strategy)
                yield Counterfactual.showing(strategy, neighbours, bank)
        yield Counterfactual("none", None, bank)
        seed = self.retriever.request.seed
        other = shown.take(other_images(len(shown.indices), seed))
        yield Counterfactual.showing(OTHER_IMAGE, other, bank)
        if shown.k:  # by `map`, which keeps no poisoned copy of the bank
            beside = methodcaller("_replace", query_vectors=shown.query_vectors)
            yield from map(beside, self._of_bank(retrieval))

    def _of_bank(self, retrieval: Retrieval) -> Iterator[Counterfactual]:
        """Those that swap rows of the bank, or what is in them."""
        factual = Counterfactual.showing("", retrieval.neighbours, self.retriever.bank)
        yield from self._oracles(retrieval)
        if LABELS in self.inputs:
            labels = self._rng("shuffled").permutation(factual.bank.labels)
            shuffled = replace(factual.bank, labels=labels)
            yield factual._replace(name="shuffled labels", bank=shuffled)
        yield self._own_duplicate(retrieval)
        for share in self.poisoned:
            yield from self._poison(factual, share)
        yield from self._prune(retrieval)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.retriever.request.seed, *name.encode()])

    def _oracles(self, retrieval: Retrieval) -> Iterator[Counterfactual]:
        """The nearest of the image's class, and of another one.

        Images of a class that the bank lacks keep their neighbours.
        """
        bank, labels = self.retriever.bank, self.images.labels
        present = np.unique(bank.labels[(bank.labels >= 0) & (bank.labels < self.classes)])
        if len(present) < 2:
            return
        position = np.searchsorted(present, labels)  # of the class, or of the next one
        missing = present[np.minimum(position, len(present) - 1)] != labels
        steps = self._rng("wrong class").integers(1, len(present) + missing)
        wrong = present[(position + steps - missing) % len(present)]
        for name, targets, rows in (
            ("same class", labels, np.flatnonzero(~missing)),
            ("wrong class", wrong, np.arange(len(labels))),
        ):
            ids, vectors = retrieval.queries
            queries = retrieval.queries._replace(ids=ids[rows], vectors=vectors[rows])
            indices = retrieval.neighbours.indices.copy()
            similarities = retrieval.neighbours.similarities.copy()
            near = nearest_of_class(queries, bank, targets[rows], indices.shape[1])
            indices[rows], similarities[rows] = near.rows, near.similarities
            yield Counterfactual(name, indices, bank, similarities=similarities)

    def _own_duplicate(self, retrieval: Retrieval) -> Counterfactual:
        """The nearest neighbour is the image itself, with its class: as if it had leaked."""
        bank, count = self.retriever.bank, len(self.images)
        leaked = Embeddings(
            np.concatenate([bank.ids, self.images.ids]),
            np.concatenate([bank.vectors, retrieval.queries.vectors]),
            np.concatenate([bank.labels, self.images.labels]),
            np.concatenate([bank.sources, self.images.sources]),
            np.concatenate([bank.splits, np.full(count, "test")]),
        )
        indices = retrieval.neighbours.indices.copy()
        indices[:, 0] = len(bank) + np.arange(count)
        similarities = retrieval.neighbours.similarities.copy()
        similarities[:, 0] = 1
        return Counterfactual("own duplicate", indices, leaked, similarities=similarities)

    def _poison(self, factual: Counterfactual, share: float) -> Iterator[Counterfactual]:
        """A share of the rows has a wrong class, or the vector of another row.

        Similarities stay those of the search, which was before.
        """
        bank = self.retriever.bank
        rng = self._rng("poison")
        rows = rng.permutation(len(bank))[: round(share * len(bank))]
        if LABELS in self.inputs:
            labels = bank.labels.copy()
            relabelled = rows[(labels[rows] >= 0) & (labels[rows] < self.classes)]
            steps = rng.integers(1, self.classes, len(relabelled)) if self.classes > 1 else 0
            labels[relabelled] = (labels[relabelled] + steps) % self.classes
            poisoned = replace(bank, labels=labels)
            yield factual._replace(name=f"{100 * share:g}% wrong labels", bank=poisoned)
        if VECTORS in self.inputs:
            vectors = np.array(bank.vectors)
            vectors[rows] = bank.vectors[np.sort(rng.integers(0, len(bank), len(rows)))]
            poisoned = replace(bank, vectors=vectors)
            yield factual._replace(name=f"{100 * share:g}% wrong vectors", bank=poisoned)

    def _prune(self, retrieval: Retrieval) -> Iterator[Counterfactual]:
        """The bank without the rows to prune, and without as many random ones.

        Not where nothing is searched: what is drawn from another bank is another draw.
        """
        if "recall" not in retrieval.neighbours.found_by:
            return
        bank = self.retriever.bank
        random = self._rng("pruned").permutation(len(bank))[: len(self.pruned)]
        for name, rows in (("pruned", self.pruned), ("pruned at random", random)):
            if len(rows):
                pruned = bank.take(np.delete(np.arange(len(bank)), rows))
                with suppress(NotServedError):
                    neighbours = self.retriever.neighbours(retrieval.queries, bank=pruned)
                    yield Counterfactual.showing(name, neighbours, pruned)


class CounterfactualEffects(NamedTuple):
    """What counterfactuals do to the predictions: a row each, and a value an image."""

    rows: list[dict[str, object]]
    correct_change: list[npt.NDArray[np.float32]]  # (Q,) each: of being right, -1, 0 or 1
    total_variation: list[npt.NDArray[np.float32]]  # (Q,) each: distance, 0 to 1


def evaluate_counterfactuals(
    classifier: Classifier,
    level: LevelPredictions,
    counterfactuals: Counterfactuals,
    device_bank: DeviceBank,
) -> CounterfactualEffects:
    """What each counterfactual does to the predictions.

    Args:
        device_bank: the retriever's bank, on the classifier's device.

    Returns:
        Rows with noise_std, swap (the counterfactual's name), top1; `change` of top1; `flips`,
        the share of images whose predicted class changes; `kl` (nats) from the factual
        predictions to these; `total_variation`, the mean distance between the two (0 = nothing
        changed, 1 = everything); `neighbour_agreement`, the share predicted as the class that
        most of the neighbours shown have.

        `total_variation` with another image's neighbours is the reliance: how much of a
        prediction depends on what was retrieved for this image. It is what Fisher, Rudin and
        Dominici, JMLR 2019, do to a variable to see how far a model relies on it, measured on
        the prediction instead of the loss.
    """
    assert level.retrieval is not None
    labels = counterfactuals.images.labels
    before = metrics.softmax(level.logits)  # (Q, C)
    correct = metrics.hits(level.logits, labels).astype(np.float32)
    effects = CounterfactualEffects([], [], [])
    for counterfactual, logits in _predict(classifier, level, counterfactuals, device_bank):
        after = metrics.softmax(logits)
        change = metrics.hits(logits, labels) - correct
        distance = metrics.total_variation(before, after).astype(np.float32)
        effects.correct_change.append(change)
        effects.total_variation.append(distance)
        effects.rows.append(
            {
                "noise_std": level.noise_std,
                "swap": counterfactual.name,
                "top1": metrics.top_k(logits, labels, 1),
                "change": float(change.mean()),
                "flips": float((before.argmax(axis=1) != after.argmax(axis=1)).mean()),
                "kl": float(metrics.kl(before, after).mean()),
                "total_variation": float(distance.mean()),
                "neighbour_agreement": neighbour_agreement(
                    logits, counterfactual, counterfactuals.classes
                ),
            }
        )
    return effects


def _predict(
    classifier: Classifier,
    level: LevelPredictions,
    counterfactuals: Counterfactuals,
    device_bank: DeviceBank,
) -> Iterator[tuple[Counterfactual, Logits]]:
    """Each counterfactual, and the logits with it; together as long as their banks fit.

    Those with the image's own neighbours, and with another image's, the level has already.
    """
    assert level.retrieval is not None
    known = {counterfactuals.retriever.strategy: level.logits}
    if level.with_others is not None:
        known[OTHER_IMAGE] = level.with_others
    room = memory_budget(classifier.device)
    group: list[tuple[Counterfactual, Shown]] = []
    size = 0

    def predicted() -> Iterator[tuple[Counterfactual, Logits]]:
        unknown = [shown for swap, shown in group if swap.name not in known]
        logits = iter(classifier.predict_with_each(level.pixels, unknown) if unknown else ())
        for swap, _ in group:
            yield swap, known[swap.name] if swap.name in known else next(logits)
        group.clear()

    for swap in counterfactuals.of(level.retrieval):
        bank = device_bank
        if swap.bank is not counterfactuals.retriever.bank:
            bank = DeviceBank(swap.bank, classifier.spec.classes, classifier.device)
            size += swap.bank.vectors.nbytes
        group.append((swap, Shown(bank, swap.indices, swap.query_vectors, swap.similarities)))
        if size > room:
            yield from predicted()
            size = 0
    yield from predicted()


def neighbour_agreement(
    logits: Logits, counterfactual: Counterfactual, classes: int
) -> float | None:
    """Share of the images predicted as the class of most neighbours; None if there are none."""
    if counterfactual.indices is None:
        return None
    labels: Labels = counterfactual.bank.labels[counterfactual.indices]
    counts = votes.count_votes(labels, np.ones(labels.shape), classes)
    any_vote = counts.max(axis=1) > 0
    if not any_vote.any():
        return None
    return float((counts.argmax(axis=1) == logits.argmax(axis=1))[any_vote].mean())
