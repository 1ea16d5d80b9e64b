"""The k nearest by cosine similarity."""

from __future__ import annotations

from rapipe.records import Embeddings, Neighbours
from rapipe.search import Queries, search


def knn(queries: Queries, bank: Embeddings, k: int, seed: int) -> Neighbours:
    """Exact neighbours; `seed` plays no part."""
    return search(queries, bank.ids, bank.vectors, k)
