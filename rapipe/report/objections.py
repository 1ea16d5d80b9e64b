"""What speaks against neighbours, in sentences: of one classifier, and of the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Condition
from rapipe.evaluation.statistics import MIN_SEEDS
from rapipe.records import OTHER_IMAGE
from rapipe.report.material import Material
from rapipe.report.shifts import corrupted_top1
from rapipe.report.tables import count, level_words, points

HARDLY = 0.05
"""Reliance (0 to 1) below which a classifier hardly uses what it looks up."""
NAMED = 3
"""Corruptions that a sentence names, the worst first."""
WAYS = ("worse than", "behind", "no difference shown from")
"""Not to be ahead of another: shown, seen in every training, and neither."""


def not_ahead(comparisons: Iterable[Comparison], words_of: Callable[[str], str]) -> Iterator[str]:
    """A sentence a noise level and a way not to be ahead of others, these by how far.

    Args:
        words_of: what a sentence calls another.
    """
    sentences: dict[tuple[float, int], list[str]] = {}
    for comparison in sorted(comparisons, key=lambda c: c.verdict.difference):
        difference, words = comparison.verdict.difference, comparison.words
        if words == statistics.NOTHING:
            way = 2
        elif difference < 0:
            way = 1 if words.startswith("right") else 0
        else:
            continue
        other = f"{words_of(comparison.second)} {points(difference)}"
        sentences.setdefault((comparison.noise_std, way), []).append(other)
    for std, way in sorted(sentences):
        others = ", ".join(sentences[std, way])
        yield f"{level_words(std).capitalize()}: {WAYS[way]} {others}."


def lost_when_corrupted(evidence: Evidence, condition: Condition) -> Iterator[str]:
    """The corruptions under which neighbours cost accuracy, the worst first."""
    names, top1 = corrupted_top1(evidence, condition)
    plain = evidence.conditions(condition.backbone)["none"]
    plain_names, plain_top1 = corrupted_top1(evidence, plain)
    if not names or names != plain_names:
        return
    changes = (top1 - plain_top1).mean(axis=0)
    worst = [i for i in np.argsort(changes)[:NAMED] if changes[i] < 0]
    if worst:
        listed = ", ".join(f"{names[i]} ({points(changes[i])})" for i in worst)
        yield f"Less accurate than without neighbours under {listed}."


def lost_without_near_duplicates(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Gains of which less than half is left without near duplicates."""
    for comparison in comparisons:
        difference, without = comparison.verdict.difference, comparison.without_near_duplicates
        if difference > 0 and without < difference / 2:
            yield (
                f"{level_words(comparison.noise_std).capitalize()}: without near duplicates of the "
                f"memory {points(without)} is left of {points(difference)}."
            )


def hardly_used(evidence: Evidence, condition: Condition) -> Iterator[str]:
    """Whether predictions hardly depend on whose neighbours are shown."""
    stacks = evidence.counterfactuals_at(condition)
    if OTHER_IMAGE not in stacks:
        return
    reliance = float(stacks[OTHER_IMAGE].total_variation.mean())
    if reliance < HARDLY:
        yield f"It hardly uses its neighbours: its reliance is {reliance:.2f} of 1."


def caveats(material: Material) -> list[str]:
    """What speaks against all of it, in sentences."""
    seeds = len(next(iter(material.runs.values())))
    sentences = []
    if seeds < MIN_SEEDS:
        sentences.append(
            f"“Better” and “worse” are said of {MIN_SEEDS} seeds or more. This run has {seeds}, so "
            "nothing here is a claim yet."
        )
    if near := material.leakage.get("near_duplicates"):
        sentences.append(
            f"{near:,} of {material.leakage['test_images']:,} test images are nearly copies of one "
            "in the memory, or merely much alike. The table of claims has each difference without "
            "them."
        )
    scores = material.pretraining[-1] if material.pretraining else {}
    raw = scores.get("raw_pixels_knn_top1", 0)
    if material.searching() and raw >= scores.get("knn_top1", 1):
        sentences.append(
            f"A vote of the nearest images is right for {scores['knn_top1']:.1%} of validation by "
            f"the encoder's vectors, and for {raw:.1%} by raw pixels."
        )
    if left := len(material.results.left_out):
        sentences.append(f"{count(left, 'result')} in results/runs could not be compared.")
    return sentences
