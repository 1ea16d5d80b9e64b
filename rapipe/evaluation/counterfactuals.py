"""What does a classifier do when its neighbours are swapped for others?

The classifier stays as it is, and so do the images: whatever changes in its
predictions is due to what it looked up.

Letters: Q queries, K neighbours, N bank rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever, nearest_of_class
from rapipe.evaluation.noise_levels import LevelPredictions
from rapipe.records import OTHER_IMAGE, Embeddings, Images, Indices, Labels
from rapipe.retrieval import votes
from rapipe.retrieval.strategies import NotServedError

Logits = npt.NDArray[np.float32]  # (Q, C)
ALWAYS = ("sampled", "knn")
"""Strategies whose neighbours every classifier is shown."""


class Counterfactual(NamedTuple):
    """Other neighbours, and the memory to take them from; no indices: none at all."""

    name: str
    indices: Indices | None  # (Q, K)
    bank: Embeddings


@dataclass(frozen=True)
class Counterfactuals:
    """Which swaps there are for the images at one noise level.

    Args:
        classes: C of the task; rows of other classes count as unlabelled.
        attend: what neighbours are to the classifier; what it cannot see is not swapped.
        poisoned: shares of the memory, 0 to 1, whose contents are replaced.
        pruned: rows to leave out of the memory; empty for none.
        strategies: whose neighbours are shown, beside ALWAYS.
    """

    images: Images
    lookup: Retriever
    classes: int
    attend: str
    poisoned: Sequence[float]
    pruned: npt.NDArray[np.int64]
    strategies: tuple[str, ...] = ()

    def of(self, seen: LevelPredictions) -> Iterator[Counterfactual]:
        """Every swap, each drawn from the seed and its own name alone.

        A strategy that the memory cannot serve is left out.
        """
        assert seen.found is not None
        assert seen.queries is not None
        own, bank = seen.found.indices, self.lookup.bank
        for strategy in dict.fromkeys((*ALWAYS, *self.strategies)):
            again = strategy == self.lookup.strategy
            with suppress(NotServedError):
                found = seen.found if again else self.lookup.find(seen.queries, strategy)
                yield Counterfactual(strategy, found.indices, bank)
        yield Counterfactual("none", None, bank)
        yield Counterfactual(OTHER_IMAGE, own[self._others(len(own))], bank)
        yield from self._oracles(seen)
        if self.attend != "embedding":
            shuffled = self._rng("shuffled").permutation(bank.labels)
            yield Counterfactual("shuffled labels", own, replace(bank, labels=shuffled))
        yield self._own_duplicate(seen)
        for share in self.poisoned:
            yield from self._poison(own, share)
        yield from self._prune(seen)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.lookup.ask.seed, *name.encode()])

    def _others(self, count: int) -> npt.NDArray[np.int64]:
        """For each image another one: the next in a random circle."""
        circle = self._rng(OTHER_IMAGE).permutation(count)
        other = np.empty_like(circle)
        other[circle] = np.roll(circle, -1)
        return other

    def _oracles(self, seen: LevelPredictions) -> Iterator[Counterfactual]:
        """The nearest of the image's class, and of one other; where memory has none, its own."""
        assert seen.found is not None
        assert seen.queries is not None
        bank, own = self.lookup.bank, self.images.labels
        known = np.unique(bank.labels[(bank.labels >= 0) & (bank.labels < self.classes)])
        if len(known) < 2:
            return
        place = np.searchsorted(known, own)  # of the class, or of the next one
        missing = known[np.minimum(place, len(known) - 1)] != own
        drawn = self._rng("wrong class").integers(1, len(known) + missing)
        wrong = known[(place + drawn - missing) % len(known)]
        for name, targets, some in (
            ("same class", own, np.flatnonzero(~missing)),
            ("wrong class", wrong, np.arange(len(own))),
        ):
            asking = seen.queries._replace(
                ids=seen.queries.ids[some], vectors=seen.queries.vectors[some]
            )
            indices = seen.found.indices.copy()
            indices[some] = nearest_of_class(asking, bank, targets[some], indices.shape[1])
            yield Counterfactual(name, indices, bank)

    def _own_duplicate(self, seen: LevelPredictions) -> Counterfactual:
        """The nearest neighbour is the image itself, with its class: as if it had leaked."""
        assert seen.found is not None
        assert seen.queries is not None
        bank, count = self.lookup.bank, len(self.images)
        leaked = Embeddings(
            np.concatenate([bank.ids, self.images.ids]),
            np.concatenate([bank.vectors, seen.queries.vectors]),
            np.concatenate([bank.labels, self.images.labels]),
            np.concatenate([bank.sources, self.images.sources]),
            np.concatenate([bank.splits, np.full(count, "test")]),
        )
        indices = seen.found.indices.copy()
        indices[:, 0] = len(bank) + np.arange(count)
        return Counterfactual("own duplicate", indices, leaked)

    def _poison(self, own: Indices, share: float) -> Iterator[Counterfactual]:
        """A share of the rows lies about its class, or shows the vector of another row."""
        bank = self.lookup.bank
        rng = self._rng("poison")
        rows = rng.permutation(len(bank))[: round(share * len(bank))]
        if self.attend != "embedding":
            labels = bank.labels.copy()
            lying = rows[(labels[rows] >= 0) & (labels[rows] < self.classes)]
            turn = rng.integers(1, self.classes, len(lying)) if self.classes > 1 else 0
            labels[lying] = (labels[lying] + turn) % self.classes
            yield Counterfactual(
                f"{100 * share:g}% wrong labels", own, replace(bank, labels=labels)
            )
        if self.attend != "label":
            vectors = np.array(bank.vectors)
            vectors[rows] = bank.vectors[np.sort(rng.integers(0, len(bank), len(rows)))]
            yield Counterfactual(
                f"{100 * share:g}% wrong vectors", own, replace(bank, vectors=vectors)
            )

    def _prune(self, seen: LevelPredictions) -> Iterator[Counterfactual]:
        """The memory without some rows, and without as many random ones.

        Not where nothing is searched: what is drawn from another memory is another draw.
        """
        assert seen.queries is not None
        assert seen.found is not None
        if "recall" not in seen.found.found_by:
            return
        bank = self.lookup.bank
        random = self._rng("pruned").permutation(len(bank))[: len(self.pruned)]
        for name, rows in (("pruned", self.pruned), ("pruned at random", random)):
            if len(rows):
                left = bank.take(np.delete(np.arange(len(bank)), rows))
                with suppress(NotServedError):
                    yield Counterfactual(
                        name, self.lookup.find(seen.queries, bank=left).indices, left
                    )


class CounterfactualEffects(NamedTuple):
    """What the swaps do to the predictions: a row a swap, and for each image."""

    rows: list[dict[str, object]]
    change: list[npt.NDArray[np.float32]]  # (Q,) each: of being right, -1, 0 or 1
    moved: list[npt.NDArray[np.float32]]  # (Q,) each: total variation distance, 0 to 1


def evaluate_counterfactuals(
    classifier: Classifier, seen: LevelPredictions, swaps: Counterfactuals, on: DeviceBank
) -> CounterfactualEffects:
    """What each swap does to the predictions.

    Args:
        on: the lookup's own bank on the classifier's device.

    Returns:
        Rows with noise_std, swap, top1; `change` of top1; `flips`, the share of images
        whose predicted class changes; `kl` (nats) from the own predictions to
        these; `moved`, the mean total variation distance between the two (0 =
        nothing changed, 1 = everything); `follows`, the share predicted as the class
        that most of the neighbours shown have.

        `moved` of another image's neighbours is the reliance: how much of a
        prediction hangs on what was looked up for this image. It is what
        Fisher, Rudin and Dominici, JMLR 2019, do to a variable to see how far a
        model relies on it, measured on the prediction instead of the loss.
    """
    labels = swaps.images.labels
    before = metrics.softmax(seen.logits)  # (Q, C)
    right = metrics.hits(seen.logits, labels).astype(np.float32)
    found = CounterfactualEffects([], [], [])
    for swap in swaps.of(seen):
        bank = on if swap.bank is swaps.lookup.bank else _on_device(swap.bank, classifier)
        shown = (bank, swap.indices) if swap.indices is not None else (None, None)
        logits = classifier.predict(seen.pixels, *shown)
        after = metrics.softmax(logits)
        found.change.append(metrics.hits(logits, labels) - right)
        found.moved.append(metrics.total_variation(before, after).astype(np.float32))
        found.rows.append(
            {
                "noise_std": seen.noise_std,
                "swap": swap.name,
                "top1": metrics.top_k(logits, labels, 1),
                "change": float(found.change[-1].mean()),
                "flips": float((before.argmax(axis=1) != after.argmax(axis=1)).mean()),
                "kl": float(metrics.kl(before, after).mean()),
                "moved": float(found.moved[-1].mean()),
                "follows": neighbour_agreement(logits, swap, swaps.classes),
            }
        )
        del swap, bank, shown  # a poisoned copy of the memory, before the next one is made
    return found


def _on_device(bank: Embeddings, classifier: Classifier) -> DeviceBank:
    return DeviceBank(bank, classifier.spec.classes, classifier.device)


def neighbour_agreement(logits: Logits, swap: Counterfactual, classes: int) -> float | None:
    """Share of the images predicted as the class of most neighbours; None if there are none."""
    if swap.indices is None:
        return None
    labels: Labels = swap.bank.labels[swap.indices]
    counted = votes.count_votes(labels, np.ones(labels.shape), classes)
    some = counted.max(axis=1) > 0
    if not some.any():
        return None
    return float((counted.argmax(axis=1) == logits.argmax(axis=1))[some].mean())
