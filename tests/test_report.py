from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot

from rapipe.evaluation.comparisons import _pairs, claims
from rapipe.evaluation.evidence import CounterfactualStack, Evidence, Stack
from rapipe.evaluation.learning_curves import area, first_step
from rapipe.records import OTHER_IMAGE
from rapipe.report import counterfactuals, curves, style, tables, trust
from rapipe.report.claims import (
    baseline_lines,
    claims_table,
    clean_intervals,
    findings,
    four_cells,
    lookalikes_table,
)
from rapipe.report.learning_curves import table
from rapipe.report.page import page
from rapipe.retrieval.strategies import STRATEGIES


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open for the tests to come."""
    yield
    pyplot.close("all")


def row(retrieval: str, seed: int, top1: float, noise: float = 0.0, k: int = 4) -> dict:
    plain = retrieval == "none"
    return {
        "backbone": "net",
        "retrieval": retrieval,
        "k": 0 if plain else k,
        "bank_size": 0 if plain else 100,
        "seed": seed,
        "noise_std": noise,
        "top1": top1,
        "top3": 0.9,
    }


def cells(table: str) -> list[list[str]]:
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in table.split("<tr")[1:]]


def test_table_gives_mean_and_sample_deviation_over_seeds_under_its_floors() -> None:
    rows = [row("none", 0, 0.5), row("none", 1, 0.6), row("knn", 0, 0.7), row("none", 0, 0.4, 0.1)]
    intervals = {("net", "none", 0, 0): (0.51, 0.59)}
    floor = tables.VoteBaseline("knn", "rank", 3, {0.0: 0.45, 0.1: 0.35})
    lines = cells(tables.table(rows, intervals, [floor]))
    assert lines[0][5:] == ["clean", "95 % interval", "clean, top-3", "noise 0.1"]
    nothing = "&ndash;"
    assert lines[1][1:] == ["knn: rank vote", "3", nothing, nothing, "45.0", *[nothing] * 2, "35.0"]
    assert lines[2][4:] == ["2", "55.0 ± 7.1", "51.0, 59.0", "90.0 ± 0.0", "40.0"]
    assert lines[3][4:] == ["1", "70.0", nothing, "90.0", nothing]


def curve(*points: tuple[int, float]) -> list[dict[str, float]]:
    return [
        {"step": step, "images_seen": 10 * step, "test_top1_not_for_selection": accuracy}
        for step, accuracy in points
    ]


def test_sample_efficiency_in_numbers() -> None:
    slow, fast = curve((5, 0.1), (9, 0.8)), curve((5, 0.6), (9, 0.8))
    assert first_step(slow, 0.8) == 9
    assert first_step(slow[:1], 0.8) is None
    assert area(slow) == pytest.approx(0.45)
    histories = {
        ("net", "none"): [slow, curve((5, 0.1), (9, 0.4))],
        ("net", "knn"): [fast, curve((5, 0.6), (9, 0.6))],
    }
    lines = cells(table(histories, 0))
    assert lines[1][2:] == ["2", "0.350 ± 0.141", "&ndash;", "9 (1 of 2 seeds)", "9 (1 of 2 seeds)"]
    assert lines[2][2:4] == ["2", "0.650 ± 0.071"]
    assert lines[2][4].startswith("+0.300 [")
    assert lines[2][5] == "5"
    one = cells(table({key: own[:1] for key, own in histories.items()}, 0))
    assert one[2][4] == "+0.250 (one seed)"
    assert one[1][6] == "9"


def test_curves_over_k_only_where_several_were_run() -> None:
    one = [row("none", 0, 0.5), row("knn", 0, 0.6)]
    assert curves.ablation_curves(one, "k") is None
    assert curves.ablation_curves(one[:1], "k") is None
    figure = curves.ablation_curves([*one, row("knn", 0, 0.7, k=8), row("knn", 1, 0.9, k=8)], "k")
    assert figure is not None
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "knn")
    assert line.get_xdata().tolist() == [4, 8]
    assert line.get_ydata().tolist() == pytest.approx([0.6, 0.8])
    assert curves.ablation_curves([*one, row("knn", 0, 0.7, k=8)], "bank_size") is None


def test_pictures_are_the_same_bytes_again() -> None:
    def drawn() -> bytes:
        history = [[{"step": 1.0, "epoch": 1.0, "test_top1_not_for_selection": 0.3}]]
        figure = curves.accuracy_curves({("net", "none"): history}, "step")
        return style.png(figure)

    assert drawn() == drawn()


def test_names_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    rows = [{**row("knn", 0, 0.5), "backbone": evil, "retrieval": evil}]
    floors = [tables.VoteBaseline(evil, "rank", 1, {0.0: 0.1})]
    made = page(evil, [(evil, "", tables.table(rows, {}, floors)), (evil, "", b"png")])
    assert "<script" not in made


@pytest.mark.parametrize("names", [["knn", "sampled", "a", "b", "c"], STRATEGIES, "abcdef"])
def test_every_line_looks_like_no_other(names: Iterable[str]) -> None:
    look = style.looks(["none", *names])
    assert len({own["color"] for own in look.values()}) == len(look)
    assert len({own["marker"] for own in look.values()}) == len(look)


def test_a_strategy_looks_the_same_in_every_report() -> None:
    assert tuple(STRATEGIES) == style.PLACES
    whole = style.looks(STRATEGIES)
    for name in STRATEGIES:
        assert style.looks(["other", name, "another"])[name] == whole[name]


@pytest.mark.parametrize("names", [["sampled", "knn", "hard"], ["hard", "knn", "sampled"]])
def test_every_strategy_is_compared_with_the_control_in_whatever_order(names: list[str]) -> None:
    pairs = set(_pairs(["none", *names]))
    expected = {(name, "none") for name in names}
    assert pairs == expected | {("knn", "sampled"), ("hard", "sampled")}


N = 400


def evidence(knn: float, vote: float, seeds: int = 1, noisy: bool = False) -> Evidence:
    """A network right for .5 of the images without neighbours; with knn, and its vote, as given.

    Later seeds are right for a few images more or less.
    """

    def right(share: float) -> np.ndarray:
        own = [np.arange(N) < share * N + 2 * seed for seed in range(seeds)]
        return np.broadcast_to(np.stack(own)[:, None], (seeds, 2, N))

    def stack(share: float, looking: bool) -> Stack:
        certain = np.random.default_rng(0).random((seeds, 2, N)).astype(np.float32)
        extra = (certain, certain, right(vote), right(share)) if looking else (None,) * 4
        return Stack(right(share), certain, *extra)

    def run() -> dict:
        return {
            "rows": [{"ece": 0.1, "retrieval": "knn"}, {"ece": 0.2}],
            "votes": [
                {"noise_std": std, "vote": "rank", "k": 3, "validation_top1": 0.5, "top1": vote}
                for std in (0.0, 0.2)
            ],
            "drift": [],
        }

    def swap(name: str) -> CounterfactualStack:
        kept = {"change": -0.25, "flips": 0.25, "kl": 0.1, "follows": None, "top1": 0.5}
        rows = [{"noise_std": 0.0, "swap": name, "moved": 0.2, **kept} for _ in range(seeds)]
        moved = np.stack([np.full(N, 0.2 + 0.1 * seed, np.float32) for seed in range(seeds)])
        return CounterfactualStack(
            rows, np.where(np.arange(N) % 4, 0.0, -1.0) * np.ones((seeds, 1)), moved
        )

    shares = {"none": 0.5, "knn": knn}
    stacks = {("net", name): stack(share, name == "knn") for name, share in shares.items()}
    if noisy:
        stacks |= {("net+noise", name): stack(0.9, name == "knn") for name in shares}
    swapped_ = {
        key: {(0.0, name): swap(name) for name in ("none", "knn", OTHER_IMAGE)}
        if key[1] == "knn"
        else {}
        for key in stacks
    }
    runs = {key: [run()] * seeds for key in stacks}
    alike = np.zeros(N, bool)
    return Evidence((0.0, 0.2), np.arange(N), stacks, runs, swapped_, {}, alike, 0)


def test_a_fusion_that_does_not_beat_the_vote_is_told() -> None:
    for vote, beaten in ((0.9, True), (0.7, True), (0.2, False)):
        own = evidence(0.7, vote)
        said = findings(own, claims(own))
        assert ("not shown to beat that vote: clean, noise 0.2" in said) == beaten


@pytest.mark.parametrize(("seeds", "said"), [(1, False), (2, False), (3, True)])
def test_better_is_said_of_three_seeds_only(seeds: int, said: bool) -> None:
    own = evidence(0.7, 0.2, seeds)
    made = claims(own)
    assert any(claim.words == "better" for claim in made) == said
    table = claims_table(made)
    assert ("<td>better</td>" in table) == said
    mean = 0.2 + 0.1 * (seeds - 1) / 2
    short = findings(own, made)
    assert f"Reliance on its own neighbours (0 to 1): {mean:.3f} [" in short
    assert "the trained network itself changes by -25.0 [" in short
    if seeds == 1:
        assert "0.200 [0.200, 0.200]" in short  # all images alike


def test_intervals_of_swaps_see_the_seeds() -> None:
    one, three = (counterfactuals.swap_rows(evidence(0.7, 0.6, seeds)) for seeds in (1, 3))
    for row in one:
        assert row["moved_low"] == row["moved_high"] == pytest.approx(0.2)
        assert row["low"] < row["change"] < row["high"]
    for row in three:
        assert row["seeds"] == 3
        assert row["moved_high"] - row["moved_low"] > 0.3  # seeds at .2, .3 and .4


def test_no_difference_is_called_one() -> None:
    own = evidence(0.5, 0.5, 3)
    made = claims(own)
    assert {claim.words for claim in made} == {"no difference shown"}
    assert {claim.verdict.difference for claim in made} == {0}


def test_what_is_compared() -> None:
    own = evidence(0.7, 0.6, noisy=True)
    made = claims(own)
    pairs = [(c.backbone, c.first, c.second) for c in made if c.noise_std == 0]
    assert pairs == [
        ("net", "knn", "none"),
        ("net", "none, noise in training", "none"),
        ("net", "knn", "the best vote of knn"),
        ("net", "knn", "none, noise in training"),
        ("net+noise", "knn", "none"),
        ("net+noise", "knn", "the best vote of knn"),
    ]
    against_noise = next(c for c in made if c.second == "none, noise in training")
    assert against_noise.verdict.difference == pytest.approx(-0.2)
    assert four_cells(own) is not None
    assert four_cells(evidence(0.7, 0.6)) is None


def test_accuracy_without_lookalikes_leaves_them_out() -> None:
    own = evidence(0.7, 0.6)
    assert lookalikes_table(own) == ""
    own.lookalikes[: N // 2] = True  # of which every one is right
    low, high = clean_intervals(own)["net", "knn"]
    assert low < 0.7 < high
    lines = cells(lookalikes_table(own))[1:]
    assert lines == [
        ["no training", "best vote of knn", "20.0", "20.0"],
        ["net", "none", "0.0", "0.0"],
        ["net", "knn", "40.0", "40.0"],
    ]
    claim = next(c for c in claims(own) if (c.first, c.second) == ("knn", "none"))
    assert claim.without == pytest.approx(0.4)
    assert claim.verdict.difference == pytest.approx(0.2)


def test_where_every_test_image_has_a_lookalike_nothing_is_said_of_the_rest() -> None:
    own = evidence(0.7, 0.6)
    own.lookalikes[:] = True
    assert lookalikes_table(own) == ""
    assert "nan" not in claims_table(claims(own))


def test_where_nobody_votes_there_is_no_floor() -> None:
    own = evidence(0.7, 0.6)
    own.stacks["net", "knn"] = own.stacks["net", "knn"]._replace(voted=None)
    own.runs["net", "knn"][0]["votes"].clear()
    made = claims(own)
    assert {c.second for c in made} == {"none"}
    assert "there is no vote to beat" in findings(own, made)
    assert baseline_lines(own) == []


def test_small_bins_are_no_line_and_no_mistake() -> None:
    own = evidence(0.7, 0.6)
    few = {
        key: Stack(*(v if v is None else v[..., :8] for v in s)) for key, s in own.stacks.items()
    }
    assert trust.reliability_figure(replace(own, stacks=few)) is not None


def test_matrix_and_floors_hold_what_was_measured() -> None:
    own = evidence(0.7, 0.6)
    [floor] = baseline_lines(own)
    assert (floor.retrieval, floor.vote, floor.k) == ("knn", "rank", 3)
    assert floor.top1 == {0.0: 0.6, 0.2: 0.6}
    figure = counterfactuals.matrix_figure(own)
    assert [text.get_text() for text in figure.axes[0].texts] == ["50.0"] * 4


def test_trust_table_has_what_a_score_that_knows_nothing_has() -> None:
    own = evidence(0.7, 0.6)
    lines = {(line[1], line[2]): line[3:] for line in cells(trust.trust_table(own))[1:]}
    assert lines["knn", "errors when all are answered"] == ["0.300", "0.300"]
    for name in ("softmax", "similarity", "vote entropy"):  # random here
        assert float(lines["knn", f"AURC by {name}"][0]) == pytest.approx(0.3, abs=0.06)
    assert ("none", "AURC by similarity") not in lines


def test_swaps_have_a_row_of_panels_for_each_noise_level() -> None:
    kept = {"retrieval": "knn", "swap": "knn", "top1": 0.5, "change": 0.0, "low": 0.0, "high": 0.0}
    rows = [
        {"backbone": name, "noise_std": std, **kept} for name in ("a", "b") for std in (0.0, 0.2)
    ]
    own = evidence(0.7, 0.6)
    own.swapped["net", "knn"][0.2, "knn"] = own.swapped["net", "knn"][0.0, "knn"]
    figure = counterfactuals.swap_figure(own, rows)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a, clean", "b, clean", "a, noise 0.2", "b, noise 0.2"]
