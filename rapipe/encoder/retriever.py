"""How the neighbours of any image are found, for a classifier that is examined."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rapipe.encoder.encoder import Encoder
from rapipe.io.atomic import atomic_write
from rapipe.io.locks import file_lock
from rapipe.records import Embeddings, Images, Indices, Labels, Neighbours, Pixels, Vectors
from rapipe.retrieval.search import KeyedVectors, SearchMethod, search
from rapipe.retrieval.strategies import STRATEGIES, NotServedError, RetrievalRequest
from rapipe.retrieval.votes import Voters

HASH = 32
"""Bytes of a SHA-256, before kept embeddings."""


@dataclass(frozen=True)
class Retriever:
    """What a classifier needs to look up neighbours of any image.

    The query is the embedding of the image as the classifier sees it, noise included.

    Args:
        classes: how many the task has.
        kept: a folder for embeddings of test images, which are the same for every classifier;
            by a hash of the pixels and of `embedded_by`.
        embedded_by: the encoder's fingerprint.
    """

    encoder: Encoder
    bank: Embeddings
    strategy: str
    ask: RetrievalRequest
    classes: int
    kept: Path | None = None
    embedded_by: str = ""

    def queries(self, images: Images, pixels: Pixels) -> KeyedVectors:
        """What `images`, seen as `pixels`, ask the memory."""
        return KeyedVectors(images.ids, self._embedded(pixels))

    def _embedded(self, pixels: Pixels) -> Vectors:
        if self.kept is None:
            return self.encoder.embed(pixels)
        key = hashlib.sha256(self.embedded_by.encode())
        key.update(f"{next(self.encoder.parameters()).device.type}{pixels.shape}".encode())
        key.update(pixels.tobytes())
        path = self.kept / key.hexdigest()[:32]
        with file_lock(path.with_suffix(".lock"), "embeds the same images"):
            found = _cached(path)
            if found is None:
                found = self.encoder.embed(pixels)
                raw = found.tobytes()
                atomic_write(path, hashlib.sha256(raw).digest() + raw)
        return found.reshape(len(pixels), -1)

    def find(
        self, queries: KeyedVectors, strategy: str | None = None, bank: Embeddings | None = None
    ) -> Neighbours:
        """Neighbours (Q, k) by this or another strategy, of this or another memory.

        No query finds its own id. Another memory is searched exactly: an index of
        it would be made for nothing else.

        Raises:
            NotServedError: the memory cannot serve the strategy.
        """
        ask = replace(self.ask, method=SearchMethod()) if bank else self.ask
        return STRATEGIES[strategy or self.strategy](queries, bank or self.bank, ask)

    def voters(self, found: Neighbours, queries: KeyedVectors | None) -> Voters:
        """Who votes on what the classifier is asked (Q, K): rows whose class is known.

        If all of the memory's are, these are the neighbours that were found; otherwise what the
        same strategy finds among the rows that have a class of the task, so that few labels
        make no weak floor. Where it finds nothing there, those that were found after all.

        Args:
            queries: what asked for `found`; None will do where `all_known`.

        Raises:
            ValueError: there are no queries, but they are needed.
        """
        own, bank = found, self.bank
        if self.all_known:
            return Voters(own.similarities, bank.labels[own.indices])
        if queries is None:
            raise ValueError("rows without a class do not vote: say what asked for these")
        if len(self.known):
            few = replace(self.ask, method=SearchMethod(), k=min(self.ask.k, len(self.known)))
            with suppress(NotServedError):
                own = STRATEGIES[self.strategy](queries, self.known, few)
                bank = self.known
        return Voters(own.similarities, bank.labels[own.indices])

    @property
    def all_known(self) -> bool:
        """Whether every row has a class of the task."""
        return self.known is self.bank

    @cached_property
    def known(self) -> Embeddings:
        """The rows that have a class of the task."""
        known = (self.bank.labels >= 0) & (self.bank.labels < self.classes)
        return self.bank if known.all() else self.bank.take(np.flatnonzero(known))


def _cached(path: Path) -> Vectors | None:
    """The numbers of a file, if it is there and what was written."""
    with suppress(OSError):
        raw = path.read_bytes()
        if hashlib.sha256(raw[HASH:]).digest() == raw[:HASH]:
            return np.frombuffer(raw, np.float32, offset=HASH).copy()
    return None


def nearest_of_class(queries: KeyedVectors, bank: Embeddings, targets: Labels, k: int) -> Indices:
    """The k nearest rows (Q, k) of the class that `targets` (Q,) names; fewer are repeated.

    Every target must have a row that is not the query itself.
    """
    found = np.empty((len(targets), k), np.int32)
    for label in np.unique(targets):
        asking = np.flatnonzero(targets == label)
        rows = np.flatnonzero(bank.labels == label)
        own = np.isin(bank.ids[rows], queries.ids[asking]).sum()
        most = min(k, len(rows) - int(own))
        near = search(queries.vectors[asking], bank.take(rows), most, queries.ids[asking])
        found[asking] = rows[near.indices][:, np.arange(k) % most]
    return found
