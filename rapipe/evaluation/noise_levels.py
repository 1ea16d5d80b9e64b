"""How well does a classifier do on clean images, and on noisy ones?

Letters: N images, C classes, K neighbours, L noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.calibration import vote_entropy
from rapipe.progress import track
from rapipe.records import Embeddings, Images, Neighbours, Pixels, Predictions
from rapipe.retrieval.search import KeyedVectors
from rapipe.retrieval.votes import Vote, Voters


@dataclass(frozen=True)
class LevelPredictions:
    """The test split at one noise level, and what a classifier makes of it."""

    noise_std: float
    pixels: Pixels
    logits: npt.NDArray[np.float32]  # (N, C)
    queries: KeyedVectors | None
    """What the images ask the memory; None without retrieval."""
    found: Neighbours | None
    voters: Voters | None
    """The neighbours that vote; None without retrieval."""


def predict_levels(
    classifier: Classifier,
    images: Images,
    levels: Sequence[float],
    lookup: Retriever | None,
    bank: DeviceBank | None,
    seed: int,
) -> Iterator[LevelPredictions]:
    """The images at each noise level (0 = clean), one after the other.

    Args:
        levels: standard deviations of Gaussian noise, on [0, 1].
        lookup, bank: how to find neighbours, and where to gather them; None for a
            classifier without retrieval.
        seed: of the noise.
    """
    for std in track(levels, "evaluating", len(levels)):
        pixels = gaussian_noise(images.pixels, images.ids, std, seed)
        queries = lookup.queries(images, pixels) if lookup else None
        found = lookup.find(queries) if lookup and queries else None
        voters = lookup.voters(found, queries) if lookup and found else None
        logits = classifier.predict(pixels, bank, found.indices if found else None)
        yield LevelPredictions(std, pixels, logits, queries, found, voters)


def scores(seen: LevelPredictions, images: Images) -> dict[str, float]:
    """noise_std, top1, top3 (0 to 1), nll (nats), ece, n_test.

    Where neighbours were searched, also neighbour_recall (1.0 = exact).
    """
    own = metrics.summarise(seen.logits, images.labels)
    row = {"noise_std": seen.noise_std, **own, "n_test": len(images)}
    if seen.found and "recall" in seen.found.found_by:
        row["neighbour_recall"] = seen.found.found_by["recall"]
    return row


class PredictionsBuilder:
    """What was predicted for each image at the levels seen so far.

    Args:
        bank: where the neighbours are from; None without retrieval.
        vote: the best way to let them vote; None where none has a class.
    """

    def __init__(self, images: Images, bank: Embeddings | None, vote: Vote | None) -> None:
        self.images, self.bank, self.vote = images, bank, vote
        self.levels: list[float] = []
        self.columns: dict[str, list[npt.NDArray]] = {}

    def add(self, seen: LevelPredictions) -> None:
        """Note what was predicted, and how near, how unanimous and how right the neighbours are."""
        targets, classes = self.images.labels, len(self.images.classes)
        own = {
            "correct": metrics.hits(seen.logits, targets),
            "confidence": metrics.softmax(seen.logits).max(axis=1).astype(np.float32),
        }
        if self.bank and seen.found:
            labels = self.bank.labels[seen.found.indices]  # (N, K)
            own["similarity"] = seen.found.similarities.mean(axis=1)
            own["vote_entropy"] = vote_entropy(labels, classes).astype(np.float32)
            if self.vote and seen.voters:
                counted = self.vote(*seen.voters, classes)
                own["voted"] = metrics.hits(counted, targets)
        self.levels.append(seen.noise_std)
        for name, column in own.items():
            self.note(name, column)

    def note(self, name: str, column: npt.NDArray) -> None:
        """Note one value an image: another row of a column of `Predictions`."""
        self.columns.setdefault(name, []).append(column)

    def predictions(self) -> Predictions:
        """All of them, as a record."""
        columns = {name: np.stack(own) for name, own in self.columns.items()}
        return Predictions(self.images.ids, tuple(self.levels), **columns)
