from __future__ import annotations

import numpy as np
import pytest
from conftest import make_embeddings

from rapipe.bank import bank_of
from rapipe.errors import UserError
from rapipe.neighbours import STRATEGIES
from rapipe.records import Embeddings
from rapipe.search import Keys, Method, search


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_leaves_the_query_out_even_with_duplicates(name: str) -> None:
    bank = make_embeddings(30)
    bank = bank.take(np.concatenate([np.arange(30), np.arange(30), np.arange(10)]))
    queries = Keys(bank.ids, bank.vectors)
    found = STRATEGIES[name](queries, bank, 20, 0, Method())
    found.check_against(bank.ids)
    assert all(len(set(row)) == 20 for row in found.indices.tolist())
    exact = np.einsum("qd,qkd->qk", bank.vectors, bank.vectors[found.indices])
    assert np.allclose(found.similarities, exact, atol=1e-6)
    again = STRATEGIES[name](queries, bank, 20, 0, Method())
    assert np.array_equal(found.indices, again.indices)
    with pytest.raises(UserError, match=r"retrieval\.k is 68"):
        STRATEGIES[name](queries, bank, 68, 0, Method())


def test_knn_is_search() -> None:
    bank, own = make_embeddings(50), make_embeddings(9, seed=1)
    queries = Keys(own.ids + 1000, own.vectors)
    found = STRATEGIES["knn"](queries, bank, 5, 0, Method())
    assert np.array_equal(found.indices, search(own.vectors, bank, 5, queries.ids).indices)


def test_sampled_is_uniform_and_depends_on_seed_and_id_alone() -> None:
    bank = make_embeddings(20)
    queries = Keys(np.arange(10**6, 10**6 + 6000), np.tile(bank.vectors[:1], (6000, 1)))
    found = STRATEGIES["sampled"](queries, bank, 5, 0, Method()).indices
    counts = np.bincount(found.reshape(-1), minlength=20)
    expected = 6000 * 5 / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 43.8  # 99.9 % of chi-square with 19 degrees of freedom
    part = Keys(queries.ids[100:110], queries.vectors[100:110])
    assert np.array_equal(STRATEGIES["sampled"](part, bank, 5, 0, Method()).indices, found[100:110])
    assert not np.array_equal(
        STRATEGIES["sampled"](part, bank, 5, 1, Method()).indices, found[100:110]
    )


def memory() -> Embeddings:
    """20 training rows of two sources, 4 of validation, 4 of test; some pixels are shared."""
    rows = make_embeddings(28)
    ids = rows.ids.copy()
    ids[22], ids[26] = ids[3], ids[4]  # a validation and a test image that also stand in train
    splits = np.array(["train"] * 20 + ["validation"] * 4 + ["test"] * 4)
    sources = np.array(["a", "b"] * 14)
    return Embeddings(ids, rows.vectors, rows.labels, sources, splits)


def chosen(rows: Embeddings, limit: int | str, seed: int = 0, held_out: int = 0) -> Embeddings:
    """The bank, from the rows in id order; the first `held_out` ids are held out elsewhere."""
    rows = rows.take(np.argsort(rows.ids, kind="stable"))
    facts = (rows.ids, rows.sources, rows.splits)
    return rows.take(bank_of(*facts, memory().ids[:held_out], limit, seed))


def test_no_test_or_validation_image_enters_the_bank_not_even_as_a_duplicate() -> None:
    rows = memory()
    bank = chosen(rows, "all")
    assert len(bank) == 18
    assert not np.isin(bank.ids, rows.ids[20:]).any()
    assert (np.diff(bank.ids) > 0).all()


def test_nor_if_the_store_has_no_row_of_it_any_more() -> None:
    rows = memory()
    training = rows.take(rows.splits == "train")
    assert len(chosen(training, "all")) == 20
    bank = chosen(training, "all", held_out=3)
    assert sorted(bank.ids) == sorted(rows.ids[3:20])


def test_limited_banks() -> None:
    rows = memory()
    small, large = chosen(rows, 5), chosen(rows, 11)
    assert (len(small), len(large)) == (5, 11)
    assert set(small.ids) < set(large.ids)
    assert set(small.ids) != set(chosen(rows, 5, seed=1).ids)
    assert set(chosen(rows, "a").sources) == {"a"}
    assert np.array_equal(chosen(rows, "a+b").ids, chosen(rows, "all").ids)
    with pytest.raises(UserError, match=r"retrieval.bank is 19, but there are 18"):
        chosen(rows, 19)
    with pytest.raises(UserError, match="no training image is left"):
        chosen(rows, "c")
