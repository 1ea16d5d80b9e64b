"""The page: its verdicts, its structure, and its summary for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from evidences import KNN, NONE, N, evidence, with_controls
from matplotlib import pyplot
from typer.testing import CliRunner

from rapipe import paths
from rapipe.cli import app
from rapipe.config.schema import Params
from rapipe.evaluation.comparisons import compare_backbones, compare_strategies
from rapipe.evaluation.evidence import Evidence, Stack
from rapipe.evaluation.results import Condition
from rapipe.report.forest import _forest
from rapipe.report.headline import headline, narrow_headline
from rapipe.report.markdown import summary_of
from rapipe.report.plain_cards import plain_cards
from rapipe.report.sections import SECTIONS
from rapipe.report.verdicts import Card, Finding, answer, cards
from tests.faults.images import check_page


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open for the tests to come."""
    yield
    pyplot.close("all")


LARGEST = 2_500_000
"""Bytes of a page."""


def card_of(own: Evidence) -> Card:
    [card] = cards(own, compare_strategies(own))
    return card


def verdicts_of(own: Evidence) -> list[tuple[str, str, str]]:
    return [(f.shift, f.verdict, f.points) for f in card_of(own).findings]


def shifted(clean: float, noisy: float, seeds: int = 3) -> Evidence:
    """The network right for .5 without neighbours; with them for these shares."""
    own = evidence(clean, 0.2, seeds)
    correct = np.array(own.stacks[KNN].correct)
    correct[:, 1] = np.arange(N) < noisy * N
    stacks = {**own.stacks, KNN: own.stacks[KNN]._replace(correct=correct)}
    return replace(own, stacks=stacks)


def with_corruptions(own: Evidence, plain: Sequence[float], knn: Sequence[float]) -> Evidence:
    """With the accuracy on fog and on blur of every seed."""
    for condition, top1 in ((NONE, plain), (KNN, knn)):
        for run in own.runs[condition]:
            run["corruptions"] = [
                {"corruption": name, "severity": 3, "top1": share}
                for name, share in zip(("fog", "blur"), top1, strict=True)
            ]
    return own


@pytest.mark.parametrize(
    ("knn", "verdict", "points"),
    [(0.7, "better", "+20.0"), (0.5, "not shown", "+0.0"), (0.3, "worse", "-20.0")],
)
def test_a_card_says_better_not_shown_or_worse(knn: float, verdict: str, points: str) -> None:
    own = evidence(knn, 0.2, seeds=3)
    assert verdicts_of(own) == [("clean", verdict, points), ("noise 0.2", verdict, points)]
    said = f"{verdict} ({points} points)"
    line = f"Clean: {said}; noise 0.2: {said}; 3 seeds."
    assert card_of(own).line == line


def test_a_card_says_it_of_each_shift() -> None:
    own = with_corruptions(shifted(0.7, 0.3), (0.6, 0.5), (0.7, 0.3))
    assert verdicts_of(own) == [
        ("clean", "better", "+20.0"),
        ("noise 0.2", "worse", "-20.5"),
        ("2 corruptions", "not tested", "-5.0"),
    ]
    found = card_of(own).findings
    assert found[2].interval == "-5.0, -5.0"  # of seeds that agree
    low, high = map(float, found[0].interval.split(", "))
    assert low < 20 < high
    assert "Less accurate than without neighbours under blur:3 (-20.0)." in card_of(own).against
    assert answer(cards(own, compare_strategies(own))) == (
        "Of 1 classifier with neighbours instead of none: clean, 1 better, 0 worse, 0 not shown; "
        "noise 0.2, 0 better, 1 worse, 0 not shown."
    )


@pytest.mark.parametrize(("seeds", "seen"), [(1, "in one training"), (2, "in each of 2 trainings")])
def test_a_card_claims_nothing_of_few_seeds(seeds: int, seen: str) -> None:
    own = with_corruptions(shifted(0.7, 0.3, seeds), (0.6, 0.5), (0.7, 0.3))
    clean, noisy, corrupted = card_of(own).findings
    assert (clean.verdict, clean.seen) == ("not shown", f"ahead {seen}")
    assert (noisy.verdict, noisy.seen) == ("not shown", f"behind {seen}")
    assert corrupted.interval == ""


def test_verdicts_are_those_of_the_claims() -> None:
    own = with_controls()
    comparisons = compare_strategies(own)
    for card in cards(own, comparisons):
        words = [
            c.words
            for c in comparisons
            if (c.group, c.first, c.second) == (card.backbone, card.strategy, "none")
        ]
        assert [finding.verdict for finding in card.findings] == words == ["better"] * 2


def test_a_card_says_what_speaks_against_it() -> None:
    own = with_controls()
    knn, beside = cards(own, compare_strategies(own))
    assert (knn.strategy, beside.strategy) == ("knn", "self+knn")
    worse = "worse than the encoder fine-tuned -24.5, its own vector (self) -19.5."
    assert knn.against == [f"Clean: {worse}", f"Noise 0.2: {worse}"]
    weak = with_controls(seeds=1)
    assert (
        "Clean: behind the encoder fine-tuned"
        in cards(weak, compare_strategies(weak))[0].against[0]
    )
    own.near_duplicates[N // 2 : round(0.7 * N)] = True  # of which neighbours alone have most right
    [lost] = [s for s in cards(own, compare_strategies(own))[0].against if "near duplicates" in s][
        :1
    ]
    assert re.fullmatch(
        r"Clean: without near duplicates of the memory \+\d\.\d is left of \+20\.0\.", lost
    )
    for stack in own.counterfactuals[KNN].values():
        stack.total_variation[:] = 0.01
    assert "hardly uses its neighbours" in cards(own, compare_strategies(own))[0].against[-1]


def test_cards_without_retrieval_compare_every_two() -> None:
    own = evidence(0.7, 0.6, seeds=3)
    stacks = {
        Condition(name, "none"): Stack(np.broadcast_to(np.arange(N) < share * N, (3, 2, N)))
        for name, share in (("low", 0.4), ("high", 0.8), ("same", 0.8))
    }
    runs = dict.fromkeys(stacks, own.runs[NONE])
    own = replace(own, stacks=stacks, runs=runs, counterfactuals={})
    low, high, same = plain_cards(own, compare_backbones(own))
    assert [f.verdict for f in low.findings] == ["worse than 2 of 2"] * 2
    assert [f.verdict for f in high.findings] == ["better than 1 of 2"] * 2
    assert low.against[0] == "Clean: worse than high -40.0, same -40.0."
    assert same.against[0] == "Clean: no difference shown from high +0.0."
    assert low.line == "Clean: 40.0 %; noise 0.2: 40.0 %; 3 seeds."
    one = replace(own, stacks={key: own.stacks[key] for key in list(stacks)[:1]})
    [alone] = plain_cards(one, compare_backbones(one))
    assert [f.verdict for f in alone.findings] == ["", ""]


def test_the_headline_has_a_panel_a_shift() -> None:
    own = with_corruptions(evidence(0.7, 0.6, seeds=3), (0.6, 0.5), (0.7, 0.3))
    for draw in (headline, narrow_headline):
        figure = draw(own)
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["clean", "noise 0.2", "2 corruptions, mean"]
        dots = [bars.lines[0].get_xydata()[0][0] for bars in figure.axes[0].containers]
        assert dots == pytest.approx([50.5, 70.5])
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ["without neighbours", "with knn"]


def test_the_forest_leaves_hollow_what_is_not_shown() -> None:
    [better] = compare_strategies(evidence(0.7, 0.7, 3))[:1]
    figure = _forest({"net, knn": {"a": [better]}}, "title")
    assert figure is not None
    [bars] = figure.axes[0].containers
    assert bars.lines[0].get_xydata()[0][0] == pytest.approx(20)
    assert bars.lines[0].get_markerfacecolor() != "white"
    [open_] = compare_strategies(evidence(0.5, 0.5, 3))[:1]
    hollow = _forest({"net, knn": {"a": [open_]}}, "title")
    assert hollow is not None
    assert hollow.axes[0].containers[0].lines[0].get_markerfacecolor() == "white"
    assert _forest({}, "title") is None


def sections_of(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="([\w-]+)">(.*?)</section>', page, re.DOTALL))


def test_each_section_opens_with_a_figure_and_two_sentences(in_tiny: Params) -> None:
    page = re.sub(r"data:image[^\"]+", "data:", paths.PAGE.read_text())
    sections = sections_of(page)
    labels = [section.label.lower().replace(" ", "-") for section in SECTIONS]
    assert [name for name in labels if name in sections] == list(sections)
    assert set(labels) - set(sections) == {"ablations", "generated-images"}  # there are none
    for name, section in sections.items():
        shown, _, folded = section.partition("<details>")
        assert re.match(r"<h2>[^<]+</h2><figure>", shown), name
        [lead] = re.findall(r"<p[^>]*>(.*?)</p>", shown)
        assert 1 <= len(re.findall(r"[.?!](?=\s|$)", lead)) <= 2, lead
        assert "<table" not in shown, name
        assert folded, name


def test_the_top_has_the_question_a_figure_and_cards(in_tiny: Params) -> None:
    page = re.sub(r"data:image[^\"]+", "data:", paths.PAGE.read_text())
    [top] = re.findall(r'<header id="top">(.*?)</header>', page, re.DOTALL)
    parts = ["<h1>What is looking things up worth?", "<figure>", '<article class="card">']
    places = [top.index(part) for part in (*parts, "<h2>What speaks against all of it</h2>")]
    assert places == sorted(places)
    assert top.count('<article class="card">') == len(in_tiny.classifiers.backbones)
    assert top.count("<h4>What speaks against it</h4>") > 0
    assert re.search(
        r'<p class="verdict">Clean: not shown \([+-][\d.]+ points\); noise 0\.1: ', top
    )


def test_links_of_the_sidebar_lead_somewhere(in_tiny: Params) -> None:
    page = paths.PAGE.read_text()
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == ["top", *sections_of(page)]
    ids = re.findall(r' id="([^"]+)"', page)
    assert sorted(ids) == sorted({*links})


def test_tables_are_sortable(in_tiny: Params) -> None:
    page = paths.PAGE.read_text()
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert "table.sortable" in script
    assert "aria-sort" in script
    tables = re.findall(r"<table.*?</table>", "".join(sections_of(page).values()))
    assert len(tables) > 8
    for table in tables:
        head = re.match(
            r'<table class="sortable[ \w-]*"><thead><tr>(.*?)</tr></thead><tbody><tr', table
        )
        assert head is not None
        assert head[1].count("<th") == head[1].count('<th scope="col"') > 1


def test_a_page_is_small(in_tiny: Params) -> None:
    assert paths.PAGE.stat().st_size < LARGEST


def test_the_committed_page_is_small() -> None:
    assert (ROOT / paths.PAGE).stat().st_size < LARGEST, "dvc repro makes it anew"


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '" onload="x', "</style><b>"])
def test_names_are_escaped(evil: str) -> None:
    check_page((evil, evil, evil))


def test_the_summary_is_markdown(in_tiny: Params) -> None:
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    printed = CliRunner().invoke(app, ["report", "--markdown"])
    assert printed.exit_code == 0
    assert printed.stdout == paths.SUMMARY.read_text()
    assert before == {
        path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()
    }
    lines = printed.stdout.splitlines()
    assert lines[0] == "## What is looking things up worth?"
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[0] == (
        "| classifier | neighbours | images | points | 95 % interval | verdict | seeds |"
    )
    assert len(rows) == 2 + 3 * len(in_tiny.classifiers.backbones)  # clean, noise, corruptions
    assert all(row.count("|") == 8 for row in rows)
    assert "**What speaks against it**" in lines
    assert "This run has 1, so nothing here is a claim yet." in printed.stdout
    assert lines[-1].endswith("[results/index.html](/results/index.html)")


def test_without_a_report_there_is_no_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["report", "--markdown"])
    assert refused.exit_code == 2
    assert "results/summary.md is missing: run rapipe report" in refused.stderr


def test_names_are_no_markup_in_the_summary() -> None:
    card = Card("a|b<i>\n# c", "k*n", 3, [Finding("clean", "better", "+1.0")], ["[x](y)"])
    written = summary_of("Q?", "f", "", [card], [])
    assert "| a\\|b\\<i\\> # c | k\\*n | clean | +1.0 | \N{EN DASH} | better | 3 |" in written
    assert "\\[x\\](y)" in written
