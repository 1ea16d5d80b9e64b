"""k of the bank at random: the control without any search."""

from __future__ import annotations

import numpy as np

from rapipe.progress import track
from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import VectorsWithIds, check_k, similarities_of
from rapipe.retrieval.strategies.base import RetrievalRequest, count_copies


def sampled(queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest) -> Neighbours:
    """k images at random, the same at every visit: the control, which looks nothing up.

    They are uniform and without replacement; the query's id is left out. A query's rows
    depend only on the seed, its id, k and the bank, not on other queries.

    Source: Fisher, "The Design of Experiments", Oliver and Boyd 1935.
    """
    k = request.k
    check_k(k, queries.ids, bank.ids)
    copies = count_copies(queries.ids, bank.ids).tolist()
    indices = np.empty((len(queries.ids), k), np.int32)
    ids = queries.ids.tolist()
    for row, query in enumerate(track(ids, "sampling", len(ids))):
        rng = np.random.default_rng([request.seed, query & (2**64 - 1)])
        sample = rng.choice(len(bank), k + copies[row], replace=False)
        indices[row] = sample[bank.ids[sample] != query][:k]
    return Neighbours(queries.ids, indices, similarities_of(queries.vectors, bank.vectors, indices))
