"""What may be said of each classifier, and what speaks against it.

It all comes from the comparisons behind the table of claims; nothing is tested anew. On corrupted
images and on images from elsewhere no answers are kept by image, so differences there are said
and not tested.

Letters: S seeds, C corruptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Condition
from rapipe.evaluation.statistics import MIN_SEEDS, interval_over_seeds
from rapipe.report import baselines, objections
from rapipe.report.shifts import shifted_top1
from rapipe.report.tables import count, interval_words, level_words, points

BETTER, WORSE, OPEN = statistics.BETTER, "worse", "not shown"
UNTESTED = "not tested"


class Finding(NamedTuple):
    """What neighbours do to accuracy under one shift; without retrieval, accuracy itself."""

    shift: str
    """`clean`, `noise 0.2`, `3 corruptions`, ..."""
    verdict: str
    """BETTER, WORSE, OPEN or UNTESTED; without retrieval in words, empty without others."""
    points: str
    interval: str = ""
    """95 %; empty where there is none."""
    seen: str = ""
    """What may be said where nothing is shown, such as `ahead in one training`."""


class Card(NamedTuple):
    """A classifier at the top of the page."""

    backbone: str
    strategy: str
    """Empty without retrieval."""
    seeds: int
    findings: Sequence[Finding]
    against: Sequence[str]
    """Sentences."""

    @property
    def line(self) -> str:
        """The verdict on what was tested."""
        said = "; ".join(
            f"{shift}: {verdict} ({points} points)" if self.strategy else f"{shift}: {points}"
            for shift, verdict, points, *_ in self.findings
            if verdict != UNTESTED
        )
        return f"{said[:1].upper()}{said[1:]}; {count(self.seeds, 'seed')}."


def cards(evidence: Evidence, comparisons: Sequence[Comparison]) -> list[Card]:
    """One a classifier that searches its neighbours, against the same without."""
    made = []
    for condition in evidence.searching():
        names = (condition.backbone, condition.retrieval)
        related = [c for c in comparisons if (c.group, c.first) == names]
        plain = [c for c in related if c.second == "none"]
        others = [c for c in related if c.second != "none"]
        findings = [*map(_finding, plain), *_untested(evidence, condition)]
        against = [
            *objections.not_ahead(others, baselines.words),
            *objections.lost_when_corrupted(evidence, condition),
            *objections.lost_without_near_duplicates(plain),
            *objections.hardly_used(evidence, condition),
        ]
        made.append(Card(*names, len(evidence.runs[condition]), findings, against))
    return made


def answer(found: Sequence[Card]) -> str:
    """How many classifiers are better, worse and neither, by shift; empty without cards."""
    verdicts: dict[str, list[str]] = {}
    for card in found:
        for finding in card.findings:
            if finding.verdict in (BETTER, WORSE, OPEN):
                verdicts.setdefault(finding.shift, []).append(finding.verdict)
    parts = (
        f"{shift}, {', '.join(f'{listed.count(v)} {v}' for v in (BETTER, WORSE, OPEN))}"
        for shift, listed in verdicts.items()
    )
    classifiers = count(len(found), "classifier")
    return f"Of {classifiers} with neighbours instead of none: {'; '.join(parts)}." if found else ""


def _finding(comparison: Comparison) -> Finding:
    words, difference = comparison.words, comparison.verdict.difference
    verdict = words if words in (BETTER, WORSE) else OPEN
    seen = ""
    if verdict == OPEN and words != statistics.NOTHING:
        trainings = words.rpartition(", in ")[2]
        seen = f"{'ahead' if difference > 0 else 'behind'} in {trainings}"
    interval = interval_words(comparison.verdict.interval)
    return Finding(level_words(comparison.noise_std), verdict, points(difference), interval, seen)


def _untested(evidence: Evidence, condition: Condition) -> Iterator[Finding]:
    """Differences to the same without neighbours on corrupted images, and on those elsewhere.

    With an interval over the seeds, where they are enough.
    """
    plain = evidence.conditions(condition.backbone)["none"]
    pairs = zip(shifted_top1(evidence, condition), shifted_top1(evidence, plain), strict=True)
    for (shift, top1), (_, plain_top1) in pairs:
        by_seed = (top1 - plain_top1).mean(axis=1)
        interval = ""
        if len(by_seed) >= MIN_SEEDS:
            interval = interval_words(interval_over_seeds(by_seed.tolist()))
        yield Finding(shift, UNTESTED, points(float(by_seed.mean())), interval)
