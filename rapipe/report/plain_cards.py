"""Cards of a study without retrieval: each classifier against every other."""

from __future__ import annotations

from collections.abc import Sequence

from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence
from rapipe.report import objections
from rapipe.report.shifts import shifted_top1
from rapipe.report.tables import level_words
from rapipe.report.verdicts import BETTER, UNTESTED, WORSE, Card, Finding


def plain_cards(evidence: Evidence, comparisons: Sequence[Comparison]) -> list[Card]:
    """One a classifier of a study without retrieval, against every other."""
    made = []
    for condition, stack in evidence.stacks.items():
        name = condition.backbone
        related = [_seen_from(name, c) for c in comparisons if name in (c.first, c.second)]
        findings = []
        for level in evidence.clean_and_noisiest:
            std, correct = evidence.levels[level], stack.correct[:, level]
            low, high = (100 * min(1, max(0, end)) for end in evidence.interval(correct))
            verdict = _than_others([c for c in related if c.noise_std == std])
            mean = f"{100 * correct.mean():.1f} %"
            findings.append(Finding(level_words(std), verdict, mean, f"{low:.1f}, {high:.1f}"))
        for shift, top1 in shifted_top1(evidence, condition):
            findings.append(Finding(shift, UNTESTED, f"{100 * top1.mean():.1f} %"))
        against = list(objections.not_ahead(related, str))
        made.append(Card(name, "", len(evidence.runs[condition]), findings, against))
    return made


def _seen_from(name: str, comparison: Comparison) -> Comparison:
    """The comparison with this classifier first."""
    if comparison.first == name:
        return comparison
    verdict, without = comparison.verdict, comparison.without_near_duplicates
    low, high = verdict.interval
    return comparison._replace(
        first=comparison.second,
        second=comparison.first,
        verdict=verdict._replace(
            difference=-verdict.difference, interval=statistics.Interval(-high, -low)
        ),
        without_near_duplicates=-without,
    )


def _than_others(comparisons: Sequence[Comparison]) -> str:
    """Than how many others a classifier is shown to be better or worse."""
    words = [comparison.words for comparison in comparisons]
    parts = [f"{word} than {words.count(word)}" for word in (BETTER, WORSE) if word in words]
    if not parts:
        return statistics.NOTHING if words else ""
    return f"{', '.join(parts)} of {len(words)}"
