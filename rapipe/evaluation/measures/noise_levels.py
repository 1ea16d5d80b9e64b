"""How well does a classifier do on clean images, and on noisy ones?

Letters: N images, C classes, K neighbours, L noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.measures.calibration import vote_entropy
from rapipe.evaluation.measures.drift import label_purity
from rapipe.progress import track
from rapipe.records import OTHER_IMAGE, Embeddings, Images, Neighbours, Pixels, Predictions
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
    """The images at one noise level, or corrupted, and what a classifier predicts for them."""

    noise_std: float
    pixels: Pixels
    logits: npt.NDArray[np.float32]  # (N, C)
    retrieval: Retrieval | None = None
    """None without retrieval."""
    with_others: npt.NDArray[np.float32] | None = None
    """Logits with the neighbours of other images; None without retrieval."""
    with_clean: npt.NDArray[np.float32] | None = None
    """Logits with the neighbours of the clean images, if that was asked for."""
    attention: npt.NDArray[np.float32] | None = None  # (N, K), or (N, 1 + K)
    """To the neighbours, of a fusion that may pass them by; None of others."""


def predict_levels(
    classifier: Classifier,
    images: Images,
    levels: Sequence[float],
    retriever: Retriever | None,
    bank: DeviceBank | None,
    seed: int,
    with_clean: bool = False,
) -> Iterator[LevelPredictions]:
    """The images at each level of Gaussian noise (0 = clean), one after the other.

    Args:
        levels: standard deviations on [0, 1].
        retriever, bank: how neighbours are retrieved, and the bank that they are gathered from;
            None for a classifier without retrieval.
        seed: of the noise.
        with_clean: predict also with the neighbours of the first level; with a retriever alone.
    """
    clean: Shown | None = None
    for std in track(levels, "evaluating", len(levels)):
        pixels = gaussian_noise(images.pixels, images.ids, std, seed)
        level = predict(classifier, images, pixels, retriever, bank, clean, std)
        if with_clean and level.retrieval:
            clean = clean or Shown.of(bank, level.retrieval.neighbours)
            level = replace(level, with_clean=level.logits) if level.with_clean is None else level
        yield level


def predict(
    classifier: Classifier,
    images: Images,
    pixels: Pixels,
    retriever: Retriever | None,
    bank: DeviceBank | None,
    clean: Shown | None = None,
    noise_std: float = 0.0,
) -> LevelPredictions:
    """Images as these pixels, which are what the classifier and the encoder see.

    Args:
        clean: other neighbours to predict with too.
    """
    if retriever is None:
        return LevelPredictions(noise_std, pixels, classifier.predict(pixels))
    queries = retriever.queries(images, pixels)
    neighbours = retriever.neighbours(queries)
    voters = retriever.labelled_neighbours(neighbours, queries)
    others = neighbours.take(other_images(len(images), retriever.request.seed))
    shown = [Shown.of(bank, neighbours), Shown.of(bank, others), *([clean] if clean else [])]
    if classifier.abstains:
        logits, attention = classifier.predict_with_attention(pixels, shown)
    else:
        logits, attention = classifier.predict_with_each(pixels, shown), None
    retrieval = Retrieval(queries, neighbours, voters)
    with_clean = logits[2] if clean else None
    return LevelPredictions(
        noise_std, pixels, logits[0], retrieval, logits[1], with_clean, attention
    )


def other_images(count: int, seed: int) -> npt.NDArray[np.int64]:
    """For each image another one: the next in a random circle."""
    circle = np.random.default_rng([seed, *OTHER_IMAGE.encode()]).permutation(count)
    successors = np.empty_like(circle)
    successors[circle] = np.roll(circle, -1)
    return successors


def scores(level: LevelPredictions, images: Images, bank: DeviceBank | None) -> dict[str, float]:
    """top1, top3 (0 to 1), nll (nats), ece, n_test; and of neighbours, where there are any:

    `neighbour_recall` of their search (1.0 = exact); `purity`, the share that has the image's
    class; `reliance`, how far a prediction moves with another image's neighbours (the mean total
    variation distance, 0 to 1); `neighbour_share`, how much of its attention, or of its mixture,
    a fusion that may pass neighbours by gives them (0 to 1).
    """
    row = {**metrics.summarise(level.logits, images.labels), "n_test": len(images)}
    retrieval = level.retrieval
    if retrieval is None or level.with_others is None:
        return row
    probabilities = map(metrics.softmax, (level.logits, level.with_others))
    row["reliance"] = float(metrics.total_variation(*probabilities).mean())
    if not retrieval.neighbours.k or bank is None:
        return row
    neighbours = retrieval.neighbours
    if "recall" in neighbours.found_by:
        row["neighbour_recall"] = neighbours.found_by["recall"]
    purity = label_purity(neighbours.indices, bank.bank, images.labels)
    if purity is not None:
        row["purity"] = purity
    if level.attention is not None:
        row["neighbour_share"] = float(level.attention[:, -neighbours.k :].sum(axis=1).mean())
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
