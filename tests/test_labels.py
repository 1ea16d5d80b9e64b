"""Draws by label: limits, held-out shares, and hidden labels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rapipe.corpus.labels import (
    absence_words,
    absent_classes,
    conflicting_ids,
    held_out_mask,
    hidden_label_ids,
    limit_mask,
    visible_label_mask,
)

IDS = np.random.default_rng(0).permutation(10_000)[:600]
LABELS = np.repeat([0, 1, 2, -1], [400, 100, 7, 93])


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.1, (40, 10, 1)), (0.01, (4, 1, 1)), (1.0, (400, 100, 7))]
)
def test_each_class_keeps_its_share(fraction: float, counts: tuple[int, ...]) -> None:
    visible = visible_label_mask(IDS, LABELS, fraction, 0)
    assert tuple(np.bincount(LABELS[visible])) == counts
    assert (LABELS[visible] >= 0).all()


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    shares = [visible_label_mask(IDS, LABELS, fraction, 3) for fraction in (0.01, 0.1, 0.5, 1.0)]
    for small, large in pairwise(shares):
        assert (large | ~small).all()


def test_only_the_seed_and_the_images_decide_the_draw() -> None:
    visible, order = (
        visible_label_mask(IDS, LABELS, 0.1, 0),
        np.random.default_rng(1).permutation(len(IDS)),
    )
    assert np.array_equal(visible_label_mask(IDS[order], LABELS[order], 0.1, 0), visible[order])
    assert not np.array_equal(visible_label_mask(IDS, LABELS, 0.1, 1), visible)


def test_equal_images_are_treated_alike() -> None:
    ids, labels = np.tile(np.arange(50), 3), np.zeros(150, np.int64)
    visible = visible_label_mask(ids, labels, 0.2, 0).reshape(3, 50)
    assert (visible == visible[0]).all()
    assert visible[0].sum() == 10


def test_an_image_of_two_classes_is_visible_in_both_or_hidden_in_both() -> None:
    ids = np.concatenate([np.arange(40), np.arange(40)])
    labels = np.repeat([0, 1], 40)
    visible = visible_label_mask(ids, labels, 0.1, 0).reshape(2, 40)
    assert np.array_equal(visible[0], visible[1])
    assert 4 <= visible[0].sum() <= 8  # what either class drew
    hidden = hidden_label_ids(ids, labels, 0.1, 0)
    assert sorted(set(hidden.tolist())) == np.flatnonzero(~visible[0]).tolist()


def test_hidden_labels_are_those_that_are_not_visible() -> None:
    hidden = hidden_label_ids(IDS, LABELS, 0.1, 0)
    visible = IDS[visible_label_mask(IDS, LABELS, 0.1, 0)]
    assert sorted([*hidden, *visible]) == sorted(IDS[LABELS >= 0])
    assert not len(hidden_label_ids(IDS, LABELS, 1.0, 0))


def test_a_smaller_limit_is_part_of_a_larger() -> None:
    labels = np.repeat([0, 1, 2, -1], [50, 30, 17, 3])
    masks = [limit_mask(labels, n, np.random.default_rng(0)) for n in (10, 20, 0.5, 100, 200)]
    assert [int(mask.sum()) for mask in masks] == [10, 20, 50, 100, 100]
    for small, large in pairwise(masks):
        assert (large | ~small).all()
    assert np.bincount(labels[masks[2]] + 1).tolist() == pytest.approx([1.5, 25, 15, 8.5], abs=1)


def test_held_out_shares() -> None:
    ids, labels = np.arange(100), np.repeat([0, 1], [80, 20])
    mask = held_out_mask(ids, labels, 0.25, np.random.default_rng(0))
    assert np.bincount(labels[mask]).tolist() == [20, 5]


@pytest.mark.parametrize(
    ("images", "fraction", "held_out"),
    [(1, 0.1, 0), (2, 0.1, 1), (3, 0.1, 1), (5, 0.1, 1), (3, 0.99, 2), (3, 0.0, 0), (24, 0.1, 2)],
)
def test_of_a_small_class_one_is_held_out_and_one_is_left(
    images: int, fraction: float, held_out: int
) -> None:
    ids, labels = np.arange(2 * images), np.repeat([0, 1], images)
    mask = held_out_mask(ids, labels, fraction, np.random.default_rng(0))
    assert np.bincount(labels[mask], minlength=2).tolist() == [held_out] * 2


def test_conflicting_ids_are_those_with_several_labels() -> None:
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(-50, 50, 400), rng.integers(-1, 3, 400)
    slow = sorted(i for i in set(ids.tolist()) if len({*labels[ids == i].tolist()} - {-1}) > 1)
    assert conflicting_ids(ids, labels).tolist() == slow
    assert not len(conflicting_ids(ids[:0], labels[:0]))
    assert not len(conflicting_ids(ids, np.full(400, -1)))


def test_absent_classes_are_named_up_to_a_bound() -> None:
    assert absent_classes(np.array([1, -1, 1]), ("a", "b", "c")) == ["a", "c"]
    assert absent_classes(np.array([], np.int64), ()) == []
    assert absence_words("test", ["a", "c"], 3) == "no test image of 2 of 3 classes: a, c"
    many = absence_words("test", [f"c{i}" for i in range(1022)], 2000)
    assert many.endswith("c18, c19 and 1,002 more")
