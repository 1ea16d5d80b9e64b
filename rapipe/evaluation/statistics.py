"""How sure may one be of a score, or of a difference between two models?

Two tests with different blind spots guard a claim. The bootstrap sees both the choice of
test images and the choice of seeds, but is lenient when seeds are few. McNemar's test is
exact, but speaks of one training at a time. `words` asks for both.

Letters: S seeds, N test images, B bootstrap draws, U unlike images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating | np.bool_]  # (S, N), one number for each seed and image
Right = npt.NDArray[np.bool_]  # (S, N) or (N,), was the image classified rightly?

DRAWS = 2000
"""Bootstrap draws: the ends of a 95 % interval then rest on 50 draws each."""
LEVEL = 0.95
ALPHA = 0.05
"""Adjusted p-values must lie below it."""
NOTHING = "no difference shown"
MIN_SEEDS = 3
"""With fewer trainings, a difference may be one of seeds and not of models."""
CHUNK_CELLS = 2_000_000
"""Cells of a table of draws held at a time, 16 MB."""


class Interval(NamedTuple):
    """The middle `LEVEL` of what other seeds and images might have given."""

    low: float
    high: float

    def leaves_out(self, value: float) -> bool:
        """Does the value lie outside, not even on an end?"""
        return not self.low <= value <= self.high


class Verdict(NamedTuple):
    """What is known of the difference in accuracy between a model and another."""

    difference: float
    """Mean over seeds and images, -1 to 1; above 0 where the first is right more often."""
    interval: Interval
    """Of the difference."""
    p: float
    """Largest p-value of the seeds; 1 where two of them do not point the same way."""
    seeds: int


def interval_of_mean(values: Values, seed: int) -> Interval:
    """Percentile bootstrap of the mean of `values` (S, N) over seeds and images.

    Seeds and images are drawn anew, with replacement, and crossed: a draw's images are the
    same for all its seeds. A single seed stays as it is. The order of the images is of no
    account. Few seeds show too little of their spread: its share of the variance comes out
    at (S - 1) / S of the truth.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.
    """
    s, n = values.shape
    rng = np.random.default_rng(seed)
    # Images alike in all seeds are drawn as one. The means are distributed as before, and right
    # and wrong answers make 2**S kinds of image at most, their differences 3**S, for any N.
    kinds, counts = np.unique(values.astype(np.float64), axis=1, return_counts=True)  # (S, U), (U,)
    step = max(1, CHUNK_CELLS // len(counts))
    means: list[npt.NDArray[np.float64]] = []
    for start in range(0, DRAWS, step):
        drawn = rng.multinomial(n, counts / n, size=min(step, DRAWS - start))  # (B, U)
        by_seed = drawn @ kinds.T / n  # (B, S)
        seeds = rng.integers(s, size=by_seed.shape)  # (B, S)
        means.append(np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1))  # (B,)
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def paired_interval(a: Values, b: Values, seed: int) -> Interval:
    """Interval of the mean of a - b, both (S, N), paired by seed and image."""
    _check_paired(a, b)
    return interval_of_mean(a.astype(np.float64) - b.astype(np.float64), seed)


def mcnemar(a: Right, b: Right) -> float:
    """Exact two-sided p-value that two models (N,) are right equally often.

    Only images that one model alone has right count; each is then the toss of a fair coin.
    1 where there are none.

    Sources: McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 1947; Dietterich, "Approximate statistical
    tests for comparing supervised classification learning algorithms", 1998.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    tosses = only_a + only_b
    # Whole numbers of any size keep the sum exact: 2**tosses would soon overflow a float.
    ways = total = 1
    for heads in range(min(only_a, only_b)):
        ways = ways * (tosses - heads) // (heads + 1)
        total += ways
    return min(1.0, 2 * total / (1 << tosses))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the order given.

    Rejecting those below alpha keeps the chance of any false rejection below alpha.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        # A larger p-value may not end below a smaller one although its factor is smaller.
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def compare(a: Right, b: Right, seed: int) -> Verdict:
    """Is model a right more often than b, both (S, N), paired by seed and image?"""
    interval = paired_interval(a, b, seed)
    by_seed = a.mean(axis=1) - b.mean(axis=1)  # (S,)
    # McNemar's p has no sign: two trainings that contradict each other may both have a small one.
    agree = bool((by_seed > 0).all() or (by_seed < 0).all())
    p = max(mcnemar(one, other) for one, other in zip(a, b, strict=True)) if agree else 1.0
    return Verdict(float(by_seed.mean()), interval, p, len(a))


def words(verdict: Verdict, adjusted_p: float) -> str:
    """The verdict as a phrase about the first model; `adjusted_p` is `verdict.p` after `holm`.

    Only here does the project call a model better or worse than another.
    """
    if not (verdict.interval.leaves_out(0) and adjusted_p < ALPHA):
        return NOTHING
    ahead = verdict.difference > 0
    if verdict.seeds >= MIN_SEEDS:
        return "better" if ahead else "worse"
    trainings = "one training" if verdict.seeds == 1 else f"{verdict.seeds} trainings"
    return f"right for {'more' if ahead else 'fewer'} of these test images, in {trainings}"


def area_under_accuracy(images_seen: Sequence[float], accuracy: Sequence[float]) -> float:
    """Mean accuracy (0 to 1) from the first measurement to the last, by trapezoids.

    Nothing is assumed of the stretch before the first measurement, so compare only runs
    that were measured at the same `images_seen`. A lone measurement is its own mean.
    """
    if len(images_seen) != len(accuracy) or not len(accuracy):
        raise ValueError(f"{len(accuracy)} accuracies at {len(images_seen)} points")
    if any(later <= earlier for earlier, later in pairwise(images_seen)):
        raise ValueError(f"images seen must rise, not {list(images_seen)}")
    if len(accuracy) == 1:
        return float(accuracy[0])
    return float(np.trapezoid(accuracy, images_seen) / (images_seen[-1] - images_seen[0]))


def _check_paired(a: Values, b: Values) -> None:
    """Refuse what would broadcast: a row of b must not serve two seeds of a."""
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"two tables (seeds, images) of one shape, not {a.shape} and {b.shape}")
