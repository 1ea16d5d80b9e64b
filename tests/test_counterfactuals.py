"""Counterfactual neighbours of a classifier whose predictions are known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from follower import CLASSES, Follower, followed, retrieve

from rapipe import metrics
from rapipe.batches.loader import CPU
from rapipe.classifier.fusions.base import SEES_ALL
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.retriever import Retriever
from rapipe.evaluation.measures.counterfactuals import (
    Counterfactual,
    Counterfactuals,
    evaluate_counterfactuals,
)
from rapipe.evaluation.measures.noise_levels import LevelPredictions
from rapipe.records import OTHER_IMAGE, Images
from rapipe.retrieval.strategies import STRATEGIES
from rapipe.specs import LABELS, VECTORS


def by_name(counterfactuals: Counterfactuals, level: LevelPredictions) -> dict[str, Counterfactual]:
    return {own.name: own for own in counterfactuals.of(level.retrieval)}


def counterfactuals_of(
    images: Images, retriever: Retriever, inputs: Collection[str] = SEES_ALL, pruned: int = 0
) -> Counterfactuals:
    return Counterfactuals(images, retriever, CLASSES, inputs, (0.25,), np.arange(pruned))


def test_oracles_show_the_right_class_or_one_wrong_one() -> None:
    images, retriever, level = followed()
    named = by_name(counterfactuals_of(images, retriever), level)
    right = retriever.bank.labels[named["same class"].indices]
    wrong = retriever.bank.labels[named["wrong class"].indices]
    assert (right == images.labels[:, None]).all()
    assert (wrong != images.labels[:, None]).all()
    assert (wrong == wrong[:, :1]).all()
    assert len(set(wrong[images.labels == 0, 0])) == 2  # each other class comes up


def test_where_the_memory_lacks_a_class_the_right_oracle_keeps_the_own_neighbours() -> None:
    images, retriever, _ = followed()
    left = retriever.bank.take(np.flatnonzero(retriever.bank.labels != 1))
    retriever = replace(retriever, bank=left)
    retrieval = retrieve(retriever, images)
    own, logits = retrieval.neighbours, np.zeros((len(images), CLASSES), np.float32)
    level = LevelPredictions(0.0, images.pixels, logits, retrieval)
    named = by_name(counterfactuals_of(images, retriever), level)
    lacking = images.labels == 1
    assert np.array_equal(named["same class"].indices[lacking], own.indices[lacking])
    assert (
        left.labels[named["same class"].indices[~lacking]] == images.labels[~lacking, None]
    ).all()
    assert (left.labels[named["wrong class"].indices] != images.labels[:, None]).all()


def test_other_counterfactuals_change_what_they_say_and_nothing_else() -> None:
    images, retriever, level = followed()
    own, bank = level.retrieval.neighbours.indices, retriever.bank
    named = by_name(counterfactuals_of(images, retriever, pruned=7), level)
    another = named[OTHER_IMAGE].indices
    assert sorted(map(tuple, another)) == sorted(map(tuple, own))
    assert not (another == own).all(axis=1).any()
    duplicate = named["own duplicate"]
    assert np.array_equal(duplicate.indices[:, 1:], own[:, 1:])
    first = duplicate.indices[:, 0]
    np.testing.assert_array_equal(duplicate.bank.vectors[first], level.retrieval.queries.vectors)
    assert duplicate.bank.labels[first].tolist() == images.labels.tolist()
    assert sorted(named["shuffled labels"].bank.labels) == sorted(bank.labels)
    assert (named["25% wrong labels"].bank.labels != bank.labels).sum() == 30
    changed = (named["25% wrong vectors"].bank.vectors != bank.vectors).any(axis=1)
    assert 25 <= changed.sum() <= 30  # a random row may be itself
    assert np.array_equal(named["25% wrong vectors"].bank.labels, bank.labels)
    assert not set(named["pruned"].bank.ids) & set(bank.ids[:7])
    assert len(named["pruned at random"].bank) == len(bank) - 7
    again = by_name(counterfactuals_of(images, retriever, pruned=7), level)
    for name, swap in named.items():
        assert np.array_equal(swap.indices, again[name].indices) or swap.indices is None
        assert np.array_equal(swap.bank.vectors, again[name].bank.vectors)
        assert np.array_equal(swap.bank.labels, again[name].bank.labels)


def test_strategies_that_the_memory_cannot_serve_are_no_counterfactuals() -> None:
    images, retriever, level = followed()
    every = tuple(STRATEGIES)
    whole = by_name(
        replace(counterfactuals_of(images, retriever, pruned=7), strategies=every), level
    )
    assert set(STRATEGIES) <= set(whole)
    one = replace(
        retriever, bank=replace(retriever.bank, labels=np.zeros(len(retriever.bank), int))
    )
    served = by_name(replace(counterfactuals_of(images, one, pruned=7), strategies=every), level)
    assert set(STRATEGIES) - set(served) == {"hard"}
    assert {"pruned", "none"} <= set(served)


def test_poisoned_shares_have_names_of_their_own() -> None:
    images, retriever, level = followed()
    counterfactuals = Counterfactuals(
        images, retriever, CLASSES, SEES_ALL, (0.001, 0.004), np.arange(2)
    )
    names = [own.name for own in counterfactuals.of(level.retrieval)]
    assert len(set(names)) == len(names)
    random = retriever.neighbours(level.retrieval.queries, "sampled")
    drawn = level.retrieval._replace(neighbours=random)
    unsearched = [own.name for own in counterfactuals.of(drawn)]
    assert set(names) - set(unsearched) == {"pruned", "pruned at random"}


@pytest.mark.parametrize(
    ("inputs", "absent"),
    [({VECTORS}, ["shuffled labels", "25% wrong labels"]), ({LABELS}, ["25% wrong vectors"])],
)
def test_what_a_classifier_cannot_see_is_not_swapped(inputs: set[str], absent: list[str]) -> None:
    images, retriever, level = followed()
    both = set(by_name(counterfactuals_of(images, retriever), level))
    assert both - set(by_name(counterfactuals_of(images, retriever, inputs), level)) == set(absent)


def test_who_only_follows_neighbours_changes_as_they_do() -> None:
    images, retriever, level = followed()
    bank, counterfactuals = (
        DeviceBank(retriever.bank, CLASSES, CPU),
        counterfactuals_of(images, retriever),
    )
    effects = evaluate_counterfactuals(Follower(), level, counterfactuals, bank)  # type: ignore[arg-type]
    rows = {row["swap"]: row for row in effects.rows}
    nothing = {"change": 0, "flips": 0, "kl": 0, "total_variation": 0}
    assert {key: rows["knn"][key] for key in nothing} == nothing
    for name, top1 in (("same class", 1.0), ("wrong class", 0.0)):
        assert (rows[name]["top1"], rows[name]["neighbour_agreement"]) == (top1, 1.0)
    assert rows["none"]["neighbour_agreement"] is None
    factual = metrics.top_k(level.logits, images.labels, 1)
    for row, change, distance in zip(*effects, strict=True):
        assert row["change"] == pytest.approx(row["top1"] - factual) == pytest.approx(change.mean())
        assert set(change.tolist()) <= {-1, 0, 1}
        assert row["total_variation"] == pytest.approx(distance.mean())
    before, after = metrics.softmax(level.logits), np.eye(CLASSES)[np.zeros(40, int)]
    after = metrics.softmax(after)
    slow = np.mean([(p * np.log(p / q)).sum() for p, q in zip(before, after, strict=True)])
    assert rows["none"]["kl"] == pytest.approx(slow)
