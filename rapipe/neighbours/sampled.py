"""k of the bank at random: what retrieval is worth when nothing is looked up."""

from __future__ import annotations

import numpy as np

from rapipe.progress import track
from rapipe.records import Embeddings, Neighbours
from rapipe.search import Keys, Method, check_k, similarities_of


def sampled(queries: Keys, bank: Embeddings, k: int, seed: int, method: Method) -> Neighbours:
    """k rows a query, uniform and without replacement, the query's own id left out.

    Nothing is searched, so `method` plays no part.
    A query's rows depend on `seed`, its id, k and the bank alone, not on other queries.
    """
    check_k(k, queries.ids, bank.ids)
    unique, counts = np.unique(bank.ids, return_counts=True)
    own = dict(zip(unique.tolist(), counts.tolist(), strict=True))
    indices = np.empty((len(queries.ids), k), np.int32)
    ids = queries.ids.tolist()
    for row, query in enumerate(track(ids, "sampling", len(ids))):
        rng = np.random.default_rng([seed, query & (2**64 - 1)])
        drawn = rng.choice(len(bank), k + own.get(query, 0), replace=False)
        indices[row] = drawn[bank.ids[drawn] != query][:k]
    return Neighbours(queries.ids, indices, similarities_of(queries.vectors, bank.vectors, indices))
