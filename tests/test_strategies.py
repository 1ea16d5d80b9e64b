"""Strategies against slow, obvious references; and which embeddings become the bank."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import make_embeddings

from rapipe.config.names import SELF, WITH_SELF
from rapipe.errors import ArgumentError
from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.bank import select_bank
from rapipe.retrieval.search import SearchMethod, VectorsWithIds, search, similarities_of
from rapipe.retrieval.strategies import STRATEGIES, NotServedError, RetrievalRequest
from rapipe.retrieval.strategies.hard import plurality
from rapipe.retrieval.strategies.prioritised_replay import draw_order, vote_losses
from rapipe.retrieval.strategies.replay import SEGMENT, mix_ids, stream_order

SHOWING = [name for name in STRATEGIES if name != SELF]
"""Strategies that show rows of the bank."""
RANKED = [name for name in SHOWING if name != "sampled"]
Order = list[int]
"""Bank rows by falling similarity to one query, its own left out."""


def request_for(k: int, **fields: object) -> RetrievalRequest:
    return replace(RetrievalRequest(k, 0, SearchMethod()), **fields)  # type: ignore[arg-type]


def uneven(n: int = 60, seed: int = 0) -> tuple[Embeddings, VectorsWithIds]:
    """A bank of uneven classes and rows without label, and queries inside it and outside.

    Two rows in three stand alone; of the others some share their id, and some but their vector.
    """
    rng = np.random.default_rng(seed)
    embeddings = make_embeddings(n, seed=seed)
    rows = np.concatenate([np.arange(n), np.arange(n // 6), np.arange(n // 6)])
    bank = embeddings.take(rows)
    bank.ids[n + n // 6 :] = 10**6 + rng.permutation(n // 6)  # the last are other images
    labels = rng.choice([-1, 0, 1, 2, 7], len(bank), p=[0.1, 0.5, 0.25, 0.1, 0.05])
    bank = replace(bank, labels=labels).take(rng.permutation(len(bank)))
    outside = make_embeddings(12, seed=seed + 100)
    inside = rng.permutation(len(bank))[:20]
    ids = np.concatenate([bank.ids[inside], outside.ids + 10**7])
    return bank, VectorsWithIds(ids, np.concatenate([bank.vectors[inside], outside.vectors]))


def to_all(vectors: np.ndarray, bank: Embeddings) -> np.ndarray:
    """Similarities (Q, N) to every row of the bank."""
    rows = np.tile(np.arange(len(bank), dtype=np.int32), (len(vectors), 1))
    return similarities_of(vectors, bank.vectors, rows).astype(np.float64)


def orders(queries: VectorsWithIds, bank: Embeddings) -> list[Order]:
    """For each query every bank row but its own, by the one rule."""
    return [
        sorted(
            np.flatnonzero(bank.ids != query).tolist(),
            key=lambda row: (-near[row], bank.ids[row], row),
        )
        for query, near in zip(queries.ids, to_all(queries.vectors, bank), strict=True)
    ]


def check(
    neighbours: Neighbours, expected: list[Order], queries: VectorsWithIds, bank: Embeddings
) -> None:
    """Same rows in the same order, with their similarities."""
    neighbours.check_against(bank.ids)
    assert neighbours.indices.tolist() == expected
    exact = similarities_of(queries.vectors, bank.vectors, neighbours.indices)
    assert np.array_equal(neighbours.similarities, exact)


@pytest.mark.parametrize("name", SHOWING)
def test_every_strategy_leaves_the_query_out_even_with_duplicates(name: str) -> None:
    bank = make_embeddings(30)
    bank = bank.take(np.concatenate([np.arange(30), np.arange(30), np.arange(10)]))
    queries = VectorsWithIds(bank.ids, bank.vectors)
    neighbours = STRATEGIES[name](queries, bank, request_for(20))
    neighbours.check_against(bank.ids)
    assert all(len(set(row)) == 20 for row in neighbours.indices.tolist())
    exact = np.einsum("qd,qkd->qk", bank.vectors, bank.vectors[neighbours.indices])
    assert np.allclose(neighbours.similarities, exact, atol=1e-6)
    again = STRATEGIES[name](queries, bank, request_for(20))
    assert np.array_equal(neighbours.indices, again.indices)
    with pytest.raises(ArgumentError, match=r"`k` is 68"):
        STRATEGIES[name](queries, bank, request_for(68))


@pytest.mark.parametrize("k", [1, 5, 20, 76])
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_query_finds_depends_on_no_other_query(name: str, k: int) -> None:
    """76 are all that a query inside the bank may find; one outside of it may find 80."""
    bank, queries = uneven()
    if (name, k) == ("hard", 76):
        k = 28
    request = request_for(k, replay=77 if k == 76 else 30)
    together = STRATEGIES[name](queries, bank, request)
    turned = np.random.default_rng(1).permutation(len(queries.ids))
    for rows in (turned, turned[:7], turned[7:8], np.arange(20, 32)):
        part = STRATEGIES[name](
            VectorsWithIds(queries.ids[rows], queries.vectors[rows]), bank, request
        )
        assert np.array_equal(part.indices, together.indices[rows])
        assert np.array_equal(part.similarities, together.similarities[rows])


@pytest.mark.parametrize("name", RANKED)
def test_neighbours_come_by_falling_similarity_then_by_id(name: str) -> None:
    bank, queries = uneven()
    neighbours = STRATEGIES[name](queries, bank, request_for(15))
    neighbours.check_against(bank.ids)
    ids = bank.ids[neighbours.indices]
    steps = neighbours.similarities[:, 1:] - neighbours.similarities[:, :-1]
    assert (steps <= 0).all()
    assert (np.diff(ids)[steps == 0] >= 0).all()
    assert (steps == 0).any()  # the bank has equal vectors
    assert neighbours.found_by["recall"] == 1.0


@pytest.mark.parametrize("name", RANKED)
def test_a_bank_on_disk_gives_the_same(name: str, tmp_path: Path) -> None:
    bank, queries = uneven()
    bank.write(tmp_path)
    neighbours = STRATEGIES[name](queries, Embeddings.read(tmp_path), request_for(6, replay=20))
    assert np.array_equal(
        neighbours.indices, STRATEGIES[name](queries, bank, request_for(6, replay=20)).indices
    )


@pytest.mark.parametrize("name", ["knn", "diverse", "hard"])
def test_an_index_is_used_where_the_whole_bank_is_searched(name: str) -> None:
    bank, queries = make_embeddings(300), make_embeddings(40, seed=1)
    keys = VectorsWithIds(queries.ids + 10**6, queries.vectors)
    neighbours = STRATEGIES[name](
        keys, bank, request_for(4, method=SearchMethod("faiss", "IVF4,Flat", 0.5))
    )
    assert neighbours.found_by["index"] == "IVF4,Flat"
    assert neighbours.found_by["sample"] == 20


def test_an_image_shows_its_own_vector_alone_or_beside_the_nearest() -> None:
    bank, queries = uneven()
    tiny = bank.take(np.arange(1))  # fewer rows than k
    alone = STRATEGIES[SELF](queries, tiny, request_for(5))
    assert alone.indices.shape == alone.similarities.shape == (len(queries.ids), 0)
    assert alone.found_by == {}
    both, near = (STRATEGIES[name](queries, bank, request_for(5)) for name in ("self+knn", "knn"))
    assert np.array_equal(both.indices, near.indices)
    assert np.array_equal(both.similarities, near.similarities)
    assert both.found_by == near.found_by
    for table in (alone, both):
        table.check_against(bank.ids)
        assert table.query_vectors is queries.vectors


def test_the_strategies_that_show_it_are_those_that_the_parameters_know() -> None:
    bank, queries = uneven()
    tables = {name: show(queries, bank, request_for(3)) for name, show in STRATEGIES.items()}
    assert {name for name, table in tables.items() if table.with_self} == set(WITH_SELF)
    assert [name for name, table in tables.items() if not table.k] == [SELF]


def test_knn_is_search() -> None:
    bank, outside = make_embeddings(50), make_embeddings(9, seed=1)
    queries = VectorsWithIds(outside.ids + 1000, outside.vectors)
    neighbours = STRATEGIES["knn"](queries, bank, request_for(5))
    assert np.array_equal(neighbours.indices, search(queries.vectors, bank, 5, queries.ids).indices)
    bank, queries = uneven()
    neighbours = STRATEGIES["knn"](queries, bank, request_for(7))
    check(neighbours, [order[:7] for order in orders(queries, bank)], queries, bank)


def test_sampled_is_uniform_and_depends_on_seed_and_id_alone() -> None:
    bank = make_embeddings(20)
    queries = VectorsWithIds(np.arange(10**6, 10**6 + 6000), np.tile(bank.vectors[:1], (6000, 1)))
    neighbours = STRATEGIES["sampled"](queries, bank, request_for(5)).indices
    counts = np.bincount(neighbours.reshape(-1), minlength=20)
    expected = 6000 * 5 / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 43.8  # 99.9 % of chi-square with 19 degrees of freedom
    part = VectorsWithIds(queries.ids[100:110], queries.vectors[100:110])
    again = STRATEGIES["sampled"](part, bank, request_for(5)).indices
    assert np.array_equal(again, neighbours[100:110])
    other = STRATEGIES["sampled"](part, bank, request_for(5, seed=1)).indices
    assert not np.array_equal(other, neighbours[100:110])


# class-balanced


def balanced(order: Order, labels: np.ndarray, k: int) -> Order:
    """Round after round, each class gives its nearest; then those without label."""
    left = {label: [row for row in order if labels[row] == label] for label in np.unique(labels)}
    unlabelled, taken = left.pop(-1, []), []
    while len(taken) < k and any(left.values()):
        heads = sorted((rows.pop(0) for rows in left.values() if rows), key=order.index)
        taken += heads[: k - len(taken)]
    return sorted([*taken, *unlabelled[: k - len(taken)]], key=order.index)


@pytest.mark.parametrize("k", [1, 3, 4, 6, 16, 50, 75, 76])
@pytest.mark.parametrize("seed", [0, 1])
def test_class_balanced_is_a_round_of_all_classes_after_the_other(k: int, seed: int) -> None:
    bank, queries = uneven(seed=seed)
    neighbours = STRATEGIES["class-balanced"](queries, bank, request_for(k))
    expected = [balanced(order, bank.labels, k) for order in orders(queries, bank)]
    check(neighbours, expected, queries, bank)


def test_class_balanced_takes_as_many_of_each_class() -> None:
    bank = make_embeddings(60)  # 20 of each of 3 classes
    queries = VectorsWithIds(np.arange(10**6, 10**6 + 9), make_embeddings(9, seed=1).vectors)
    neighbours = STRATEGIES["class-balanced"](queries, bank, request_for(11)).indices
    for row, order in zip(neighbours, orders(queries, bank), strict=True):
        counts = Counter(bank.labels[row].tolist())
        assert sorted(counts.values()) == [3, 4, 4]
        fourth = {c: [r for r in order if bank.labels[r] == c][3] for c in range(3)}
        last = max(fourth, key=lambda c: order.index(fourth[c]))
        assert counts[last] == 3  # its next row is the furthest


def test_class_balanced_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = uneven()
    together = STRATEGIES["class-balanced"](queries, bank, request_for(9)).indices
    monkeypatch.setattr(
        import_module("rapipe.retrieval.strategies.class_balanced"), "CANDIDATES", 70
    )
    assert np.array_equal(
        STRATEGIES["class-balanced"](queries, bank, request_for(9)).indices, together
    )


def test_class_balanced_needs_a_label() -> None:
    bank, queries = uneven()
    blank = replace(bank, labels=np.full(len(bank), -1))
    with pytest.raises(NotServedError, match=r"'class-balanced', but no image .* has a label"):
        STRATEGIES["class-balanced"](queries, blank, request_for(3))


# diverse


def relevant(order: Order, near: np.ndarray, alike: np.ndarray, request: RetrievalRequest) -> Order:
    """Maximal marginal relevance, one row and one pair at a time."""
    pool, taken = order[: 4 * request.k], []

    def score(row: int) -> float:
        closest = max((alike[other, row] for other in taken), default=0.0)
        return (1 - request.diversity) * near[row] - request.diversity * closest

    while len(taken) < request.k:
        taken.append(max((row for row in pool if row not in taken), key=score))  # first of equals
    return sorted(taken, key=order.index)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 4, 19])
def test_diverse_is_maximal_marginal_relevance(k: int, diversity: float) -> None:
    bank, queries = uneven()
    rows = np.arange(14, 26)  # inside and outside
    queries, request = (
        VectorsWithIds(queries.ids[rows], queries.vectors[rows]),
        request_for(k, diversity=diversity),
    )
    alike = to_all(bank.vectors, bank)
    expected = [
        relevant(order, near, alike, request)
        for order, near in zip(orders(queries, bank), to_all(queries.vectors, bank), strict=True)
    ]
    check(STRATEGIES["diverse"](queries, bank, request), expected, queries, bank)


@pytest.mark.parametrize("k", [1, 7, 76])
def test_diverse_without_diversity_is_knn(k: int) -> None:
    bank, queries = uneven()
    neighbours = STRATEGIES["diverse"](queries, bank, request_for(k, diversity=0.0))
    near = STRATEGIES["knn"](queries, bank, request_for(k))
    assert np.array_equal(neighbours.indices, near.indices)
    assert np.array_equal(neighbours.similarities, near.similarities)


def test_diverse_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = uneven()
    together = STRATEGIES["diverse"](queries, bank, request_for(9)).indices
    monkeypatch.setattr(
        import_module("rapipe.retrieval.strategies.diverse"), "POOLED_BYTES", 50_000
    )
    assert np.array_equal(STRATEGIES["diverse"](queries, bank, request_for(9)).indices, together)


def test_diverse_takes_one_of_equal_rows_and_then_something_else() -> None:
    angles = np.array([0.0, 0.0, 0.0, 0.5, -0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    bank = replace(make_embeddings(5, d=2), ids=np.array([9, 4, 6, 1, 2]), vectors=vectors)
    query = VectorsWithIds(np.array([77]), np.array([[1, 0]], np.float32))
    near = STRATEGIES["diverse"](query, bank, request_for(3, diversity=0.0)).indices
    apart = STRATEGIES["diverse"](query, bank, request_for(3, diversity=0.6)).indices
    assert near.tolist() == [[1, 2, 0]]
    assert apart.tolist() == [[1, 3, 4]]


# hard


def misleading(order: Order, labels: np.ndarray, k: int) -> Order:
    """The nearest of other classes than the k nearest vote for."""
    near = [int(labels[row]) for row in order[:k] if labels[row] >= 0]
    near = near or [next(int(labels[row]) for row in order if labels[row] >= 0)]
    counts = Counter(near)
    seeming = next(label for label in near if counts[label] == max(counts.values()))
    return [row for row in order if labels[row] not in (-1, seeming)][:k]


@pytest.mark.parametrize("k", [1, 2, 6, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_hard_is_the_nearest_of_other_classes(k: int, seed: int) -> None:
    bank, queries = uneven(seed=seed)
    neighbours = STRATEGIES["hard"](queries, bank, request_for(k))
    expected = [misleading(order, bank.labels, k) for order in orders(queries, bank)]
    check(neighbours, expected, queries, bank)


def test_hard_where_few_have_a_label() -> None:
    bank, queries = uneven()
    labels = np.full(len(bank), -1)
    labels[[3, 11, 20, 21, 35, 50]] = [0, 1, 1, 0, 2, 2]
    bank = replace(bank, labels=labels)
    expected = [misleading(order, labels, 2) for order in orders(queries, bank)]
    check(STRATEGIES["hard"](queries, bank, request_for(2)), expected, queries, bank)


def test_hard_knows_nothing_of_the_label_of_the_query() -> None:
    """Inside the bank, too: to tell another label of the query's own rows changes nothing."""
    bank, queries = uneven()
    query = VectorsWithIds(queries.ids[:1], queries.vectors[:1])
    is_query = bank.ids == query.ids[0]
    relabelled = replace(bank, labels=np.where(is_query, 7 - bank.labels, bank.labels))
    one, other = (STRATEGIES["hard"](query, rows, request_for(5)) for rows in (bank, relabelled))
    assert np.array_equal(one.indices, other.indices)


def test_plurality() -> None:
    labels = np.array([[2, 1, 1, 0], [2, 1, 1, 2], [-1, 3, -1, -1], [-1, -1, -1, -1]])
    assert plurality(labels).tolist() == [1, 2, 3, -1]


def test_hard_needs_two_classes_and_enough_of_others() -> None:
    bank, queries = uneven()
    one = replace(bank, labels=np.where(bank.labels == 1, 1, -1))
    with pytest.raises(NotServedError, match=r"'hard', which needs .* has them of 1;"):
        STRATEGIES["hard"](queries, one, request_for(3))
    with pytest.raises(NotServedError, match=r"`k` is 40, but for 'hard'"):
        STRATEGIES["hard"](queries, bank, request_for(40))


# replay


def replayed(query: int, order: Order, bank: Embeddings, request: RetrievalRequest) -> Order:
    """The nearest of a window that is listed row by row."""
    stream = stream_order(bank.ids, request.seed).tolist()
    at = [position for position, row in enumerate(stream) if bank.ids[row] == query]
    end = at[0] if at else len(stream)
    size = min(request.replay, len(stream) - 1 if at else len(stream))
    window = {stream[position % len(stream)] for position in range(end - size, end)}
    return [row for row in order if row in window][: request.k]


@pytest.mark.parametrize(
    ("k", "size"), [(1, 1), (1, 2), (3, 3), (5, 20), (20, 30), (5, 76), (5, 79), (76, 80), (9, 999)]
)
def test_replay_is_the_nearest_of_what_came_just_before(k: int, size: int) -> None:
    bank, queries = uneven()
    rows = np.arange(len(bank))
    queries = VectorsWithIds(
        np.concatenate([queries.ids[20:], bank.ids[rows]]),
        np.concatenate([queries.vectors[20:], bank.vectors[rows]]),
    )
    request = request_for(k, replay=size)
    neighbours = STRATEGIES["replay"](queries, bank, request)
    expected = [
        replayed(query, order, bank, request)
        for query, order in zip(queries.ids.tolist(), orders(queries, bank), strict=True)
    ]
    check(neighbours, expected, queries, bank)


@pytest.mark.parametrize("size", [SEGMENT - 1, 300, 640, 699])
def test_replay_across_segments(size: int) -> None:
    bank = make_embeddings(700)
    queries, request = VectorsWithIds(bank.ids, bank.vectors), request_for(4, replay=size, seed=3)
    neighbours = STRATEGIES["replay"](queries, bank, request)
    expected = [
        replayed(query, order, bank, request)
        for query, order in zip(queries.ids.tolist(), orders(queries, bank), strict=True)
    ]
    check(neighbours, expected, queries, bank)


def test_replay_of_everything_is_knn() -> None:
    bank, queries = uneven()
    neighbours = STRATEGIES["replay"](queries, bank, request_for(9, replay=len(bank)))
    assert np.array_equal(
        neighbours.indices, STRATEGIES["knn"](queries, bank, request_for(9)).indices
    )


def test_the_stream_is_drawn_and_keeps_its_order_without_some_rows() -> None:
    ids = np.concatenate([np.arange(500), [17]])
    stream = ids[stream_order(ids, 0)]
    assert sorted(stream) == sorted(ids)
    assert np.flatnonzero(np.diff(stream) == 0).size == 1  # copies come together
    assert not np.array_equal(stream, ids[stream_order(ids, 1)])
    assert abs(np.corrcoef(stream, np.arange(501))[0, 1]) < 0.15
    left = ids[100:500]
    assert np.array_equal(
        left[stream_order(left, 0)], stream[np.isin(stream, left) & (stream != 17)]
    )
    turned = ids[::-1]
    assert np.array_equal(turned[stream_order(turned, 0)], stream)


def test_replay_needs_room_for_k() -> None:
    bank, queries = uneven()
    with pytest.raises(NotServedError, match=r"`replay` is 5, but `k` is 6;"):
        STRATEGIES["replay"](queries, bank, request_for(6, replay=5))


# prioritised-replay


def vote_loss(row: int, near: np.ndarray, bank: Embeddings) -> float:
    """Of a labelled row, one voter at a time."""
    others = [r for r in range(len(bank)) if bank.labels[r] >= 0 and bank.ids[r] != bank.ids[row]]
    others = sorted(others, key=lambda r: (-near[r], bank.ids[r], r))[:20]
    classes = {label for label in bank.labels.tolist() if label >= 0}
    weights = [math.exp((near[r] - 1) / 0.07) for r in others]
    right = [w for r, w in zip(others, weights, strict=True) if bank.labels[r] == bank.labels[row]]
    share = sum(right) / sum(weights)
    return -math.log((len(others) * share + 1 / len(classes)) / (len(others) + 1))


def draws(bank: Embeddings, seed: int) -> Order:
    """Row after row, who waits least."""
    similarities = to_all(bank.vectors, bank)
    losses = {
        row: vote_loss(row, similarities[row], bank) for row in np.flatnonzero(bank.labels >= 0)
    }
    mean = sum(losses.values()) / len(losses)
    waits = {}
    for row, number in enumerate(mix_ids(bank.ids, seed).tolist()):
        copies = np.flatnonzero(bank.ids == bank.ids[row])
        loss = sum(losses.get(copy, mean) for copy in copies) / len(copies)
        waits[row] = -math.log((number + 0.5) / 2**64) / loss**0.6
    return sorted(waits, key=lambda row: (round(waits[row], 9), row))


@pytest.mark.parametrize(
    ("k", "size"), [(1, 1), (3, 3), (5, 20), (20, 30), (5, 76), (5, 79), (76, 80), (9, 999)]
)
def test_prioritised_replay_is_the_nearest_of_what_is_drawn_by_loss(k: int, size: int) -> None:
    bank, queries = uneven()
    request = request_for(k, replay=size, seed=2)
    drawn, expected = draws(bank, 2), []
    for query, order in zip(queries.ids.tolist(), orders(queries, bank), strict=True):
        memory = [row for row in drawn if bank.ids[row] != query][:size]
        expected.append([row for row in order if row in memory][:k])
    check(STRATEGIES["prioritised-replay"](queries, bank, request), expected, queries, bank)


def test_images_of_a_high_loss_are_kept_more_often() -> None:
    """A tenth of the images have a wrong label; how often is what the weights say."""
    centres = np.repeat(np.eye(4, 8, dtype=np.float32), 50, axis=0)
    vectors = centres + 0.1 * make_embeddings(200, d=8).vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.repeat(np.arange(4), 50)
    wrong = np.arange(200) % 10 == 0
    bank = replace(
        make_embeddings(200, d=8), vectors=vectors, labels=np.where(wrong, (labels + 1) % 4, labels)
    )
    weights = vote_losses(bank) ** 0.6
    assert weights[wrong].min() > 2 * weights[~wrong].max()
    first = [draw_order(bank, seed)[0] for seed in range(600)]
    share = weights[wrong].sum() / weights.sum()
    assert abs(wrong[first].mean() - share) < 4 * math.sqrt(share * (1 - share) / 600)


def test_losses_of_few_labels() -> None:
    """Rows without a label have the mean loss; one that nobody votes on, that of a guess."""
    bank, queries = uneven()
    labels = np.full(len(bank), -1)
    labels[[3, 11, 20]] = [0, 1, 1]
    losses = vote_losses(replace(bank, labels=labels))
    assert losses[labels < 0] == pytest.approx(losses[[3, 11, 20]].mean())
    labels[[11, 20]] = -1
    alone = replace(bank.take(np.array([3, 5, 3])), labels=np.array([0, -1, 1]))
    assert vote_losses(alone) == pytest.approx(math.log(2))
    blank = replace(bank, labels=np.full(len(bank), -1))
    with pytest.raises(NotServedError, match=r"'prioritised-replay', but no image .* has a label"):
        STRATEGIES["prioritised-replay"](queries, blank, request_for(3))
    with pytest.raises(NotServedError, match=r"`replay` is 5, but `k` is 6;"):
        STRATEGIES["prioritised-replay"](queries, bank, request_for(6, replay=5))


def test_losses_are_found_once_for_a_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("rapipe.retrieval.strategies.prioritised_replay")
    seen: list[Embeddings] = []
    monkeypatch.setattr(module, "vote_losses", lambda b: seen.append(b) or vote_losses(b))
    (bank, queries), (other, _) = uneven(), uneven(seed=1)
    for rows in (bank, bank, other, bank):
        STRATEGIES["prioritised-replay"](queries, rows, request_for(3))
    assert [rows is bank for rows in seen] == [True, False, True]


# The bank


def stored() -> Embeddings:
    """20 training rows of two sources, 4 of validation, 4 of test; some pixels are shared."""
    rows = make_embeddings(28)
    ids = rows.ids.copy()
    ids[22], ids[26] = ids[3], ids[4]  # a validation and a test image that also stand in train
    splits = np.array(["train"] * 20 + ["validation"] * 4 + ["test"] * 4)
    sources = np.array(["a", "b"] * 14)
    return Embeddings(ids, rows.vectors, rows.labels, sources, splits)


def bank_from(rows: Embeddings, limit: int | str, seed: int = 0, held_out: int = 0) -> Embeddings:
    """The bank, from the rows in id order; the first `held_out` ids are held out elsewhere."""
    rows = rows.take(np.argsort(rows.ids, kind="stable"))
    facts = (rows.ids, rows.sources, rows.splits)
    return rows.take(select_bank(*facts, stored().ids[:held_out], limit, seed))


def test_no_test_or_validation_image_enters_the_bank_not_even_as_a_duplicate() -> None:
    rows = stored()
    bank = bank_from(rows, "all")
    assert len(bank) == 18
    assert not np.isin(bank.ids, rows.ids[20:]).any()
    assert (np.diff(bank.ids) > 0).all()


def test_nor_if_the_store_has_no_row_of_it_any_more() -> None:
    rows = stored()
    training = rows.take(rows.splits == "train")
    assert len(bank_from(training, "all")) == 20
    bank = bank_from(training, "all", held_out=3)
    assert sorted(bank.ids) == sorted(rows.ids[3:20])


def test_limited_banks() -> None:
    rows = stored()
    small, large = bank_from(rows, 5), bank_from(rows, 11)
    assert (len(small), len(large)) == (5, 11)
    assert set(small.ids) < set(large.ids)
    assert set(small.ids) != set(bank_from(rows, 5, seed=1).ids)
    assert set(bank_from(rows, "a").sources) == {"a"}
    assert np.array_equal(bank_from(rows, "a+b").ids, bank_from(rows, "all").ids)
    with pytest.raises(ArgumentError, match=r"`bank` is 19, but there are 18"):
        bank_from(rows, 19)
    with pytest.raises(ArgumentError, match="leaves no training image"):
        bank_from(rows, "c")
