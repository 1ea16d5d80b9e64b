"""Which differences are more than chance, as a table and in sentences."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import NOISE, Comparison, vote_of
from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import CONTROL, SELF, Condition, best_baseline, vote_baselines
from rapipe.records import OTHER_IMAGE
from rapipe.report import baselines
from rapipe.report.material import Material
from rapipe.report.tables import NOTHING, Table, interval_words, level_words, p_value


def claims(material: Material) -> str:
    """The table of the page.

    Each line compares two classifiers, or one with a vote or the encoder's linear probe, on
    the same test images: clean ones, and those with the strongest noise. The interval is a
    bootstrap over images and seeds. The first p-value is the largest of McNemar's tests, one
    a training, the second also of a t-test over seeds; both are corrected for the number of
    lines (Holm). “Better” needs all of them; interval and McNemar's tests alone allow to say
    what was seen. “Without near duplicates” leaves out the test images that the audit lists.
    """
    return comparison_table(material.comparisons, "classifier").html()


def comparison_table(comparisons: Sequence[Comparison], group: str = "") -> Table:
    """A line a comparison.

    Args:
        group: the heading of what comparisons are about, if the table is to say so.
    """
    heads = ["first", "minus", "images", "points", "95 % interval", "without near duplicates"]
    heads += ["seeds", "p, McNemar", "p, seeds too", "in words"]
    rows = []
    for comparison in comparisons:
        without, seeds = comparison.without_near_duplicates, comparison.verdict.seeds
        row = [
            comparison.first,
            comparison.second,
            level_words(comparison.noise_std),
            f"{100 * comparison.verdict.difference:+.1f}",
            interval_words(comparison.verdict.interval),
            f"{100 * without:+.1f}" if without == without else NOTHING,
            str(seeds),
            p_value(comparison.adjusted_mcnemar),
            p_value(comparison.adjusted_p) if seeds > 1 else NOTHING,
            comparison.words,
        ]
        rows.append([comparison.group, *row] if group else row)
    return Table([group, *heads] if group else heads, rows)


def findings(material: Material) -> str:
    """The answers in sentences, as an HTML list."""
    return findings_of(material, material.comparisons)


def findings_of(evidence: Evidence, comparisons: Sequence[Comparison]) -> str:
    """The same of any evidence and the comparisons in it."""
    items = []
    for condition in evidence.searching():
        names = (condition.backbone, condition.retrieval)
        related = [
            comparison
            for comparison in comparisons
            if (comparison.group, comparison.first) == names
        ]
        lines = [
            _compared("Against the same without neighbours", related, "none"),
            _compared("Against its own vector instead of neighbours", related, SELF),
            _compared("Against noise in training instead of neighbours", related, NOISE),
            _compared_with_vote(evidence, condition, related),
            *(_beaten(related, evidence.levels[level]) for level in evidence.clean_and_noisiest),
            _reliance(evidence, condition),
        ]
        name = html.escape(f"{condition.backbone} with {condition.retrieval}")
        sentences = "".join(f"<li>{line}</li>" for line in lines if line)
        items.append(f"<li><b>{name}</b><ul>{sentences}</ul></li>")
    seeds = len(next(iter(evidence.runs.values())))
    if not items:
        items = ["<li>No classifier here looks anything up: there is nothing to claim.</li>"]
    return (
        f"<ul>{''.join(items)}</ul><p>Differences of accuracy in points, with 95 % intervals. "
        f"“Better” and “worse” are said only of {statistics.MIN_SEEDS} seeds or more; this run "
        f"has {seeds}.</p>"
    )


def _compared(what: str, comparisons: Sequence[Comparison], second: str) -> str:
    parts = [
        f"{level_words(comparison.noise_std)} {100 * comparison.verdict.difference:+.1f} "
        f"[{interval_words(comparison.verdict.interval)}], {comparison.words}"
        for comparison in comparisons
        if comparison.second == second
    ]
    return f"{what}: {'; '.join(parts)}." if parts else ""


def _beaten(comparisons: Sequence[Comparison], level: float) -> str:
    """Which baselines it is shown to beat at a noise level, and which not."""
    shown: list[str] = []
    ahead: list[str] = []
    others: list[str] = []
    for comparison in comparisons:
        if comparison.noise_std == level:
            seen = comparison.verdict.difference > 0 and comparison.words != statistics.NOTHING
            better = comparison.words == statistics.BETTER
            group = shown if better else ahead if seen else others
            group.append(html.escape(baselines.words(comparison.second)))
    parts = (
        ("Shown to beat", shown),
        ("Ahead on these test images in every training, which is no claim yet", ahead),
        ("Not shown to beat", others),
    )
    sentences = " ".join(f"{start}: {', '.join(names)}." for start, names in parts if names)
    return f"<b>{level_words(level).capitalize()}.</b> {sentences}" if sentences else ""


def _compared_with_vote(
    evidence: Evidence, condition: Condition, comparisons: Sequence[Comparison]
) -> str:
    """Whether the learned fusion beats the best vote of the same neighbours."""
    second = vote_of(condition.retrieval)
    best = best_baseline(vote_baselines(evidence.runs[condition][0], condition.retrieval))
    if best is None:
        return "No neighbour has a class of the task, so there is no vote to beat."
    vote = f"the best vote of its neighbours ({best.vote}, k = {best.k}, {best.top1[0]:.1%})"
    unbeaten = [
        level_words(comparison.noise_std)
        for comparison in comparisons
        if comparison.second == second
        and (comparison.verdict.difference <= 0 or comparison.words == statistics.NOTHING)
    ]
    warning = f" <b>Its learned fusion is not shown to beat that vote: {', '.join(unbeaten)}.</b>"
    return _compared(f"Against {vote}", comparisons, second) + (warning if unbeaten else "")


def _reliance(evidence: Evidence, condition: Condition) -> str:
    """How much predictions depend on the neighbours, and what they are worth once trained."""
    stacks = evidence.counterfactuals_at(condition)
    if not stacks:
        return ""
    distance = stacks[OTHER_IMAGE].total_variation
    low, high = evidence.interval(distance)
    words = (
        f"Reliance on its own neighbours (0 to 1): {distance.mean():.3f} [{low:.3f}, {high:.3f}]"
    )
    control = evidence.conditions(condition.backbone).get(CONTROL)
    random = evidence.counterfactuals_at(control) if control else {}
    if random:
        words += f", on random ones {random[OTHER_IMAGE].total_variation.mean():.3f}"
    change = stacks["none"].correct_change
    points = f"{100 * change.mean():+.1f} [{interval_words(evidence.interval(change))}]"
    return f"{words}. Without neighbours the trained network itself changes by {points}."
