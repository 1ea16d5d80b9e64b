from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from evidences import KNN, NONE, N, evidence, with_controls
from matplotlib import pyplot

from rapipe.errors import UserError
from rapipe.evaluation.comparisons import _pairs, compare_strategies
from rapipe.evaluation.evidence import Stack
from rapipe.evaluation.learning_curves import area, first_step
from rapipe.evaluation.results import VoteBaseline
from rapipe.evaluation.statistics import Interval
from rapipe.report import baselines, counterfactuals, style
from rapipe.report.ablations import ablation_curves
from rapipe.report.accuracy import accuracy_table, clean_intervals
from rapipe.report.calibration import reliability, scores
from rapipe.report.claims import comparison_table, findings_of
from rapipe.report.heads import heads_table
from rapipe.report.leakage import accuracy_without
from rapipe.report.learning_curves import accuracy_by_step, efficiency
from rapipe.report.material import RateCurve
from rapipe.report.robustness import accuracy_over_noise, noise_augmentation
from rapipe.report.tables import Table
from rapipe.report.tuning import rates_figure
from rapipe.retrieval.strategies import STRATEGIES
from rapipe.training import tuner


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


def cells(table: Table) -> list[list[str]]:
    """The cells of its HTML, heads first."""
    lines = table.html().split("<tr")[1:]
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]


def test_table_gives_mean_and_sample_deviation_over_seeds_under_its_baselines() -> None:
    rows = [row("none", 0, 0.5), row("none", 1, 0.6), row("knn", 0, 0.7), row("none", 0, 0.4, 0.1)]
    intervals = {NONE: Interval(0.51, 0.59)}
    baseline = VoteBaseline("rank", 3, {0.0: 0.45, 0.1: 0.35}, "knn")
    lines = cells(accuracy_table(rows, intervals, [baseline]))
    assert lines[0][5:] == ["clean", "95 % interval", "clean, top-3", "noise 0.1"]
    nothing = "\N{EN DASH}"
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
    histories = {NONE: [slow, curve((5, 0.1), (9, 0.4))], KNN: [fast, curve((5, 0.6), (9, 0.6))]}
    two = replace(evidence(0.7, 0.6), histories=histories)
    lines = cells(efficiency(two))
    nothing = "\N{EN DASH}"
    assert lines[1][2:] == ["2", "0.350 ± 0.141", nothing, "9 (1 of 2 seeds)", "9 (1 of 2 seeds)"]
    assert lines[2][2:4] == ["2", "0.650 ± 0.071"]
    assert lines[2][4].startswith("+0.300 [")
    assert lines[2][5] == "5"
    first = {condition: seeds[:1] for condition, seeds in histories.items()}
    one = cells(efficiency(replace(two, histories=first)))
    assert one[2][4] == "+0.250 (one seed)"
    assert one[1][6] == "9"


def test_curves_over_k_only_where_several_were_run() -> None:
    one = [row("none", 0, 0.5), row("knn", 0, 0.6)]
    assert ablation_curves(one, "k") is None
    assert ablation_curves(one[:1], "k") is None
    figure = ablation_curves([*one, row("knn", 0, 0.7, k=8), row("knn", 1, 0.9, k=8)], "k")
    assert figure is not None
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "knn")
    assert line.get_xdata().tolist() == [4, 8]
    assert line.get_ydata().tolist() == pytest.approx([0.6, 0.8])
    assert ablation_curves([*one, row("knn", 0, 0.7, k=8)], "bank_size") is None


def test_pictures_are_the_same_bytes_again() -> None:
    def drawn() -> bytes:
        history = [{"step": 1.0, "epoch": 1.0, "test_top1_not_for_selection": 0.3}]
        figure = accuracy_by_step(replace(evidence(0.7, 0.6), histories={NONE: [history]}))
        assert figure is not None
        return style.png(figure)

    assert drawn() == drawn()


@pytest.mark.parametrize("names", [["knn", "sampled", "a", "b", "c"], STRATEGIES, "abcdef"])
def test_every_line_looks_like_no_other(names: Iterable[str]) -> None:
    look = style.looks(["none", *names])
    assert len({own["color"] for own in look.values()}) == len(look)
    assert len({own["marker"] for own in look.values()}) == len(look)


def test_a_strategy_looks_the_same_in_every_report() -> None:
    assert tuple(STRATEGIES) == style.STRATEGIES
    whole = style.looks(STRATEGIES)
    for name in STRATEGIES:
        assert style.looks(["other", name, "another"])[name] == whole[name]


@pytest.mark.parametrize("names", [["sampled", "knn", "hard"], ["hard", "knn", "sampled"]])
def test_every_strategy_is_compared_with_the_control_in_whatever_order(names: list[str]) -> None:
    pairs = set(_pairs(["none", *names]))
    expected = {(name, "none") for name in names}
    assert pairs == expected | {("knn", "sampled"), ("hard", "sampled")}


def test_a_fusion_that_does_not_beat_the_vote_is_told() -> None:
    for vote, beaten in ((0.9, True), (0.7, True), (0.2, False)):
        own = evidence(0.7, vote)
        said = findings_of(own, compare_strategies(own))
        assert ("not shown to beat that vote: clean, noise 0.2" in said) == beaten


@pytest.mark.parametrize(("seeds", "said"), [(1, False), (2, False), (3, True)])
def test_better_is_said_of_three_seeds_only(seeds: int, said: bool) -> None:
    own = evidence(0.7, 0.2, seeds)
    made = compare_strategies(own)
    assert any(claim.words == "better" for claim in made) == said
    table = comparison_table(made, "classifier").html()
    assert ("<td>better</td>" in table) == said
    mean = 0.2 + 0.1 * (seeds - 1) / 2
    short = findings_of(own, made)
    assert f"Reliance on its own neighbours (0 to 1): {mean:.3f} [" in short
    assert "the trained network itself changes by -25.0 [" in short
    if seeds == 1:
        assert "0.200 [0.200, 0.200]" in short  # all images alike


def test_the_table_of_graph_attention_has_its_four_rows() -> None:
    """Scratch, joint, frozen + graph, frozen + classic; by network, without neighbours first."""
    words = ("", "+graph", "+pretrained+frozen+graph", "+pretrained+frozen+attention")
    names = [*(f"net{w}" for w in words), "encoder", "encoder+frozen+attention+noise"]
    rows = [
        {**row(retrieval, seed, 0.1 * (1 + i) + 0.02 * seed), "backbone": name}
        for retrieval in ("knn", "none")
        for i, name in enumerate(names)
        for seed in (0, 1)
    ]
    lines = heads_table(rows).rows
    learning = ["scratch", "joint: graph attention", "frozen + graph attention"]
    learning.append("frozen + classic attention")
    assert [list(line[:3]) for line in lines[:8]] == [
        ["net", retrieval, words] for retrieval in ("none", "knn") for words in learning
    ]
    assert lines[2][3:] == ["pretrained here", "31.0 ± 1.4", "90.0 ± 0.0"]
    assert [line[0] for line in lines[8:]] == ["encoder", "encoder", *["encoder+noise"] * 2]
    assert lines[8][2:4] == ["fine-tuned", "the memory's encoder"]
    assert not heads_table([row for row in rows if row["backbone"] in ("net", "encoder")]).rows


def test_the_figure_of_the_finder_marks_the_rate_that_was_taken() -> None:
    rates = np.logspace(-6, 0, 90)
    losses = 2 - 1 / (1 + (0.003 / rates) ** 2) + np.where(rates > 0.3, 50 * rates, 0)
    rows = [{"learning_rate": r, "loss": y} for r, y in zip(rates, losses, strict=True)]
    taken = RateCurve(rows, tuner.steepest(rows))
    figure = rates_figure({NONE: [taken], KNN: [taken, RateCurve(rows, 0.1)]})
    assert figure is not None
    (axes,) = figure.axes
    dots = [line.get_xydata()[0] for line in axes.lines if len(line.get_xydata()) == 1]
    assert [x for x, _ in dots] == [taken.rate, taken.rate, 0.1]
    assert dots[0][1] == pytest.approx(1.5, abs=0.1), "on its curve"
    assert axes.get_ylim()[1] < 10, "where the loss explodes is cut off"
    assert rates_figure({}) is None


def test_intervals_of_counterfactuals_see_the_seeds() -> None:
    one, three = (
        counterfactuals.counterfactual_rows(evidence(0.7, 0.6, seeds)) for seeds in (1, 3)
    )
    for row in one:
        assert row["total_variation_low"] == row["total_variation_high"] == pytest.approx(0.2)
        assert row["low"] < row["change"] < row["high"]
    for row in three:
        assert row["seeds"] == 3
        assert (
            row["total_variation_high"] - row["total_variation_low"] > 0.3
        )  # seeds at .2, .3 and .4


def test_no_difference_is_called_one() -> None:
    own = evidence(0.5, 0.5, 3)
    made = compare_strategies(own)
    assert {claim.words for claim in made} == {"no difference shown"}
    assert {claim.verdict.difference for claim in made} == {0}


def test_what_is_compared() -> None:
    own = evidence(0.7, 0.6, noisy=True)
    made = compare_strategies(own)
    pairs = [(c.group, c.first, c.second) for c in made if c.noise_std == 0]
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
    assert noise_augmentation(own) is not None
    assert noise_augmentation(evidence(0.7, 0.6)) is None


def test_what_searches_is_compared_with_every_control() -> None:
    made = compare_strategies(with_controls())
    pairs = {(c.first, c.second) for c in made if c.group == "net"}
    of_encoder = ("the encoder fine-tuned", "the linear probe", "the encoder's vote")
    expected = {("self", "none"), ("self+knn", "knn")}
    for name in ("knn", "self+knn"):
        seconds = ("none", "self", "the best vote of knn", *of_encoder)
        expected |= {(name, second) for second in seconds}
    assert pairs == expected
    assert not [c for c in made if c.group == "encoder"]  # it has nothing that looks things up
    points = {(c.first, c.second): c.verdict.difference for c in made if c.noise_std == 0}
    assert points["knn", "self"] == pytest.approx(0.705 - 0.9)
    assert points["knn", "the linear probe"] == pytest.approx(0.705 - 0.6)
    assert points["self+knn", "the encoder fine-tuned"] == pytest.approx(0.72 - 0.95)


@pytest.mark.parametrize("order", [["self", "knn", "self+knn"], ["self+knn", "knn", "self"]])
def test_controls_are_second_in_whatever_order(order: list[str]) -> None:
    pairs = set(_pairs(["none", "sampled", *order, "the linear probe"]))
    expected = {(name, "none") for name in ("sampled", *order)}
    expected |= {(name, "sampled") for name in order}
    expected |= {("knn", "self"), ("self+knn", "self"), ("self+knn", "knn")}
    assert pairs == expected | {(name, "the linear probe") for name in ("knn", "self+knn")}


@pytest.mark.parametrize("key", ["encoder", "corpus", "train.label_fraction"])
def test_a_probe_of_something_else_is_compared_with_nothing(key: str) -> None:
    own = with_controls()
    probe = own.encoder_baselines["probe"]
    other = {"probe": probe._replace(setting={**probe.setting, key: "other"})}
    with pytest.raises(UserError, match=f"the linear probe, since they differ in {key}: train"):
        compare_strategies(replace(own, encoder_baselines=other))


def test_the_page_says_which_baselines_are_beaten() -> None:
    own = with_controls()
    said = findings_of(own, compare_strategies(own))
    beaten = said.partition("<b>net with knn</b>")[2].partition("<b>net with self+knn</b>")[0]
    sentences = (
        "Shown to beat: no neighbours, the best vote of knn, the linear probe, the encoder&#x27;s "
        "vote. Not shown to beat: its own vector (self), the encoder fine-tuned."
    )
    assert beaten.count(sentences) == 2
    assert "<b>Clean.</b> Shown" in beaten
    assert "<b>Noise 0.2.</b> Shown" in beaten
    assert "Against its own vector instead of neighbours: clean -19.5 [" in beaten
    assert "neighbours alone (knn)" in said.partition("<b>net with self+knn</b>")[2]
    one = with_controls(seeds=1)
    alone = findings_of(one, compare_strategies(one))
    assert "Shown to beat" not in alone.replace("Not shown", "not shown")
    assert "Ahead on these test images in every training, which is no claim yet: no " in alone
    assert "Not shown to beat: its own vector (self)" in alone


def test_the_table_of_baselines_has_each_of_them_at_every_level() -> None:
    lines = cells(baselines.table(with_controls()))
    assert lines[0] == ["classifier", "baseline", "clean", "noise 0.2"]
    assert [line[:2] for line in lines[1:]] == [
        ["the encoder", "linear probe (C = 1)"],
        ["the encoder", "vote (rank, k = 2)"],
        ["the encoder", "fine-tuned"],
        ["its neighbours", "the best vote of knn (rank, k = 3)"],
        ["net", "no neighbours"],
        ["net", "its own vector (self)"],
        ["net", "\N{RIGHTWARDS ARROW} knn"],
        ["net", "\N{RIGHTWARDS ARROW} self+knn"],
    ]
    for line in lines[1:]:
        for cell in line[2:]:
            top1, low, high = map(float, re.fullmatch(r"(.*) \[(.*), (.*)\]", cell).groups())  # type: ignore[union-attr]
            assert low <= top1 <= high
    assert lines[1][2].startswith("60.0 [")
    noisy = evidence(0.7, 0.6, noisy=True)
    assert ["net", "noise in training"] in [line[:2] for line in cells(baselines.table(noisy))]


def test_figures_show_an_own_vector_by_its_own_line() -> None:
    own = with_controls()
    figure = accuracy_over_noise(own)
    assert figure is not None
    labels = {line.get_label() for line in figure.axes[0].get_lines()}
    assert labels == {"none", "knn", "self", "self+knn", "vote of knn"}
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert styles["self"] != styles["knn"]
    assert [baseline.retrieval for baseline in own.vote_baselines()] == ["knn"]
    rows = [row("none", 0, 0.5), {**row("self", 0, 0.55), "k": 0, "bank_size": 0}]
    rows += [row("knn", 0, 0.6), row("knn", 0, 0.7, k=8)]
    curves = ablation_curves(rows, "k")
    assert curves is not None
    flat = {line.get_label(): line.get_ydata() for line in curves.axes[0].get_lines()}
    assert set(flat["self"]) == {0.55}


def test_accuracy_without_near_duplicates_leaves_them_out() -> None:
    own = evidence(0.7, 0.6)
    assert accuracy_without(own).html() == ""
    own.near_duplicates[: N // 2] = True  # of which every one is right
    low, high = clean_intervals(own)[KNN]
    assert low < 0.7 < high
    lines = cells(accuracy_without(own))[1:]
    assert lines == [
        ["no training", "best vote of knn", "20.0", "20.0"],
        ["net", "none", "0.0", "0.0"],
        ["net", "knn", "40.0", "40.0"],
    ]
    claim = next(c for c in compare_strategies(own) if (c.first, c.second) == ("knn", "none"))
    assert claim.without_near_duplicates == pytest.approx(0.4)
    assert claim.verdict.difference == pytest.approx(0.2)


def test_where_every_test_image_is_a_near_duplicate_nothing_is_said_of_the_rest() -> None:
    own = evidence(0.7, 0.6)
    own.near_duplicates[:] = True
    assert accuracy_without(own).html() == ""
    assert "nan" not in comparison_table(compare_strategies(own)).html()


def test_where_no_neighbour_votes_there_is_no_baseline() -> None:
    own = evidence(0.7, 0.6)
    own.stacks[KNN] = own.stacks[KNN]._replace(vote_correct=None)
    own.runs[KNN][0]["votes"].clear()
    made = compare_strategies(own)
    assert {c.second for c in made} == {"none"}
    assert "there is no vote to beat" in findings_of(own, made)
    assert own.vote_baselines() == []


def test_small_bins_are_no_line_and_no_mistake() -> None:
    own = evidence(0.7, 0.6)
    few = {
        key: Stack(*(v if v is None else v[..., :8] for v in s)) for key, s in own.stacks.items()
    }
    assert reliability(replace(own, stacks=few)) is not None


def test_matrix_and_baselines_hold_what_was_measured() -> None:
    own = evidence(0.7, 0.6)
    [baseline] = own.vote_baselines()
    assert (baseline.retrieval, baseline.vote, baseline.k) == ("knn", "rank", 3)
    assert baseline.top1 == {0.0: 0.6, 0.2: 0.6}
    figure = counterfactuals.matrix(own)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["50.0"] * 4


def test_calibration_table_has_what_a_score_that_knows_nothing_has() -> None:
    own = evidence(0.7, 0.6)
    lines = {(line[1], line[2]): line[3:] for line in cells(scores(own))[1:]}
    assert lines["knn", "errors when all are answered"] == ["0.300", "0.300"]
    for name in ("softmax", "similarity", "vote entropy"):  # random here
        assert float(lines["knn", f"AURC by {name}"][0]) == pytest.approx(0.3, abs=0.06)
    assert ("none", "AURC by similarity") not in lines


def test_counterfactuals_have_a_row_of_panels_for_each_noise_level() -> None:
    facts = {"retrieval": "knn", "swap": "knn", "top1": 0.5, "change": 0.0, "low": 0.0, "high": 0.0}
    rows = [
        {"backbone": name, "noise_std": std, **facts} for name in ("a", "b") for std in (0.0, 0.2)
    ]
    own = evidence(0.7, 0.6)
    own.counterfactuals[KNN][0.2, "knn"] = own.counterfactuals[KNN][0.0, "knn"]
    figure = counterfactuals.draw_dots(own, rows, "title", "label")
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a, clean", "b, clean", "a, noise 0.2", "b, noise 0.2"]
