"""Labels that are withheld: the same share of each class, and nobody sees them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rapipe.corpus.labels import visible_label_mask

IDS = np.random.default_rng(0).permutation(10_000)[:600]
LABELS = np.repeat([0, 1, 2, -1], [400, 100, 7, 93])


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.1, (40, 10, 1)), (0.01, (4, 1, 1)), (1.0, (400, 100, 7))]
)
def test_each_class_keeps_its_share(fraction: float, counts: tuple[int, ...]) -> None:
    kept = visible_label_mask(IDS, LABELS, fraction, 0)
    assert tuple(np.bincount(LABELS[kept])) == counts
    assert (LABELS[kept] >= 0).all()


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    shares = [visible_label_mask(IDS, LABELS, fraction, 3) for fraction in (0.01, 0.1, 0.5, 1.0)]
    for small, large in pairwise(shares):
        assert (large | ~small).all()


def test_the_draw_follows_the_seed_and_the_images_alone() -> None:
    kept, order = (
        visible_label_mask(IDS, LABELS, 0.1, 0),
        np.random.default_rng(1).permutation(len(IDS)),
    )
    assert np.array_equal(visible_label_mask(IDS[order], LABELS[order], 0.1, 0), kept[order])
    assert not np.array_equal(visible_label_mask(IDS, LABELS, 0.1, 1), kept)


def test_equal_images_share_their_fate() -> None:
    ids, labels = np.tile(np.arange(50), 3), np.zeros(150, np.int64)
    kept = visible_label_mask(ids, labels, 0.2, 0).reshape(3, 50)
    assert (kept == kept[0]).all()
    assert kept[0].sum() == 10
