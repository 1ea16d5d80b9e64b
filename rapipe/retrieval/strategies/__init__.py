"""Retrieval strategies: one file each, one line each in `STRATEGIES`.

A strategy is a function of (queries, bank, request) that returns `Neighbours` by falling
similarity (`sampled`: in the order of the draw), whose rows never hold the query's id.
"""

from rapipe.retrieval.strategies.base import NotServedError, RetrievalRequest, Strategy
from rapipe.retrieval.strategies.class_balanced import class_balanced
from rapipe.retrieval.strategies.diverse import diverse
from rapipe.retrieval.strategies.hard import hard
from rapipe.retrieval.strategies.knn import knn
from rapipe.retrieval.strategies.prioritised_replay import prioritised_replay
from rapipe.retrieval.strategies.query_vector import query_vector, query_vector_and_knn
from rapipe.retrieval.strategies.replay import replay
from rapipe.retrieval.strategies.sampled import sampled

STRATEGIES: dict[str, Strategy] = {
    "sampled": sampled,
    "knn": knn,
    "class-balanced": class_balanced,
    "diverse": diverse,
    "hard": hard,
    "replay": replay,
    "self": query_vector,
    "self+knn": query_vector_and_knn,
    "prioritised-replay": prioritised_replay,
}

__all__ = ["STRATEGIES", "NotServedError", "RetrievalRequest", "Strategy"]
