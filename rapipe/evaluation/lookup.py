"""How the neighbours of any image are found, for a classifier that is examined."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rapipe.encoder import Encoder
from rapipe.files import alone, put
from rapipe.neighbours import STRATEGIES, Ask
from rapipe.records import Embeddings, Images, Indices, Labels, Neighbours, Pixels, Vectors
from rapipe.search import Keys, Method, search

HASH = 32
"""Bytes of a SHA-256, before kept embeddings."""


@dataclass(frozen=True)
class Lookup:
    """What a classifier needs to look up neighbours of any image.

    The query is the embedding of the image as the classifier sees it, noise included.

    Args:
        kept: a folder for embeddings of test images, which are the same for every classifier;
            by a hash of the pixels and of `embedded_by`.
        embedded_by: the encoder's fingerprint.
    """

    encoder: Encoder
    bank: Embeddings
    strategy: str
    ask: Ask
    kept: Path | None = None
    embedded_by: str = ""

    def queries(self, images: Images, pixels: Pixels) -> Keys:
        """What `images`, seen as `pixels`, ask the memory."""
        return Keys(images.ids, self._embedded(pixels))

    def _embedded(self, pixels: Pixels) -> Vectors:
        if self.kept is None:
            return self.encoder.embed(pixels)
        key = hashlib.sha256(self.embedded_by.encode())
        key.update(f"{next(self.encoder.parameters()).device.type}{pixels.shape}".encode())
        key.update(pixels.tobytes())
        path = self.kept / key.hexdigest()[:32]
        with alone(path.with_suffix(".lock"), "embeds the same images"):
            found = _kept(path)
            if found is None:
                found = self.encoder.embed(pixels)
                raw = found.tobytes()
                put(path, hashlib.sha256(raw).digest() + raw)
        return found.reshape(len(pixels), -1)

    def find(
        self, queries: Keys, strategy: str | None = None, bank: Embeddings | None = None
    ) -> Neighbours:
        """Neighbours (Q, k) by this or another strategy, of this or another memory.

        No query finds its own id. Another memory is searched exactly: an index of
        it would be made for nothing else.

        Raises:
            NotServedError: the memory cannot serve the strategy.
        """
        ask = replace(self.ask, method=Method()) if bank else self.ask
        return STRATEGIES[strategy or self.strategy](queries, bank or self.bank, ask)


def _kept(path: Path) -> Vectors | None:
    """The numbers of a file, if it is there and what was written."""
    with suppress(OSError):
        raw = path.read_bytes()
        if hashlib.sha256(raw[HASH:]).digest() == raw[:HASH]:
            return np.frombuffer(raw, np.float32, offset=HASH).copy()
    return None


def nearest_of_class(queries: Keys, bank: Embeddings, targets: Labels, k: int) -> Indices:
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
