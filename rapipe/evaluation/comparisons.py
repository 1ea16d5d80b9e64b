"""Which differences are more than chance?

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rapipe.errors import UserError
from rapipe.evaluation import statistics
from rapipe.evaluation.evidence import Correct, Evidence
from rapipe.evaluation.results import CONTROL, SELF, searches, without_self
from rapipe.evaluation.statistics import Verdict
from rapipe.io.provenance import differences

VOTE = "the best vote"
NOISE = "none, noise in training"
PROBE = "the linear probe"
ENCODER_VOTE = "the encoder's vote"
FINE_TUNED = "the encoder fine-tuned"
OF_ENCODER = (FINE_TUNED, PROBE, ENCODER_VOTE)
"""What the encoder is worth without looking anything up."""

COLUMNS = (
    *("group", "first", "second", "noise_std", "difference", "low", "high"),
    *("without_near_duplicates", "seeds", "mcnemar", "p", "adjusted_mcnemar", "adjusted_p"),
)
"""Of the CSV, before words."""


NEIGHBOURS = ("retrieval.", "pretrain.", "encoder", "store")
"""Facts in which classifiers with and without neighbours differ, or the beginnings of their keys:
what is looked up, and how."""
INITIAL = ("classifiers.", "corpus.sources", "encoder", "initial", "pretrain.", "vectors")
"""Facts in which classifiers may differ that start from other weights."""
NOISE_FACTS = ("classifiers.noise_std", "initial")
"""Facts in which classifiers with noise in training differ from those without."""


class Side(NamedTuple):
    """One of two that are compared."""

    name: str
    correct: Correct  # (S, L, N)
    setting: Mapping[str, Any]
    """All that decides it, by key of params.yaml or name of an artefact."""


class Pair(NamedTuple):
    """Two classifiers to compare, or a classifier and a vote; paired by seed and image."""

    group: str
    """What the comparison is about: a backbone, or an experiment of the study."""
    first: Side
    second: Side
    about: Sequence[str]
    """Facts in which their settings may differ, or the beginnings of their keys."""

    def check(self) -> None:
        """Raise `UserError` if the settings differ in more than what the comparison is about."""
        settings = self.first.setting, self.second.setting
        differing = [*differences(*settings), *differences(*reversed(settings))]
        keys = sorted({difference.key for difference in differing})
        if others := [key for key in keys if not key.startswith(tuple(self.about))]:
            raise UserError(
                f"{self.group}: {self.first.name} cannot be compared with {self.second.name}, "
                f"since they differ in {', '.join(others)}: train and evaluate them anew, or "
                "dvc repro"
            )


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

    Raises:
        UserError: two sides differ in more than what their comparison is about.
    """
    comparisons = []
    for pair in pairs:
        pair.check()
        for level in levels:
            a, b = pair.first.correct[:, level], pair.second.correct[:, level]
            verdict = statistics.compare(a, b, evidence.seed)
            without = evidence.without_near_duplicates(a) - evidence.without_near_duplicates(b)
            std = evidence.levels[level]
            names = pair.first.name, pair.second.name
            comparisons.append(Comparison(pair.group, *names, std, verdict, without))
    by_image = statistics.holm([comparison.verdict.mcnemar for comparison in comparisons])
    by_seed = statistics.holm([comparison.verdict.p for comparison in comparisons])
    return [
        comparison._replace(adjusted_mcnemar=mcnemar, adjusted_p=p)
        for comparison, mcnemar, p in zip(comparisons, by_image, by_seed, strict=True)
    ]


def compare_strategies(evidence: Evidence) -> list[Comparison]:
    """The comparisons of the report: on clean images and at the strongest noise.

    Each strategy with no neighbours and with random ones. What searches neighbours also with its
    own vector alone, with their best vote, with noise in training without neighbours, and with
    what the encoder knows by itself.
    """
    pairs = []
    for backbone in evidence.backbones:
        sides = _sides(evidence, backbone)
        for first, second in _pairs(list(sides)):
            about = _about(sides[first], sides[second])
            pairs.append(Pair(backbone, sides[first], sides[second], about))
    return compare_all(evidence, pairs, evidence.clean_and_noisiest)


def compare_backbones(evidence: Evidence) -> list[Comparison]:
    """Every two classifiers of a study without retrieval, on clean images and at the strongest
    noise."""
    sides = [
        Side(condition.backbone, stack.correct, evidence.setting_of(condition))
        for condition, stack in evidence.stacks.items()
    ]
    pairs = [Pair("classifiers", one, other, INITIAL) for other, one in combinations(sides, 2)]
    return compare_all(evidence, pairs, evidence.clean_and_noisiest)


def _about(first: Side, second: Side) -> Sequence[str]:
    """Facts in which the two may differ, or the beginnings of their keys."""
    if second.name in OF_ENCODER:  # which lacks much of what decides a training, or has more
        return [*(first.setting.keys() ^ second.setting.keys()), "initial"]
    return NEIGHBOURS + (NOISE_FACTS if NOISE in (first.name, second.name) else ())


def _sides(evidence: Evidence, backbone: str) -> dict[str, Side]:
    """What is compared, by name."""
    sides = []
    conditions = evidence.conditions(backbone)
    for name, condition in conditions.items():
        stack, setting = evidence.stacks[condition], evidence.setting_of(condition)
        sides.append(Side(name, stack.correct, setting))
        if stack.vote_correct is not None and searches(name):
            sides.append(Side(vote_of(name), stack.vote_correct, setting))
    others = {NOISE: evidence.noise_augmented.get(backbone, "")}
    if backbone != evidence.fine_tuned:
        others[FINE_TUNED] = evidence.fine_tuned
    for name, other in others.items():
        if plain := evidence.conditions(other).get("none"):
            sides.append(Side(name, evidence.stacks[plain].correct, evidence.setting_of(plain)))
    shape = evidence.stacks[conditions["none"]].correct.shape
    for baseline in evidence.encoder_baselines.values():  # the same for every seed
        correct = np.broadcast_to(baseline.correct, shape)
        sides.append(Side(baseline.name, correct, baseline.setting))
    return {side.name: side for side in sides}


def vote_of(retrieval: str) -> str:
    """What comparisons call the best vote of a strategy's neighbours."""
    return f"{VOTE} of {without_self(retrieval)}"


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which of them is compared with which, the baseline second."""
    for one, other in combinations(names, 2):
        if _is_baseline(one, other):
            yield other, one
        elif _is_baseline(other, one):
            yield one, other


def _is_baseline(name: str, first: str) -> bool:
    """Whether a strategy, or noise in training, is compared with what has this name."""
    if first in ("none", *OF_ENCODER) or first.startswith(VOTE):
        return False
    if first == NOISE or name == "none":
        return name == "none"
    if name == CONTROL or not searches(first):
        return name == CONTROL
    return name in (SELF, NOISE, *OF_ENCODER, vote_of(first)) or first == f"{SELF}+{name}"
