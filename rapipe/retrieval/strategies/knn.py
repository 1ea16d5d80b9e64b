"""The k nearest by cosine similarity."""

from __future__ import annotations

from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.strategies.base import RetrievalRequest


def knn(queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest) -> Neighbours:
    """The k images whose embeddings are most similar, by any method of search.

    Source: Cover and Hart, "Nearest Neighbor Pattern Classification", IEEE Transactions on
    Information Theory 1967.
    """
    return search(queries.vectors, bank, request.k, queries.ids, request.method)
