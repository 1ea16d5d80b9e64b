"""The k nearest by cosine similarity."""

from __future__ import annotations

from rapipe.records import Embeddings, Neighbours
from rapipe.search import Keys, Method, search


def knn(queries: Keys, bank: Embeddings, k: int, seed: int, method: Method) -> Neighbours:
    """Neighbours by any method of search; `seed` plays no part."""
    return search(queries.vectors, bank, k, queries.ids, method)
