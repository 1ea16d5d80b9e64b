"""What the memory's encoder knows without a network that was trained to look things up.

A fusion that is no better shows that the encoder is good, not that looking things up helps.

Letters: N labelled training images, Q queries, K neighbours, D embedding, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.encoder.linear_probe import LinearClassifier, fit_linear
from rapipe.progress import track
from rapipe.records import Ids, Labels, Neighbours, Vectors
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.votes import Vote, best_vote, choose_votes

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Of the probe, the inverse of its L2 penalty; the weakest penalty takes the most steps."""
NEIGHBOURS = 200
"""That vote, at most."""


class LabelledVectors(NamedTuple):
    """Images as the encoder sees them, with their classes."""

    ids: Ids  # (N,)
    vectors: Vectors  # (N, D)
    labels: Labels  # (N,), 0 or more

    @property
    def searchable(self) -> VectorsWithIds:
        """Without the classes."""
        return VectorsWithIds(self.ids, self.vectors)


class Answers(NamedTuple):
    """What a baseline says of queries."""

    correct: npt.NDArray[np.bool_]  # (Q,)
    confidence: npt.NDArray[np.float32]  # (Q,), share of the answer: 0 to 1


class EncoderBaseline(Protocol):
    """Answers by the encoder's vectors; all that it has was chosen on validation."""

    @property
    def choice(self) -> dict[str, Any]:
        """What was chosen, with its validation_top1."""
        ...

    @property
    def words(self) -> str:
        """The same in words."""
        ...

    def answer(self, queries: LabelledVectors) -> Answers:
        """What it says of queries, and whether that is right."""
        ...


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of the encoder's features."""

    model: LinearClassifier
    strength: float
    validation_top1: float

    @property
    def choice(self) -> dict[str, Any]:
        """What was chosen on validation."""
        return {"strength": self.strength, "validation_top1": self.validation_top1}

    @property
    def words(self) -> str:
        """The same in words."""
        return f"C = {self.strength:g}"

    def answer(self, queries: LabelledVectors) -> Answers:
        """The most likely class of each query, and its probability."""
        confidence = self.model.predict_proba(queries.vectors).max(axis=1)
        correct = self.model.predict(queries.vectors) == queries.labels
        return Answers(correct, confidence.astype(np.float32))


@dataclass(frozen=True)
class NeighbourVote:
    """A vote of the nearest among all training images with a label, whatever the bank is."""

    train: LabelledVectors
    vote: Vote
    classes: int

    @property
    def choice(self) -> dict[str, Any]:
        """What was chosen on validation."""
        vote, k, validation_top1 = self.vote
        return {"vote": vote, "k": k, "validation_top1": validation_top1}

    @property
    def words(self) -> str:
        """The same in words."""
        return f"{self.vote.name}, k = {self.vote.k}"

    def answer(self, queries: LabelledVectors) -> Answers:
        """The class with most votes, and its share of them; equal votes are no answer."""
        near = _nearest(self.train, queries, self.vote.k)
        counts = self.vote(near.similarities, self.train.labels[near.indices], self.classes)
        confidence = counts.max(axis=1) / counts.sum(axis=1)
        correct = metrics.hits(counts, queries.labels)
        return Answers(correct, confidence.astype(np.float32))


def choose_probe(train: LabelledVectors, validation: LabelledVectors) -> LinearProbe:
    """The linear probe whose penalty is best on validation; the strongest of equals."""
    rows = np.arange(len(train.labels))
    fits = fit_linear(train.vectors, train.labels, rows, STRENGTHS)
    probes = []
    for strength, model in zip(STRENGTHS, track(fits, "linear probe", len(STRENGTHS)), strict=True):
        right = model.predict(validation.vectors) == validation.labels
        probes.append(LinearProbe(model, strength, float(right.mean())))
    return max(probes, key=lambda probe: probe.validation_top1)


def choose_vote(train: LabelledVectors, validation: LabelledVectors, classes: int) -> NeighbourVote:
    """The way to vote, and the number of neighbours, that is best on validation."""
    near = _nearest(train, validation, min(NEIGHBOURS, len(train.ids)))
    labels = train.labels[near.indices]
    vote = best_vote(choose_votes(near.similarities, labels, validation.labels, classes))
    assert vote is not None
    return NeighbourVote(train, vote, classes)


def _nearest(train: LabelledVectors, queries: LabelledVectors, k: int) -> Neighbours:
    """The k nearest training images, none of which is a query."""
    return search(queries.vectors, train.searchable, k, queries.ids)
