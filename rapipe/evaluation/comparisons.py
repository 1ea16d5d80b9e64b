"""Which differences are more than chance?

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rapipe.evaluation import statistics
from rapipe.evaluation.evidence import Correct, Evidence
from rapipe.evaluation.results import CONTROL
from rapipe.evaluation.statistics import Verdict

VOTE = "the best vote"
NOISE = "none, noise in training"


COLUMNS = (
    *("group", "first", "second", "noise_std", "difference", "low", "high"),
    *("without_near_duplicates", "seeds", "mcnemar", "p", "adjusted_mcnemar", "adjusted_p"),
)
"""Of the CSV, before words."""


class Pair(NamedTuple):
    """Two classifiers to compare, or a classifier and a vote; paired by seed and image."""

    group: str
    """What the comparison is about: a backbone, or an experiment of the study."""
    first: str
    second: str
    first_correct: Correct  # (S, L, N)
    second_correct: Correct  # (S, L, N)


class Comparison(NamedTuple):
    """The accuracy of `first` minus that of `second` at one noise level."""

    group: str
    first: str
    second: str
    noise_std: float
    verdict: Verdict
    without_near_duplicates: float
    """The difference without near duplicates of the memory; nan if there is nothing else."""
    adjusted_mcnemar: float = 1.0
    adjusted_p: float = 1.0

    @property
    def words(self) -> str:
        """What may be said of it."""
        return statistics.words(self.verdict, self.adjusted_mcnemar, self.adjusted_p)

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a CSV."""
        verdict = self.verdict
        row = {**self._asdict(), **verdict._asdict(), **verdict.interval._asdict()}
        if np.isnan(self.without_near_duplicates):
            row["without_near_duplicates"] = None
        return {**{name: row[name] for name in COLUMNS}, "words": self.words}


def compare_all(
    evidence: Evidence, pairs: Iterable[Pair], levels: Sequence[int]
) -> list[Comparison]:
    """Every pair at every noise level; p-values are adjusted for all of them.

    Args:
        levels: positions in `evidence.levels`.
    """
    comparisons = []
    for group, first, second, *correct in pairs:
        for level in levels:
            a, b = (answers[:, level] for answers in correct)
            verdict = statistics.compare(a, b, evidence.seed)
            without = evidence.without_near_duplicates(a) - evidence.without_near_duplicates(b)
            std = evidence.levels[level]
            comparisons.append(Comparison(group, first, second, std, verdict, without))
    by_image = statistics.holm([comparison.verdict.mcnemar for comparison in comparisons])
    by_seed = statistics.holm([comparison.verdict.p for comparison in comparisons])
    return [
        comparison._replace(adjusted_mcnemar=mcnemar, adjusted_p=p)
        for comparison, mcnemar, p in zip(comparisons, by_image, by_seed, strict=True)
    ]


def compare_strategies(evidence: Evidence) -> list[Comparison]:
    """The comparisons of the report: on clean images and at the strongest noise.

    Each strategy with no neighbours and with the control; what searches neighbours also with
    their best vote, and with noise in training without neighbours.
    """
    pairs = []
    for backbone in evidence.backbones:
        answers = _answers(evidence, backbone)
        for first, second in _pairs(list(answers)):
            pairs.append(Pair(backbone, first, second, answers[first], answers[second]))
    return compare_all(evidence, pairs, evidence.clean_and_noisiest)


def _answers(evidence: Evidence, backbone: str) -> dict[str, Correct]:
    """By the name of what is compared, whether it is right (S, L, N)."""
    conditions = evidence.conditions(backbone)
    answers = {name: evidence.stacks[condition].correct for name, condition in conditions.items()}
    for name, condition in conditions.items():
        votes = evidence.stacks[condition].vote_correct
        if votes is not None and name != CONTROL:
            answers[f"{VOTE} of {name}"] = votes
    twin = evidence.conditions(evidence.noise_augmented.get(backbone, ""))
    return {**answers, NOISE: evidence.stacks[twin["none"]].correct} if twin else answers


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which of them is compared with which."""
    for earlier, later in combinations(names, 2):
        vote = earlier.startswith(VOTE) or later.startswith(VOTE)
        if not vote and NOISE not in (earlier, later):
            if earlier in ("none", CONTROL):
                yield later, earlier
            elif later == CONTROL:  # whichever of the two the parameters name first
                yield earlier, later
        if later == f"{VOTE} of {earlier}":
            yield earlier, later
        if later == NOISE and not vote and earlier != CONTROL:
            yield (later, earlier) if earlier == "none" else (earlier, later)
