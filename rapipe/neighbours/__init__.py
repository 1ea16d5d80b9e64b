"""Retrieval strategies: one file each, one line each in `STRATEGIES`.

A strategy is a function of (queries, bank, k, seed, method of search) that gives `Neighbours`
whose rows never hold the query's own id.
"""

from collections.abc import Callable

from rapipe.neighbours.knn import knn
from rapipe.neighbours.sampled import sampled
from rapipe.records import Embeddings, Neighbours
from rapipe.search import Keys, Method

Strategy = Callable[[Keys, Embeddings, int, int, Method], Neighbours]

STRATEGIES: dict[str, Strategy] = {
    "sampled": sampled,
    "knn": knn,
}

__all__ = ["STRATEGIES", "Strategy"]
