"""k of the bank at random: what retrieval is worth when nothing is looked up."""

from __future__ import annotations

import numpy as np

from rapipe.progress import track
from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import KeyedVectors, check_k, similarities_of
from rapipe.retrieval.strategies.base import RetrievalRequest


def sampled(queries: KeyedVectors, bank: Embeddings, ask: RetrievalRequest) -> Neighbours:
    """k images at random, the same at every visit: the control, which looks nothing up.

    They are uniform and without replacement; the query's own id is left out. A query's
    rows depend on the seed, its id, k and the bank alone, not on other queries.

    Source: Fisher, "The Design of Experiments", Oliver and Boyd 1935.
    """
    k = ask.k
    check_k(k, queries.ids, bank.ids)
    unique, counts = np.unique(bank.ids, return_counts=True)
    own = dict(zip(unique.tolist(), counts.tolist(), strict=True))
    indices = np.empty((len(queries.ids), k), np.int32)
    ids = queries.ids.tolist()
    for row, query in enumerate(track(ids, "sampling", len(ids))):
        rng = np.random.default_rng([ask.seed, query & (2**64 - 1)])
        drawn = rng.choice(len(bank), k + own.get(query, 0), replace=False)
        indices[row] = drawn[bank.ids[drawn] != query][:k]
    return Neighbours(queries.ids, indices, similarities_of(queries.vectors, bank.vectors, indices))
