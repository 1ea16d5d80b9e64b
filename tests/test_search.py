from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from conftest import make_embeddings

from rapipe import search as module
from rapipe.errors import UserError
from rapipe.search import Queries, search


def slow(queries: Queries, ids: np.ndarray, vectors: np.ndarray, k: int) -> list[list[int]]:
    """One query and one row at a time, in float64."""
    found = []
    for own, query in zip(queries.ids, queries.vectors, strict=True):
        scored = [
            (-np.float32(np.float64(query) @ np.float64(row)), ids[n], n)
            for n, row in enumerate(vectors)
            if ids[n] != own
        ]
        found.append([n for _, _, n in sorted(scored)[:k]])
    return found


@pytest.mark.parametrize("k", [1, 7, 59])
def test_against_a_slow_loop(k: int) -> None:
    bank, own = make_embeddings(60, seed=1), make_embeddings(20, seed=2)
    queries = Queries(
        np.concatenate([own.ids + 10_000, bank.ids]), np.concatenate([own.vectors, bank.vectors])
    )
    found = search(queries, bank.ids, bank.vectors, k)
    assert found.indices.tolist() == slow(queries, bank.ids, bank.vectors, k)
    expected = np.einsum("qd,qkd->qk", queries.vectors, bank.vectors[found.indices])
    assert np.allclose(found.similarities, expected, atol=1e-6)


def test_many_equal_vectors_are_ordered_by_id_and_never_self() -> None:
    """200 copies of 3 vectors: every query ties with more rows than are preselected."""
    base = make_embeddings(3)
    rng = np.random.default_rng(0)
    copy_of = np.arange(600) % 3
    ids, vectors = rng.permutation(600), base.vectors[copy_of]
    found = search(Queries(ids, vectors), ids, vectors, 10)
    for query in range(600):
        same = np.sort(ids[(copy_of == copy_of[query]) & (ids != ids[query])])[:10]
        assert ids[found.indices[query]].tolist() == same.tolist()


def test_duplicates_of_the_query_share_its_id_and_are_left_out() -> None:
    bank = make_embeddings(40)
    twice = np.concatenate([np.arange(40), np.arange(40)])
    ids, vectors = bank.ids[twice], bank.vectors[twice]
    found = search(Queries(bank.ids, bank.vectors), ids, vectors, 78)
    assert not (ids[found.indices] == bank.ids[:, None]).any()


def test_same_table_whatever_the_chunk_and_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_embeddings(300, d=64)
    queries = Queries(bank.ids, bank.vectors)
    whole = search(queries, bank.ids, bank.vectors, 9)
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "MARGIN", 1)
    parts = search(queries, bank.ids, bank.vectors, 9)
    assert np.array_equal(whole.indices, parts.indices)
    assert np.array_equal(whole.similarities, parts.similarities)


def test_same_table_under_autocast() -> None:
    bank = make_embeddings(300, d=64)
    queries = Queries(bank.ids, bank.vectors)
    whole = search(queries, bank.ids, bank.vectors, 9)
    with torch.autocast("cpu", torch.bfloat16):
        inside = search(queries, bank.ids, bank.vectors, 9)
    assert np.array_equal(whole.indices, inside.indices)


def test_agrees_with_faiss() -> None:
    bank, own = make_embeddings(2000, d=32, seed=3), make_embeddings(50, d=32, seed=4)
    index = faiss.IndexFlatIP(32)
    index.add(bank.vectors)
    similarities, indices = index.search(own.vectors, 15)
    found = search(Queries(own.ids + 10**6, own.vectors), bank.ids, bank.vectors, 15)
    assert np.array_equal(found.indices, indices)
    assert np.allclose(found.similarities, similarities, atol=1e-5)


@pytest.mark.parametrize("k", [0, -1, 40, 41])
def test_k_out_of_range(k: int) -> None:
    bank = make_embeddings(40)
    with pytest.raises(UserError, match=f"retrieval.k is {k}, but .* at most 39"):
        search(Queries(bank.ids, bank.vectors), bank.ids, bank.vectors, k)


def test_bank_of_one() -> None:
    bank, own = make_embeddings(1), make_embeddings(3, seed=5)
    found = search(Queries(own.ids + 100, own.vectors), bank.ids, bank.vectors, 1)
    assert found.indices.tolist() == [[0], [0], [0]]
