from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from conftest import make_embeddings

from rapipe.errors import ArgumentError
from rapipe.io import memory_map
from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import (
    SearchMethod,
    VectorsWithIds,
    exact,
    on_ray,
    ranking,
    search,
    similarities_of,
)
from rapipe.retrieval.search.exact import Exact, rounding
from rapipe.retrieval.search.faiss_index import Faiss

EXACT_METHODS = [
    SearchMethod(),
    SearchMethod("faiss", "Flat"),
    SearchMethod("faiss"),
    SearchMethod("lance"),
]
APPROXIMATE = [
    SearchMethod("faiss", "IVF16,Flat"),
    SearchMethod("faiss", "IVF16,SQfp16"),
    SearchMethod("faiss", "HNSW16"),
    SearchMethod("faiss", "PQ8x4fs"),
    SearchMethod("faiss", "IVF8,PQ8x4fs,RFlat"),
    SearchMethod("lance", "IVF_FLAT"),
    SearchMethod("lance", "IVF_RQ"),
]


def name(method: SearchMethod) -> str:
    return f"{method.backend} {method.index}"


def slow(queries: VectorsWithIds, ids: np.ndarray, vectors: np.ndarray, k: int) -> list[list[int]]:
    """One query and one row at a time, in float64."""
    order = []
    for query_id, query in zip(queries.ids, queries.vectors, strict=True):
        scored = [
            (-np.float32(np.float64(query) @ np.float64(row)), ids[n], n)
            for n, row in enumerate(vectors)
            if ids[n] != query_id
        ]
        order.append([n for _, _, n in sorted(scored)[:k]])
    return order


@pytest.mark.parametrize("k", [1, 7, 59])
def test_against_a_slow_loop(k: int) -> None:
    bank, outside = make_embeddings(60, seed=1), make_embeddings(20, seed=2)
    queries = VectorsWithIds(
        np.concatenate([outside.ids + 10_000, bank.ids]),
        np.concatenate([outside.vectors, bank.vectors]),
    )
    neighbours = search(queries.vectors, bank, k, queries.ids)
    assert neighbours.indices.tolist() == slow(queries, bank.ids, bank.vectors, k)
    expected = np.einsum("qd,qkd->qk", queries.vectors, bank.vectors[neighbours.indices])
    assert np.allclose(neighbours.similarities, expected, atol=1e-6)


def test_many_equal_vectors_are_ordered_by_id_and_never_self() -> None:
    """200 copies of 3 vectors: every query ties with more rows than are preselected."""
    base = make_embeddings(3)
    rng = np.random.default_rng(0)
    copy_of = np.arange(600) % 3
    ids, vectors = rng.permutation(600), base.vectors[copy_of]
    neighbours = search(vectors, VectorsWithIds(ids, vectors), 10, ids)
    for query in range(600):
        same = np.sort(ids[(copy_of == copy_of[query]) & (ids != ids[query])])[:10]
        assert ids[neighbours.indices[query]].tolist() == same.tolist()


def test_duplicates_of_the_query_share_its_id_and_are_left_out() -> None:
    bank = make_embeddings(40)
    twice = np.concatenate([np.arange(40), np.arange(40)])
    ids, vectors = bank.ids[twice], bank.vectors[twice]
    neighbours = search(bank.vectors, VectorsWithIds(ids, vectors), 78, bank.ids)
    assert not (ids[neighbours.indices] == bank.ids[:, None]).any()


def same(one: Neighbours, other: Neighbours) -> bool:
    indices = np.array_equal(one.indices, other.indices)
    return indices and np.array_equal(one.similarities, other.similarities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_table_whatever_the_tiles_and_precision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups, tiles, chunks, margins and bfloat16 choose candidates; they change no byte."""
    bank = clustered(800, 64)
    expected_table = search(bank.vectors, bank, 9, bank.ids)
    for small in (
        {},
        {"SINGLE_TILE": 100, "TILE": 300, "IN_MEMORY_BYTES": 0, "CHUNK": 7},
        {"GROUP": 4},
    ):
        with monkeypatch.context() as patch:
            for key, value in small.items():
                patch.setattr(exact, key, value)
            patch.setattr(ranking, "MARGIN", 1 + len(small))
            patch.setattr(ranking, "FLOAT64_BYTES", 1 << 12 if small else 1 << 28)
            patch.setattr(exact, "fastest", lambda device: dtype)
            assert same(search(bank.vectors, bank, 9, bank.ids), expected_table)


def clustered(n: int, d: int) -> Embeddings:
    """Vectors in tight clusters, with copies: neighbours closer than bfloat16 can tell apart."""
    centres = make_embeddings(10, d).vectors
    rng = np.random.default_rng(0)
    near = centres[rng.integers(0, 10, n)] + 0.002 * rng.standard_normal((n, d))
    near[n // 2 : n // 2 + 50] = near[0]
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    rows = make_embeddings(n, d)
    return Embeddings(rows.ids, vectors, rows.labels, rows.sources, rows.splits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bound_on_rounding_holds(dtype: torch.dtype) -> None:
    """For vectors that rounding moves all in one direction, too."""
    for vectors in (clustered(400, 256).vectors, np.full((70, 256), 1 / 16.04, np.float32)):
        neighbours = Exact(vectors, dtype).candidates(vectors, len(vectors))
        true = np.take_along_axis(
            vectors.astype(np.float64) @ vectors.astype(np.float64).T,
            neighbours.rows.astype(int),
            1,
        )
        worst = np.abs(neighbours.similarities - true).max()
        assert worst < rounding(256, dtype)


def test_a_similarity_is_the_same_bits_in_any_company() -> None:
    rows = make_embeddings(500, d=512)
    pairs = np.random.default_rng(0).integers(0, 500, (60, 40)).astype(np.int32)
    together = similarities_of(rows.vectors[:60], rows.vectors, pairs)
    separate = [
        similarities_of(rows.vectors[q : q + 1], rows.vectors, pairs[q : q + 1, p : p + 1])[0, 0]
        for q, p in np.ndindex(60, 40)
    ]
    assert np.array_equal(together.reshape(-1), np.array(separate))


@pytest.mark.parametrize("method", EXACT_METHODS, ids=name)
def test_exact_methods_give_the_same_table(method: SearchMethod, tmp_path: Path) -> None:
    bank = clustered(700, 32)
    twice = np.concatenate([np.arange(700), np.arange(100)])
    bank = bank.take(np.random.default_rng(1).permutation(twice))  # duplicates, in no order
    expected_table = search(bank.vectors, bank, 12, bank.ids)
    neighbours = search(bank.vectors, bank, 12, bank.ids, method)
    assert same(neighbours, expected_table)
    assert neighbours.found_by["recall"] == 1.0
    neighbours.write(tmp_path / "one.arrow")
    Neighbours(
        expected_table.query_ids,
        expected_table.indices,
        expected_table.similarities,
        neighbours.found_by,
    ).write(tmp_path / "other.arrow")
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "other.arrow").read_bytes()


@pytest.mark.parametrize("method", APPROXIMATE, ids=name)
def test_approximate_methods_find_enough_and_say_how_much(
    method: SearchMethod, tmp_path: Path
) -> None:
    bank = make_embeddings(3000, d=32)
    true = search(bank.vectors, bank, 10, bank.ids)
    cached = SearchMethod(method.backend, method.index, 0.9, tmp_path / "index")
    neighbours = search(bank.vectors, bank, 10, bank.ids, cached)
    neighbours.check_against(bank.ids)
    hits = [len({*a} & {*b}) for a, b in zip(neighbours.indices, true.indices, strict=True)]
    recall = np.mean(hits) / 10
    assert abs(neighbours.found_by["recall"] - recall) < 0.03
    assert recall > 0.87
    assert neighbours.found_by["recall"] >= 0.9
    assert neighbours.found_by["sample"] == 500
    assert neighbours.similarities[0, 0] == true.similarities[0, 0]
    files = list((tmp_path / "index").iterdir())
    again = search(bank.vectors, bank, 10, bank.ids, cached)
    assert same(neighbours, again)
    assert list((tmp_path / "index").iterdir()) == files
    neighbours.write(tmp_path / "table.arrow")
    assert Neighbours.read(tmp_path / "table.arrow").found_by == neighbours.found_by


def test_an_index_is_kept_for_its_bank_only(tmp_path: Path) -> None:
    method = SearchMethod("faiss", "IVF4,Flat", 0.9, tmp_path)
    for seed in (0, 1):
        bank = make_embeddings(300, d=16, seed=seed)
        neighbours = search(bank.vectors, bank, 5, bank.ids, method)
        assert np.allclose(
            neighbours.similarities, search(bank.vectors, bank, 5, bank.ids).similarities, atol=0.3
        )
        assert len(list(tmp_path.iterdir())) == 1
    beside = tmp_path / "mine"
    beside.mkdir()
    for damaged in (method, SearchMethod("lance", "IVF_FLAT", 0.9, tmp_path)):
        neighbours = search(bank.vectors, bank, 5, bank.ids, damaged)
        file = max(tmp_path.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)  # a damaged one is built again
        assert same(search(bank.vectors, bank, 5, bank.ids, damaged), neighbours)
    assert beside.exists()


def test_many_equal_rows_are_settled_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "PAIRS", 500)
    calls = []
    candidates = Exact.candidates

    def watched(self: Exact, vectors: np.ndarray, count: int) -> object:
        calls.append((len(vectors), count))
        return candidates(self, vectors, count)

    monkeypatch.setattr(Exact, "candidates", watched)
    row = make_embeddings(1, d=16).vectors
    bank = VectorsWithIds(np.arange(400), np.repeat(row, 400, axis=0))
    neighbours = search(bank.vectors, bank, 3, bank.ids)
    assert neighbours.indices[5].tolist() == [0, 1, 2]
    assert all(queries * count <= 500 or queries == 1 for queries, count in calls)


def test_too_low_a_recall_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapipe.retrieval.search.faiss_index.LEVELS", 2)
    bank = make_embeddings(5000, d=64)
    method = SearchMethod("faiss", "PQ2x4fs", 0.99)
    with pytest.raises(
        ArgumentError, match=r"`min_recall` is 0\.99, but faiss .* PQ2x4fs finds at most"
    ):
        search(bank.vectors, bank, 10, bank.ids, method)


def test_cells_with_too_few_rows_are_filled_up_exactly() -> None:
    """One query in a cell of its own: what it lacks is searched among all."""
    bank = clustered(1000, 32)
    odd = -bank.vectors[:1]
    rows = VectorsWithIds(np.append(bank.ids, 10**9), np.concatenate([bank.vectors, odd]))
    method = SearchMethod("faiss", "IVF16,Flat", 0.5)
    neighbours = search(rows.vectors, rows, 30, rows.ids, method)
    assert (neighbours.indices >= 0).all()
    assert np.array_equal(neighbours.indices[-1], search(odd, rows, 30, rows.ids[-1:]).indices[0])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (("torch", "IVF16"), "`index` is 'IVF16'; with `backend`: torch it must be exact"),
        (("lance", "HNSW"), "must be exact or IVF_FLAT or IVF_RQ"),
        (("auto", "HNSW"), "`backend`: auto it must be exact"),
        (("milvus", "exact"), "`backend` is 'milvus'; it must be one of torch, faiss, lance, auto"),
        (("faiss", "nonsense"), r"could not parse index string nonsense\); for example"),
        (("faiss", "IDMap,Flat"), "`index` is .* FAISS cannot make it for 100 vectors"),
        (("faiss", "PQ7x4"), "multiple of the number of subquantizers"),
        (("faiss", "IVF4096,Flat"), "at least as large as number of clusters"),
    ],
)
def test_an_impossible_index_is_refused(method: tuple[str, str], message: str) -> None:
    bank = make_embeddings(100)
    with pytest.raises(ArgumentError, match=message):
        search(bank.vectors, bank, 5, bank.ids, SearchMethod(*method))


def test_auto_is_exact_for_small_and_approximate_for_large() -> None:
    auto = SearchMethod("auto")
    assert auto.resolved(50_000, 50_000).backend == "torch"
    assert auto.resolved(10**6, 10**6) == SearchMethod("faiss", "IVF4096,SQfp16")
    bank = make_embeddings(50)
    assert same(
        search(bank.vectors, bank, 5, bank.ids, auto), search(bank.vectors, bank, 5, bank.ids)
    )


def test_queries_and_bank_may_be_mapped(tmp_path: Path) -> None:
    bank = make_embeddings(200)
    np.save(tmp_path / "vectors.npy", bank.vectors)
    on_disk = memory_map.map_array(tmp_path / "vectors.npy")
    chosen = np.arange(199, 0, -3)
    neighbours = search(
        memory_map.lazy_rows(on_disk, chosen),
        VectorsWithIds(bank.ids, on_disk),
        6,
        bank.ids[chosen],
    )
    assert same(neighbours, search(bank.vectors[chosen], bank, 6, bank.ids[chosen]))


def test_same_table_under_autocast() -> None:
    bank = make_embeddings(300, d=64)
    queries = VectorsWithIds(bank.ids, bank.vectors)
    expected_table = search(queries.vectors, bank, 9, queries.ids)
    with torch.autocast("cpu", torch.bfloat16):
        inside = search(queries.vectors, bank, 9, queries.ids)
    assert np.array_equal(expected_table.indices, inside.indices)


def test_agrees_with_faiss() -> None:
    bank, queries = make_embeddings(2000, d=32, seed=3), make_embeddings(50, d=32, seed=4)
    index = faiss.IndexFlatIP(32)
    index.add(bank.vectors)
    similarities, indices = index.search(queries.vectors, 15)
    neighbours = search(queries.vectors, bank, 15, queries.ids + 10**6)
    assert np.array_equal(neighbours.indices, indices)
    assert np.allclose(neighbours.similarities, similarities, atol=1e-5)


@pytest.mark.parametrize("k", [0, -1, 40, 41])
def test_k_out_of_range(k: int) -> None:
    bank = make_embeddings(40)
    with pytest.raises(ArgumentError, match=f"`k` is {k}, but .* at most 39"):
        search(bank.vectors, bank, k, bank.ids)


def test_bank_of_one() -> None:
    bank, queries = make_embeddings(1), make_embeddings(3, seed=5)
    neighbours = search(queries.vectors, bank, 1, queries.ids + 100)
    assert neighbours.indices.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("k", [1, 6, 25])
def test_shards_of_a_bank_are_merged_into_the_table_of_the_whole(k: int) -> None:
    """Equal vectors lie in several shards, and copies of an image of which one has them all."""
    bank, queries = make_embeddings(60, seed=1), make_embeddings(20, seed=2)
    vectors, ids = bank.vectors.copy(), bank.ids.copy()
    vectors[40:50] = vectors[:10]
    ids[33:36] = queries.ids[0]
    table = VectorsWithIds(ids, vectors)
    parts = [slice(0, 4), slice(4, 33), slice(33, 36), slice(36, 60)]
    ranked = []
    for part in parts:
        shard = VectorsWithIds(ids[part], vectors[part])
        rows, near = on_ray.rank_block((queries.vectors, queries.ids), shard, None, "", 0, k)
        assert rows.shape == (20, min(k, len(shard.ids)))
        ranked.append(ranking.TopK(np.where(rows < 0, -1, rows + part.start), near))
    merged = on_ray.merge(ranked, ids, k)
    whole = search(queries.vectors, table, k, queries.ids)
    assert np.array_equal(merged.rows, whole.indices)
    assert np.array_equal(merged.similarities, whole.similarities)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,SQfp16", "HNSW16", "PQ8x4fs"])
def test_an_index_can_be_handed_on(factory: str) -> None:
    bank, queries = make_embeddings(500, seed=1), make_embeddings(20, seed=2)
    index = Faiss.build(bank.vectors, factory)
    index.set_effort(2)
    content = index.to_bytes()
    content.flags.writeable = False  # as Ray hands it on
    read = Faiss.parse(content, factory)
    read.set_effort(index.level)
    assert read.effort == index.effort
    for one, other in zip(
        index.candidates(queries.vectors, 9), read.candidates(queries.vectors, 9), strict=True
    ):
        assert np.array_equal(one, other)


def test_lance_cannot_be_shared() -> None:
    with pytest.raises(ArgumentError, match=r"^`backend` is 'lance', whose index stays on one"):
        SearchMethod("lance", cluster="local")
