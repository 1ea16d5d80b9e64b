"""Errors are one sentence, in every process, and can speak of other names of an argument."""

from __future__ import annotations

import pickle

import pytest

from rapipe.errors import ArgumentError, UserError, rename_arguments, shortened, unreadable


def test_a_mistake_in_an_argument_is_told_by_another_name() -> None:
    error = ArgumentError("`k` is 9, but the `bank` has 5 rows; leave `label` out")
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    renamed = copy.renamed({"k": "retrieval.k", "bank": "retrieval.bank"})
    assert type(renamed) is UserError
    assert str(renamed) == "retrieval.k is 9, but the retrieval.bank has 5 rows; leave `label` out"
    assert rename_arguments("k and `k`", {"k": "a.k"}) == "k and a.k"


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(UserError("a\nb\x1b[31m")) == "a\\nb\\x1b[31m"
    assert len(str(UserError("x" * 10_000))) == 4000
    assert shortened("abcdefghij", 9) == "abc … hij"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\ud800", "\u202ea", "x" * 501])
def test_names_that_nobody_can_read(name: str) -> None:
    assert unreadable(name)
    assert not unreadable("日本 a\u200db")
