"""Hints where the values of images are not what they seem."""

from __future__ import annotations

import numpy as np
import pytest

from rapipe.corpus.values import ValueCounts

BRIGHT, BLACK, ONE = (0, 255), (0, 3), (200, 200)


def counts(peaks: list[int], extremes: list[tuple[int, int]]) -> ValueCounts:
    return ValueCounts.count(np.array(peaks, np.int32), np.array(extremes, np.uint8).reshape(-1, 2))


@pytest.mark.parametrize(
    ("peak", "depth", "share", "better"),
    [
        *((4095, 16, 16, 12), (4080, 16, 16, 12), (1023, 16, 64, 10), (16383, 16, 4, 14)),
        *((200, 16, 256, 8), (2000, 16, 32, 12), (900, 12, 4, 10)),
    ],
)
def test_unused_bits(peak: int, depth: int, share: int, better: int) -> None:
    found = counts([peak] * 300 + [2**depth - 1], [BLACK] * 300 + [BRIGHT])  # one with a hot pixel
    (hint,) = found.hints(depth)
    assert "301 images are stored with more than 8 bits, but nearly all have no value ab" in hint
    assert f"above {peak:,}, at most 1/{share} of the range" in hint
    assert hint.endswith(f"if they are of {better} bits, set `depth`: {better}")
    assert counts([peak] * 300, [BRIGHT] * 300).hints(better) == []


def test_dark_and_flat_images() -> None:
    assert counts([-1] * 4, [BLACK, BLACK, BRIGHT, ONE]).hints(16) == [
        "2 of 4 images are nearly black, without a value above 16 of 255: are they masks, or of "
        "more bits than they can show?"
    ]
    assert counts([-1] * 3, [ONE, ONE, BRIGHT]).hints(16) == [
        "2 of 3 images are of one colour only"
    ]


def test_usual_images_have_no_hints() -> None:
    assert counts([65535, 30000, -1], [BRIGHT, BRIGHT, BRIGHT]).hints(16) == []
    assert counts([-1] * 3, [BRIGHT, BLACK, ONE]).hints(16) == []
    assert counts([], []).hints(16) == []
