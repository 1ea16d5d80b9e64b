"""Neighbours of any image, for the evaluation of a classifier."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rapipe.encoder.embedding_cache import embed_cached
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import ImportedVectors
from rapipe.records import Embeddings, Images, Labels, Neighbours, Pixels
from rapipe.retrieval.search import SearchMethod, VectorsWithIds, search
from rapipe.retrieval.search.ranking import TopK
from rapipe.retrieval.strategies import STRATEGIES, NotServedError, RetrievalRequest
from rapipe.retrieval.votes import LabelledNeighbours


@dataclass(frozen=True)
class Retriever:
    """All that is needed to retrieve neighbours of any image.

    The query is the embedding of the image as the classifier sees it, noise included; so is the
    image's own vector, where a strategy shows it.

    Args:
        bank: the rows that may be retrieved; of the strategy `self` only their dimension counts.
        classes: how many the task has.
        cache: a folder for embeddings of test images, which are the same for every classifier;
            by a hash of the pixels and of `encoder_fingerprint`.
    """

    encoder: Encoder | ImportedVectors
    bank: Embeddings
    strategy: str
    request: RetrievalRequest
    classes: int
    cache: Path | None = None
    encoder_fingerprint: str = ""

    @classmethod
    def knn(cls, encoder: Encoder, bank: Embeddings, k: int) -> Retriever:
        """Retrieves the k nearest rows of the bank, exactly."""
        classes = int(bank.labels.max(initial=-1)) + 1
        return cls(encoder, bank, "knn", RetrievalRequest(k), classes)

    def retrieve(self, images: Images) -> Neighbours:
        """Neighbours (Q, k) of images; none finds itself, or an exact copy.

        Raises:
            ArgumentError: the bank offers an image fewer than k neighbours.
        """
        return self.neighbours(self.queries(images, images.pixels))

    def queries(self, images: Images, pixels: Pixels) -> VectorsWithIds:
        """The queries of `images`, seen as `pixels`."""
        return VectorsWithIds(
            images.ids, embed_cached(self.encoder, pixels, self.cache, self.encoder_fingerprint)
        )

    def neighbours(
        self, queries: VectorsWithIds, strategy: str | None = None, bank: Embeddings | None = None
    ) -> Neighbours:
        """Neighbours (Q, k) by this or another strategy, of this or another bank.

        No query finds its own id. Another bank is searched exactly: an index of it would be
        built for nothing else.

        Raises:
            NotServedError: the bank cannot serve the strategy.
        """
        request = replace(self.request, method=SearchMethod()) if bank else self.request
        return STRATEGIES[strategy or self.strategy](queries, bank or self.bank, request)

    def labelled_neighbours(
        self, neighbours: Neighbours, queries: VectorsWithIds | None
    ) -> LabelledNeighbours:
        """The neighbours (Q, K) that vote beside the classifier: rows with a class of the task.

        An image's own vector never votes.

        If all rows of the bank have one, these are `neighbours`; otherwise those that the same
        strategy retrieves from `labelled_bank`, so that few labels make no weak baseline. If it
        cannot serve that, they are `neighbours` after all.

        Args:
            queries: those of `neighbours`; may be None if `fully_labelled`.

        Raises:
            ValueError: there are no queries, but they are needed.
        """
        bank = self.bank
        if neighbours.k and not self.fully_labelled:
            if queries is None:
                raise ValueError("rows without a class do not vote: pass the queries")
            k = min(self.request.k, len(self.labelled_bank))
            if k:
                request = replace(self.request, method=SearchMethod(), k=k)
                with suppress(NotServedError):
                    neighbours = STRATEGIES[self.strategy](queries, self.labelled_bank, request)
                    bank = self.labelled_bank
        return LabelledNeighbours(neighbours.similarities, bank.labels[neighbours.indices])

    @property
    def fully_labelled(self) -> bool:
        """Whether every row has a class of the task."""
        return self.labelled_bank is self.bank

    @cached_property
    def labelled_bank(self) -> Embeddings:
        """The rows that have a class of the task."""
        mask = (self.bank.labels >= 0) & (self.bank.labels < self.classes)
        return self.bank if mask.all() else self.bank.take(np.flatnonzero(mask))


def nearest_of_class(queries: VectorsWithIds, bank: Embeddings, targets: Labels, k: int) -> TopK:
    """The k nearest rows (Q, k) of the class in `targets` (Q,); if there are fewer, they repeat.

    Every target must have a row that is not the query itself.
    """
    shape = len(targets), k
    top = TopK(np.empty(shape, np.int32), np.empty(shape, np.float32))
    for label in np.unique(targets):
        group = np.flatnonzero(targets == label)
        rows = np.flatnonzero(bank.labels == label)
        excluded = np.isin(bank.ids[rows], queries.ids[group]).sum()
        most = min(k, len(rows) - int(excluded))
        near = search(queries.vectors[group], bank.take(rows), most, queries.ids[group])
        columns = np.arange(k) % most
        top.rows[group] = rows[near.indices][:, columns]
        top.similarities[group] = near.similarities[:, columns]
    return top
