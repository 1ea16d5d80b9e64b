"""Which conditions of the study are compared with which."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from rapipe.config.names import NOISY
from rapipe.evaluation.comparisons import NEIGHBOURS, Comparison, Pair, Side, compare_all
from rapipe.evaluation.results import Condition
from study.results import ENCODER, MAIN, NOISE, ROBUST, SCRATCH, StudyResults

VOTE = "the best vote of its neighbours, of "
ABOUT = {
    "baselines": ("backbone",),
    "noise": ("backbone",),
    "robust": ("backbone",),
    "wider": ("corpus",),
}
"""What the comparisons of an experiment are about besides neighbours."""
Pairing = tuple[str, Condition, Condition, bool]
"""Experiment, what is compared with what, and whether the second is the vote of its neighbours."""


def compare_conditions(results: StudyResults) -> list[Comparison]:
    """Every comparison that the study is after, on clean images and at each noise level.

    P-values are adjusted for all comparisons of the same experiment.
    """
    pairs = [pair for pairing in pairings(results) if (pair := _pair(results, *pairing))]
    experiments = list(dict.fromkeys(pair.group for pair in pairs))
    pairs.sort(key=lambda pair: experiments.index(pair.group))
    levels = range(len(results.levels))
    return [
        comparison
        for _, family in groupby(pairs, key=lambda pair: pair.group)
        for comparison in compare_all(results, family, levels)
    ]


def words(condition: Condition) -> str:
    """A condition as tables call it."""
    neighbours = {"none": "no neighbours", "knn": "kNN"}
    name = neighbours.get(condition.retrieval, condition.retrieval)
    setting = "" if condition.setting == MAIN else f" ({condition.setting})"
    return f"{condition.backbone}, {name}{setting}"


def _pair(
    results: StudyResults, experiment: str, first: Condition, second: Condition, of_vote: bool
) -> Pair | None:
    """Two conditions, by the seeds that both have; None if there are none."""
    if first not in results.runs or second not in results.runs:
        return None
    stack = results.stacks[second]
    answers = stack.vote_correct if of_vote else stack.correct
    assert answers is not None
    seeds, second_seeds = results.seeds(first), results.seeds(second)
    _, rows, second_rows = np.intersect1d(seeds, second_seeds, return_indices=True)
    if not len(rows):
        return None
    name = (VOTE if of_vote else "") + words(second)
    return Pair(
        experiment,
        Side(words(first), results.stacks[first].correct[rows], results.setting_of(first)),
        Side(name, answers[second_rows], results.setting_of(second)),
        NEIGHBOURS + ABOUT.get(experiment, ()),
    )


def pairings(results: StudyResults) -> Iterator[Pairing]:
    """What is compared."""
    for condition in results.of(SCRATCH, ENCODER):
        if condition.retrieval != "none":
            yield "baselines", condition, condition._replace(retrieval="none"), False
        elif condition.setting == ENCODER:
            for scratch in results.scratch():
                yield "baselines", scratch, condition, False
    for name in dict.fromkeys(condition.backbone for condition in results.of(MAIN)):

        def plain(setting: str = MAIN, name: str = name) -> Condition:
            return Condition(name, "none", setting=setting)

        def knn(setting: str = MAIN, name: str = name) -> Condition:
            return Condition(name, "knn", setting=setting)

        sampled = Condition(name, "sampled", setting=MAIN)
        yield "main", knn(), plain(), False
        yield "main", knn(), sampled, False
        yield "main", sampled, plain(), False
        yield "main", knn(), knn(), True
        noisy, noisy_knn = plain(NOISE, name + NOISY), knn(NOISE, name + NOISY)
        yield "noise", noisy_knn, noisy, False
        yield "noise", knn(), noisy, False
        for condition in (plain(), knn(), noisy):
            yield "robust", knn(ROBUST), condition, False
        yield "robust", knn(ROBUST), knn(ROBUST), True
        for condition in (noisy, noisy_knn):
            yield "robust", knn(ROBUST, name + NOISY), condition, False
        for setting in results.settings("labels-"):
            yield "labels", knn(setting), plain(setting), False
            yield "labels", knn(setting), knn(setting), True
        yield "random", knn(), knn("random"), False
        yield "random", knn("random"), plain(), False
        for experiment in ("k", "bank"):
            for setting in results.settings(f"{experiment}-"):
                yield experiment, knn(setting), plain(), False
        for setting in results.settings("fusion-"):
            yield "fusion", knn(), knn(setting), False
            yield "fusion", knn(setting), plain(), False
        yield "longer", knn("longer"), plain("longer"), False
        yield "wider", knn("wider-encoder"), knn(), False
        yield "wider", knn("wider-memory"), knn("wider-encoder"), False
        yield "wider", knn("wider-memory"), plain(), False
