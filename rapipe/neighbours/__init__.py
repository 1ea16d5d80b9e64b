"""Retrieval strategies: one file each, one line each in `STRATEGIES`.

A strategy is a function of (queries, bank, ask) that gives `Neighbours` by falling
similarity, unless it is drawn, whose rows never hold the query's own id.
"""

from rapipe.neighbours.base import Ask, NotServedError, Strategy
from rapipe.neighbours.class_balanced import class_balanced
from rapipe.neighbours.diverse import diverse
from rapipe.neighbours.hard import hard
from rapipe.neighbours.knn import knn
from rapipe.neighbours.replay import replay
from rapipe.neighbours.sampled import sampled

STRATEGIES: dict[str, Strategy] = {
    "sampled": sampled,
    "knn": knn,
    "class-balanced": class_balanced,
    "diverse": diverse,
    "hard": hard,
    "replay": replay,
}

__all__ = ["STRATEGIES", "Ask", "NotServedError", "Strategy"]
