"""Intervals and tests against scipy, simulations and examples counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rapipe.evaluation import statistics
from rapipe.evaluation.statistics import Interval, Verdict


def answers(seeds: int, n: int, accuracy: float, rng: int = 0) -> np.ndarray:
    """Right or wrong (S, N), images being hard or easy for all seeds alike."""
    made = np.random.default_rng(rng)
    hard = made.normal(0, 0.3, n)
    return made.random((seeds, n)) < accuracy + hard


def said(verdict: Verdict) -> str:
    """What a lone comparison, which needs no correction, may be called."""
    return statistics.words(verdict, verdict.mcnemar, verdict.p)


def by_loop(values: np.ndarray, draws: int = 2000) -> Interval:
    """The bootstrap spelled out: draw columns, draw rows, average the table they cut out.

    What the rows add is stretched by scipy's quantiles.
    """
    from scipy.stats import norm, t

    rng = np.random.default_rng(99)
    s, n = values.shape
    wider = np.sqrt(s / (s - 1)) * t.ppf(0.975, s - 1) / norm.ppf(0.975)
    means = []
    for _ in range(draws):
        table = values[:, rng.integers(n, size=n)]
        means.append(table.mean() + wider * (table[rng.integers(s, size=s)].mean() - table.mean()))
    return Interval(*np.quantile(means, [0.025, 0.975]).tolist())


def test_interval_of_one_seed_against_scipy() -> None:
    from scipy.stats import bootstrap

    values = answers(1, 500, 0.7)
    theirs = bootstrap(
        (values[0],), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert statistics.interval_of_mean(values, 0) == pytest.approx(theirs, abs=0.005)


@pytest.mark.parametrize("kind", ["answers", "numbers"])
def test_interval_of_seeds_against_a_loop(kind: str) -> None:
    values = answers(4, 300, 0.7)
    if kind == "numbers":  # no two images alike
        values = values + np.random.default_rng(1).random(values.shape)
    values = values + np.array([[0], [0.05], [0.1], [0.15]])  # seeds that differ
    assert statistics.interval_of_mean(values, 0) == pytest.approx(by_loop(values), abs=0.03)


def test_interval_does_not_depend_on_the_order_of_images_or_on_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = answers(3, 200, 0.7)
    whole = statistics.interval_of_mean(values, 5)
    assert statistics.interval_of_mean(values, 5) == whole
    assert statistics.interval_of_mean(values, 6) != whole
    shuffled = values[:, np.random.default_rng(0).permutation(200)]
    assert statistics.interval_of_mean(shuffled, 5) == whole
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 1000)
    assert statistics.interval_of_mean(values, 5) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize(("seeds", "sd"), [(1, 0), (3, 0.01), (3, 0.2), (5, 0.2)])
def test_interval_holds_the_truth_19_times_in_20(
    monkeypatch: pytest.MonkeyPatch, seeds: int, sd: float
) -> None:
    """Also where trainings differ far more (sd .2) than a choice of images (.03) matters."""
    monkeypatch.setattr(statistics, "DRAWS", 400)
    rng = np.random.default_rng(0)
    held = 0
    for number in range(300):
        image = rng.normal(0, 0.3, (1, 100))
        values = image + rng.normal(0, sd, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 100))
        held += not statistics.interval_of_mean(values, number).leaves_out(0)
    assert held / 300 >= 0.92
    assert held < 300


def test_equal_methods_whose_seeds_differ_are_seldom_called_better_or_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With so many images McNemar's test alone would call nearly every pair different."""
    monkeypatch.setattr(statistics, "DRAWS", 200)
    rng = np.random.default_rng(0)
    called = by_mcnemar = 0
    for number in range(200):
        accuracy = rng.normal(0.7, 0.05, (2, 3, 1))
        a, b = rng.random((2, 3, 4000)) < accuracy
        verdict = statistics.compare(a, b, number)
        called += said(verdict) in ("better", "worse")
        by_mcnemar += statistics.mcnemar(a[0], b[0]) < 0.05
    assert by_mcnemar > 100
    assert called <= 14  # 5 % would be 10


def test_paired_t_against_scipy() -> None:
    from scipy.stats import ttest_1samp

    differences = np.array([0.1, 0.15, 0.02, 0.2])
    assert statistics.paired_t(differences) == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert statistics.paired_t(np.array([0.1, 0.1])) == 0
    assert statistics.paired_t(np.zeros(3)) == 1
    assert statistics.paired_t(np.array([0.1])) == 0  # of one seed nothing is known


def test_interval_sees_seeds_as_well_as_images() -> None:
    always, never = np.ones((1, 50)), np.zeros((1, 50))
    assert statistics.interval_of_mean(always, 0) == (1, 1)
    # All images agree, so that only the seeds can move the mean: from 0 to 1, stretched.
    half = statistics.stretched(2) / 2
    both = statistics.interval_of_mean(np.concatenate([always, never]), 0)
    assert both == pytest.approx((0.5 - half, 0.5 + half))


def test_many_kinds_of_image_are_drawn_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((3, 200))
    images = statistics.interval_of_mean(values, 0)
    monkeypatch.setattr(statistics, "FEW_KINDS", 1000)
    assert statistics.interval_of_mean(values, 0) == pytest.approx(images, abs=0.01)


def test_paired_interval() -> None:
    a, b = answers(3, 400, 0.8), answers(3, 400, 0.7)
    assert statistics.paired_interval(a, a, 0) == (0, 0)
    ahead, behind = statistics.paired_interval(a, b, 0), statistics.paired_interval(b, a, 0)
    assert ahead.low < (a.mean() - b.mean()) < ahead.high
    assert ahead == pytest.approx((-behind.high, -behind.low), abs=0.008)
    # The two share hard images, so that pairing tells more than two intervals side by side.
    alone = statistics.interval_of_mean(a, 0)
    assert ahead.high - ahead.low < (alone.high - alone.low) * np.sqrt(2)


@pytest.mark.parametrize("shapes", [((2, 5), (1, 5)), ((5,), (5,)), ((2, 0), (2, 0))])
def test_tables_that_do_not_pair_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (np.ones(shape, bool) for shape in shapes)
    with pytest.raises(ValueError, match="of one shape"):
        statistics.compare(a, b, 0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 6), (6, 0), (3, 9), (7, 7), (1, 0), (90, 140)])
def test_mcnemar_against_scipy(only_a: int, only_b: int) -> None:
    from scipy.stats import binomtest

    both = 20
    a = np.array([True] * (both + only_a) + [False] * only_b)
    b = np.array([True] * both + [False] * only_a + [True] * only_b)
    expected = binomtest(only_a, only_a + only_b).pvalue
    assert statistics.mcnemar(a, b) == pytest.approx(expected)
    assert statistics.mcnemar(b, a) == statistics.mcnemar(a, b)


def test_mcnemar_at_its_ends() -> None:
    a = np.arange(20_000) % 2 == 0
    assert statistics.mcnemar(a, a) == 1
    assert statistics.mcnemar(a, ~a) == 1
    assert statistics.mcnemar(a, np.zeros_like(a)) == 0  # 2**-9999 is less than any float


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([0.2]) == [0.2]
    assert statistics.holm([]) == []


def test_holm_rejects_what_stepping_down_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 4
        rejected = np.zeros(6, bool)
        for rank, index in enumerate(np.argsort(p)):
            if p[index] >= 0.05 / (6 - rank):
                break
            rejected[index] = True
        adjusted = np.array(statistics.holm(p.tolist()))
        assert ((adjusted < 0.05) == rejected).all()
        assert (adjusted >= p).all()
        assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
        assert statistics.holm(p[::-1].tolist()) == adjusted[::-1].tolist()


def test_compare_takes_the_largest_p() -> None:
    b = answers(3, 400, 0.6)
    a = b.copy()
    for row, gained in enumerate((9, 10, 12)):  # in each training, some wrong answers are mended
        a[row, np.flatnonzero(~b[row])[:gained]] = True
    verdict = statistics.compare(a, b, 0)
    assert verdict.difference == pytest.approx(31 / 1200)
    assert statistics.mcnemar(a[0], b[0]) == 2 / 2**9
    over_seeds = statistics.paired_t(np.array([9, 10, 12]) / 400)
    assert verdict.p == pytest.approx(over_seeds)
    assert over_seeds > 2 / 2**9
    assert statistics.compare(a[:1], b[:1], 0).p == 2 / 2**9
    assert verdict.seeds == 3
    assert verdict.interval == statistics.paired_interval(a, b, 0)
    assert verdict.mcnemar == 2 / 2**9
    assert said(verdict) == "better"
    assert said(statistics.compare(b, a, 0)) == "worse"


def test_trainings_that_contradict_each_other_show_nothing() -> None:
    a, b = np.zeros((8, 100), bool), np.zeros((8, 100), bool)
    a[:7], b[7, :20] = True, True  # each training alone is significant, one the other way
    verdict = statistics.compare(a, b, 0)
    assert verdict.interval.low > 0
    assert verdict.p == 1
    assert said(verdict) == "no difference shown"


def test_a_model_does_not_differ_from_itself() -> None:
    a = answers(3, 100, 0.7)
    verdict = statistics.compare(a, a, 0)
    assert verdict == (0, (0, 0), 1, 1, 3)
    assert said(verdict) == "no difference shown"


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("interval", [(0.01, 0.03), (-0.01, 0.03), (0, 0.03), (-0.03, -0.01)])
@pytest.mark.parametrize("mcnemar", [0.001, 0.05, 0.5, float("nan")])
@pytest.mark.parametrize("p", [0.001, 0.05, float("nan")])
def test_words_claim_only_what_all_tests_and_three_seeds_show(
    seeds: int, interval: tuple[float, float], mcnemar: float, p: float
) -> None:
    middle = sum(interval) / 2
    phrase = said(Verdict(middle, Interval(*interval), mcnemar, p, seeds))
    if mcnemar != 0.001 or interval[0] * interval[1] <= 0:
        assert phrase == "no difference shown"
    elif seeds < 3 or p != 0.001:
        where = "one training" if seeds == 1 else f"each of {seeds} trainings"
        how_many = "more" if middle > 0 else "fewer"
        assert phrase == f"right for {how_many} of these test images, in {where}"
    else:
        assert phrase == ("better" if middle > 0 else "worse")


def test_area_under_accuracy() -> None:
    from sklearn.metrics import auc

    assert statistics.area_under_accuracy([100, 200, 400], [0.5, 0.7, 0.9]) == pytest.approx(
        (0.6 * 100 + 0.8 * 200) / 300
    )
    seen, accuracy = [1, 3, 4, 9, 20], [0.1, 0.5, 0.4, 0.8, 0.7]
    expected = auc(seen, accuracy) / 19
    assert statistics.area_under_accuracy(seen, accuracy) == pytest.approx(expected)
    assert statistics.area_under_accuracy([7, 8, 30], [0.3] * 3) == pytest.approx(0.3)
    assert statistics.area_under_accuracy([100], [0.4]) == 0.4


@pytest.mark.parametrize(
    ("seen", "accuracy", "message"),
    [([], [], "0 accuracies"), ([1, 2], [0.5], "at 2 points"), ([2, 2], [0.1, 0.2], "must rise")],
)
def test_curves_that_are_none_are_refused(
    seen: list[float], accuracy: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.area_under_accuracy(seen, accuracy)
