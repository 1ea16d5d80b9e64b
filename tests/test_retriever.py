"""Neighbours of any image: who votes, the nearest of a class, and cached embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images

from rapipe.encoder.retriever import Retriever, nearest_of_class
from rapipe.records import Embeddings
from rapipe.retrieval.search import SearchMethod, VectorsWithIds
from rapipe.retrieval.strategies import RetrievalRequest

CLASSES, K = 3, 5


@pytest.mark.parametrize("strategy", ["knn", "sampled"])
@pytest.mark.parametrize("strange", [-1, CLASSES])
def test_only_rows_whose_class_is_known_vote(strategy: str, strange: int) -> None:
    """As if the others were not there, however near they are; and everyone where all are known."""
    bank, vectors = make_embeddings(120, seed=2), make_embeddings(40, seed=3).vectors
    queries = VectorsWithIds(np.arange(40) + 10**6, vectors)
    unknown = np.random.default_rng(0).random(120) < 0.8
    few = replace(bank, labels=np.where(unknown, strange, bank.labels))
    ask = RetrievalRequest(K, 0, SearchMethod())

    def lookup(memory: Embeddings) -> Retriever:
        return Retriever(None, memory, strategy, ask, CLASSES)  # type: ignore[arg-type]

    own = lookup(few)
    found = own.neighbours(queries)
    assert not own.fully_labelled
    alone = lookup(bank.take(np.flatnonzero(~unknown))).neighbours(queries)
    similarities, labels = own.labelled_neighbours(found, queries)
    np.testing.assert_array_equal(similarities, alone.similarities)
    np.testing.assert_array_equal(labels, bank.labels[~unknown][alone.indices])
    everyone = lookup(bank)
    found = everyone.neighbours(queries)
    assert everyone.fully_labelled
    np.testing.assert_array_equal(
        everyone.labelled_neighbours(found, None).labels, bank.labels[found.indices]
    )
    with pytest.raises(ValueError, match="rows without a class do not vote"):
        own.labelled_neighbours(found, None)


def test_fewer_known_rows_than_neighbours_all_vote() -> None:
    bank, vectors = make_embeddings(120, seed=2), make_embeddings(9, seed=3).vectors
    queries = VectorsWithIds(np.arange(9) + 10**6, vectors)
    few = replace(bank, labels=np.where(np.arange(120) < 2, bank.labels, -1))
    for memory, voting in ((few, 2), (replace(bank, labels=np.full(120, -1)), K)):
        lookup = Retriever(None, memory, "knn", RetrievalRequest(K, 0, SearchMethod()), CLASSES)  # type: ignore[arg-type]
        voters = lookup.labelled_neighbours(lookup.neighbours(queries), queries)
        assert voters.labels.shape == voters.similarities.shape == (9, voting)


def test_nearest_of_class_is_that_of_a_loop() -> None:
    bank, queries = make_embeddings(60, seed=6), make_embeddings(20, seed=7)
    targets = np.arange(20) % CLASSES
    keys = VectorsWithIds(queries.ids, queries.vectors)
    found = nearest_of_class(keys, bank, targets, 4).rows
    for query, target in enumerate(targets):
        rows = np.flatnonzero(bank.labels == target)
        products = bank.vectors[rows] @ queries.vectors[query]
        assert found[query].tolist() == rows[np.argsort(-products)[:4]].tolist()


def test_a_class_with_few_rows_repeats_them_and_never_shows_the_query() -> None:
    bank = make_embeddings(6, seed=6)  # two rows a class
    keys = VectorsWithIds(bank.ids[:1], bank.vectors[:1])
    assert nearest_of_class(keys, bank, bank.labels[:1], 4).rows.tolist() == [[3, 3, 3, 3]]


class Counting:
    """An encoder that counts the images it embeds."""

    features = 4

    def __init__(self) -> None:
        self.seen = 0

    device = torch.device("cpu")

    def embed(self, pixels: Any) -> Any:
        self.seen += len(pixels)
        return np.asarray(pixels, np.float32).reshape(len(pixels), -1)[:, :4] / 255


def test_embeddings_of_the_same_images_are_kept_and_damage_is_seen(tmp_path: Path) -> None:
    images, bank = make_images(6), make_embeddings(9)
    counted = Counting()

    def lookup(by: str) -> Retriever:
        ask = RetrievalRequest(K, 0, SearchMethod())
        return Retriever(counted, bank, "knn", ask, CLASSES, tmp_path / "kept", by)  # type: ignore[arg-type]

    plain = Retriever(counted, bank, "knn", RetrievalRequest(K, 0, SearchMethod()), CLASSES)  # type: ignore[arg-type]
    expected = plain.queries(images, images.pixels).vectors
    counted.seen = 0
    for _ in range(3):
        found = lookup("one").queries(images, images.pixels)
        np.testing.assert_array_equal(found.vectors, expected)
        np.testing.assert_array_equal(found.ids, images.ids)
    assert counted.seen == 6
    for by, pixels in (("another", images.pixels), ("one", images.pixels // 2)):
        lookup(by).queries(images, pixels)  # of another encoder, and of other images
    assert counted.seen == 18
    for file in (tmp_path / "kept").iterdir():
        if not file.suffix:
            raw = bytearray(file.read_bytes())
            raw[-1] ^= 1
            file.write_bytes(raw)
    np.testing.assert_array_equal(lookup("one").queries(images, images.pixels).vectors, expected)
    assert counted.seen == 24
