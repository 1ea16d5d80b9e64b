"""How sure may one be of a score, or of a difference between two models?

Three tests with different blind spots guard a claim. The bootstrap sees the choice of test
images and of seeds together. McNemar's test is exact, but speaks of one training at a
time. Student's t-test over seeds sees only how trainings differ. `words` asks for all.

Letters: S seeds, N test images, B bootstrap draws, U unlike images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating | np.bool_]  # (S, N), one number for each seed and image
Correct = npt.NDArray[np.bool_]  # (S, N) or (N,), was the image classified correctly?

DRAWS = 2000
"""Bootstrap draws: the ends of a 95 % interval then rest on 50 draws each."""
LEVEL = 0.95
ALPHA = 0.05
"""Adjusted p-values must lie below it."""
NOTHING = "no difference shown"
BETTER = "better"
MIN_SEEDS = 3
"""With fewer trainings, a difference may be one of seeds and not of models."""
FEW_KINDS = 256
"""Kinds of image up to which drawing how often each comes is faster than drawing images."""
CHUNK_CELLS = 2_000_000
"""Cells of a table of draws in memory at a time, 16 MB."""


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
    mcnemar: float
    """The largest p-value of McNemar's tests, one a training.

    1 where two trainings do not point the same way.
    """
    p: float
    """The larger of that and the p-value of a t-test over the seeds."""
    seeds: int


def interval_of_mean(values: Values, seed: int) -> Interval:
    """Percentile bootstrap of the mean of `values` (S, N) over seeds and images.

    Seeds and images are drawn anew, with replacement, and crossed: a draw's images are the
    same for all its seeds. A single seed stays as it is. The order of the images is of no
    account. A bootstrap of few seeds would be much too narrow, so their part is
    `stretched` to the width of Student's interval: 2.7 times for three, 1.6 for five.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.
    """
    s, _ = values.shape
    rng = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    for by_seed in _drawn_images(values.astype(np.float64), rng):  # (B, S)
        seeds = rng.integers(s, size=by_seed.shape)  # (B, S)
        all_seeds = by_seed.mean(axis=1)  # (B,)
        drawn_seeds = np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1)  # (B,)
        means.append(all_seeds + stretched(s) * (drawn_seeds - all_seeds))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def stretched(seeds: int) -> float:
    """How much wider Student's interval of the mean of so many is than that of a bootstrap.

    The bootstrap's variance is (S - 1) / S of the sample variance, and its quantiles
    are near those of a normal distribution.
    """
    if seeds == 1:
        return 1.0
    from scipy.special import ndtri, stdtrit

    quantile = (1 + LEVEL) / 2
    return float(np.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, quantile) / ndtri(quantile))


def _drawn_images(
    values: npt.NDArray[np.float64], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float64]]:
    """Means by seed (B, S) of images drawn with replacement, in chunks of all `DRAWS`."""
    s, n = values.shape
    # Images alike in all seeds are drawn as one. The means are distributed as before, and right
    # and wrong answers make 2**S kinds of image at most, their differences 3**S, for any N.
    kinds, counts = np.unique(values, axis=1, return_counts=True)  # (S, U), (U,)
    by_kind = len(counts) <= FEW_KINDS
    step = max(1, CHUNK_CELLS // (len(counts) if by_kind else s * n))
    images = np.repeat(kinds, counts, axis=1)  # (S, N)
    for start in range(0, DRAWS, step):
        draws = min(step, DRAWS - start)
        if by_kind:
            yield rng.multinomial(n, counts / n, size=draws) @ kinds.T / n
        else:
            yield images[:, rng.integers(n, size=(draws, n))].mean(axis=2).T


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def interval_over_seeds(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of what two or more seeds gave."""
    from scipy.special import stdtrit

    n, mean = len(values), float(np.mean(values))
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * deviation(values) / n**0.5
    return Interval(mean - half, mean + half)


def paired_interval(a: Values, b: Values, seed: int) -> Interval:
    """Interval of the mean of a - b, both (S, N), paired by seed and image."""
    _check_paired(a, b)
    return interval_of_mean(a.astype(np.float64) - b.astype(np.float64), seed)


def mcnemar(a: Correct, b: Correct) -> float:
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


def compare(a: Correct, b: Correct, seed: int) -> Verdict:
    """Is model a right more often than b, both (S, N), paired by seed and image?"""
    interval = paired_interval(a, b, seed)
    by_seed = a.mean(axis=1) - b.mean(axis=1)  # (S,)
    # McNemar's p has no sign: two trainings that contradict each other may both have a small one.
    agree = bool((by_seed > 0).all() or (by_seed < 0).all())
    largest = max(mcnemar(*pair) for pair in zip(a, b, strict=True)) if agree else 1.0
    p = max(largest, paired_t(by_seed))
    return Verdict(float(by_seed.mean()), interval, largest, p, len(a))


def paired_t(differences: npt.NDArray[np.float64]) -> float:
    """Two-sided p-value that differences (S,), one a seed, have mean 0; 0 for a single seed.

    McNemar's test sees no more than one training. Of one seed nothing is known.
    """
    s = len(differences)
    if s == 1:
        return 0.0
    mean, deviation = differences.mean(), differences.std(ddof=1)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(s - 1, -abs(mean) / (deviation / np.sqrt(s))))


def words(verdict: Verdict, adjusted_mcnemar: float, adjusted_p: float) -> str:
    """The verdict as a phrase about the first model; both p-values after `holm`.

    Only here does the project call a model better or worse than another: of at least
    `MIN_SEEDS` trainings, and where seeds have passed a test of their own. Less
    allows no more than to say what was seen.
    """
    if not (verdict.interval.leaves_out(0) and adjusted_mcnemar < ALPHA):
        return NOTHING
    ahead = verdict.difference > 0
    if verdict.seeds >= MIN_SEEDS and adjusted_p < ALPHA:
        return BETTER if ahead else "worse"
    trainings = "one training" if verdict.seeds == 1 else f"each of {verdict.seeds} trainings"
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
