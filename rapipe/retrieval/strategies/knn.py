"""The k nearest by cosine similarity."""

from __future__ import annotations

from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import KeyedVectors, search
from rapipe.retrieval.strategies.base import RetrievalRequest


def knn(queries: KeyedVectors, bank: Embeddings, ask: RetrievalRequest) -> Neighbours:
    """The k images whose embeddings are most similar, by any method of search.

    Source: Cover and Hart, "Nearest Neighbor Pattern Classification", IEEE Transactions on
    Information Theory 1967.
    """
    return search(queries.vectors, bank, ask.k, queries.ids, ask.method)
