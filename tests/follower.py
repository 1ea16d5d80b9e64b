"""A classifier whose predictions are known, and what it predicts for images with neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from conftest import make_embeddings, make_images

from rapipe.batches.loader import CPU
from rapipe.classifier.fusions.base import SEES_ALL
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.measures.noise_levels import LevelPredictions, Retrieval
from rapipe.records import Images
from rapipe.retrieval.search import SearchMethod, VectorsWithIds
from rapipe.retrieval.strategies import RetrievalRequest

CLASSES, K = 3, 5


class Follower:
    """A classifier that says what most of its neighbours are, and class 0 without any."""

    spec = SimpleNamespace(classes=CLASSES)
    inputs = SEES_ALL
    abstains = True
    device = CPU

    def predict(
        self,
        pixels: np.ndarray,
        bank: DeviceBank | None = None,
        indices: np.ndarray | None = None,
        *_: Any,
    ) -> np.ndarray:
        if bank is None or indices is None:
            return np.eye(CLASSES)[np.zeros(len(pixels), int)]
        labels = bank.labels.numpy()[indices]
        counted = [np.bincount(row[row >= 0], minlength=CLASSES) for row in labels]
        return np.stack(counted) + np.eye(CLASSES)[0] * 1e-3

    def predict_with_each(self, pixels: np.ndarray, shown: Sequence[Shown]) -> list[np.ndarray]:
        return [self.predict(pixels, *own) for own in shown]

    def predict_with_attention(
        self, pixels: np.ndarray, shown: Sequence[Shown]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        indices = shown[0].indices
        assert indices is not None
        attention = np.full(indices.shape, 1 / indices.shape[1], np.float32)
        return self.predict_with_each(pixels, shown), attention

    def attention_entropy(self, pixels: np.ndarray, shown: Shown) -> list[np.ndarray]:
        return [np.ones((len(pixels), 2), np.float32)]


def retrieve(retriever: Retriever, images: Images) -> Retrieval:
    """Neighbours of images, whose embeddings are random."""
    queries = VectorsWithIds(images.ids, make_embeddings(len(images), seed=3).vectors)
    neighbours = retriever.neighbours(queries)
    return Retrieval(queries, neighbours, retriever.labelled_neighbours(neighbours, queries))


def followed(n: int = 40, rows: int = 120) -> tuple[Images, Retriever, LevelPredictions]:
    """Images, how their neighbours are retrieved, and what a `Follower` predicts for them."""
    images, bank = make_images(n, seed=1), make_embeddings(rows, seed=2)
    request = RetrievalRequest(K, 0, SearchMethod())
    retriever = Retriever(None, bank, "knn", request, CLASSES)  # type: ignore[arg-type]
    retrieval = retrieve(retriever, images)
    device_bank, indices = DeviceBank(bank, CLASSES, CPU), retrieval.neighbours.indices
    logits = Follower().predict(images.pixels, device_bank, indices)
    return images, retriever, LevelPredictions(0.0, images.pixels, logits, retrieval)
