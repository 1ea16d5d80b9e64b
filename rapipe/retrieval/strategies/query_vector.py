"""The image's own vector, as its only neighbour or beside the k nearest.

What a classifier gains from neighbours may be theirs, or merely the encoder's: a network that
is shown its image as the encoder sees it knows all that the encoder knows, without a memory.

Letters: Q queries, K neighbours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import VectorsWithIds
from rapipe.retrieval.strategies.base import RetrievalRequest
from rapipe.retrieval.strategies.knn import knn


def query_vector(
    queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest
) -> Neighbours:
    """The image's own vector alone: the control that has the encoder's features and no memory.

    Nothing of the bank is shown (K = 0). The vector has no label.

    Source: this project.
    """
    shape = len(queries.ids), 0
    indices, similarities = np.empty(shape, np.int32), np.empty(shape, np.float32)
    return Neighbours(queries.ids, indices, similarities, query_vectors=queries.vectors)


def query_vector_and_knn(
    queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest
) -> Neighbours:
    """The image's own vector, without a label, beside the k nearest images of `knn`.

    What it adds to `self` is due to the memory.

    Source: this project.
    """
    return replace(knn(queries, bank, request), query_vectors=queries.vectors)
