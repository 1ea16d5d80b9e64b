"""How the neighbours of any image are found, for a classifier that is examined."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rapipe.encoder import Encoder
from rapipe.neighbours import STRATEGIES, Ask
from rapipe.records import Embeddings, Images, Indices, Labels, Neighbours, Pixels
from rapipe.search import Keys, Method, search


@dataclass(frozen=True)
class Lookup:
    """What a classifier needs to look up neighbours of any image.

    The query is the embedding of the image as the classifier sees it, noise included.
    """

    encoder: Encoder
    bank: Embeddings
    strategy: str
    ask: Ask

    def queries(self, images: Images, pixels: Pixels) -> Keys:
        """What `images`, seen as `pixels`, ask the memory."""
        return Keys(images.ids, self.encoder.embed(pixels))

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
