"""How well does a classifier do on clean images, and on noisy ones?

Letters: N images, C classes, K neighbours, L noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.measures.calibration import vote_entropy
from rapipe.evaluation.measures.corruptions import CORRUPTIONS, GAUSSIAN_NOISE
from rapipe.progress import track
from rapipe.records import Embeddings, Images, Neighbours, Pixels, Predictions
from rapipe.retrieval.search import VectorsWithIds
from rapipe.retrieval.votes import LabelledNeighbours, Vote


class Retrieval(NamedTuple):
    """What images retrieve from the bank."""

    queries: VectorsWithIds
    neighbours: Neighbours
    voters: LabelledNeighbours
    """Those that vote beside the classifier."""


@dataclass(frozen=True)
class LevelPredictions:
    """The images at one noise level, and what a classifier predicts for them."""

    noise_std: float
    pixels: Pixels
    logits: npt.NDArray[np.float32]  # (N, C)
    retrieval: Retrieval | None = None
    """None without retrieval."""
    with_clean: npt.NDArray[np.float32] | None = None
    """Logits with the neighbours of the clean images, if that was asked for."""


def predict_levels(
    classifier: Classifier,
    images: Images,
    levels: Sequence[float],
    retriever: Retriever | None,
    bank: DeviceBank | None,
    seed: int,
    corruption: str = GAUSSIAN_NOISE,
    with_clean: bool = False,
) -> Iterator[LevelPredictions]:
    """The images at each noise level (0 = clean), one after the other.

    Args:
        levels: severities; of Gaussian noise, its standard deviations on [0, 1].
        retriever, bank: how neighbours are retrieved, and the bank that they are gathered from;
            None for a classifier without retrieval.
        seed: of the noise.
        corruption: its name in the table of corruptions.
        with_clean: predict also with the neighbours of the first level; with a retriever alone.
    """
    clean: Shown | None = None
    for std in track(levels, "evaluating", len(levels)):
        pixels = CORRUPTIONS[corruption](images.pixels, images.ids, std, seed)
        retrieval: Retrieval | None = None
        shown = [Shown()]
        if retriever:
            queries = retriever.queries(images, pixels)
            neighbours = retriever.neighbours(queries)
            voters = retriever.labelled_neighbours(neighbours, queries)
            retrieval = Retrieval(queries, neighbours, voters)
            shown = [Shown.of(bank, neighbours)]
            clean = clean or shown[0]
            shown += [clean] * (with_clean and shown[0] is not clean)
        logits = classifier.predict_with_each(pixels, shown)
        yield LevelPredictions(
            std, pixels, logits[0], retrieval, logits[-1] if with_clean else None
        )


def scores(level: LevelPredictions, images: Images) -> dict[str, float]:
    """noise_std, top1, top3 (0 to 1), nll (nats), ece, n_test.

    Where neighbours were searched, also neighbour_recall (1.0 = exact).
    """
    summary = metrics.summarise(level.logits, images.labels)
    row = {"noise_std": level.noise_std, **summary, "n_test": len(images)}
    if level.retrieval and "recall" in level.retrieval.neighbours.found_by:
        row["neighbour_recall"] = level.retrieval.neighbours.found_by["recall"]
    return row


class PredictionsBuilder:
    """Collects what is predicted for each image, level by level.

    Args:
        bank: where the neighbours are from; None without retrieval.
        vote: the best way to let them vote; None where none has a class.
    """

    def __init__(self, images: Images, bank: Embeddings | None, vote: Vote | None) -> None:
        self.images, self.bank, self.vote = images, bank, vote
        self.levels: list[float] = []
        self.columns: dict[str, list[npt.NDArray]] = {}

    def add(self, level: LevelPredictions) -> None:
        """Add a level: what is predicted, and how similar, unanimous and right neighbours are.

        Of neighbours there is nothing where only an image's own vector is shown.
        """
        targets, classes = self.images.labels, len(self.images.classes)
        self.levels.append(level.noise_std)
        self.append("correct", metrics.hits(level.logits, targets))
        confidence = metrics.softmax(level.logits).max(axis=1)
        self.append("confidence", confidence.astype(np.float32))
        if self.bank and level.retrieval and level.retrieval.neighbours.k:
            neighbours = level.retrieval.neighbours
            entropy = vote_entropy(self.bank.labels[neighbours.indices], classes)
            self.append("similarity", neighbours.similarities.mean(axis=1))
            self.append("vote_entropy", entropy.astype(np.float32))
            if self.vote:
                counts = self.vote(*level.retrieval.voters, classes)
                self.append("vote_correct", metrics.hits(counts, targets))

    def append(self, name: str, values: npt.NDArray) -> None:
        """Append one value an image (N,): another row of a column of `Predictions`."""
        self.columns.setdefault(name, []).append(values)

    def predictions(self) -> Predictions:
        """All of them, as a record."""
        columns = {name: np.stack(rows) for name, rows in self.columns.items()}
        return Predictions(self.images.ids, tuple(self.levels), **columns)
