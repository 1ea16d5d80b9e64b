"""The figure that answers the question: accuracy with and without neighbours, clean and shifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Condition, searches
from rapipe.evaluation.statistics import MIN_SEEDS, Interval, interval_over_seeds
from rapipe.report.shifts import corrupted_top1
from rapipe.report.style import finish, strategy_looks, styled
from rapipe.report.tables import count, level_words

NARROW, WIDE = 3.7, 3.4
"""Inches of a panel on a telephone, and of one beside others."""
LINE = 0.24
"""Inches of a classifier."""


class Dot(NamedTuple):
    """The accuracy of a classifier under one shift."""

    condition: Condition
    mean: float
    interval: Interval


def headline(evidence: Evidence) -> Figure:
    """Accuracy with and without neighbours, a panel a shift, with 95 % intervals.

    Test accuracy in percent of each classifier, without neighbours and with those it searches: on
    clean images, at the strongest noise, and the mean over corruptions. Bars are 95 % intervals
    over the choice of test images and, where there are several, of seeds; of corruptions over three
    seeds or more, and else there are none. Each panel has a scale of its own.
    """
    return _headline(evidence, narrow=False)


def narrow_headline(evidence: Evidence) -> Figure:
    """The same for a telephone: the panels one below the other."""
    return _headline(evidence, narrow=True)


@styled
def _headline(evidence: Evidence, narrow: bool) -> Figure:
    shifts = dict(_dots(evidence))
    backbones, lines = evidence.backbones, max(2, len(_shown(evidence)))
    height = 0.7 + LINE * lines
    rows, columns = (len(shifts), 1) if narrow else (1, len(shifts))
    size = (columns * (NARROW if narrow else WIDE) + (0 if narrow else 0.8), rows * height + 0.7)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    figure.suptitle("Test accuracy, %", fontsize=11, fontweight="bold")
    panels = dict(zip(shifts, grid.flat, strict=True))
    for shift, axes in panels.items():
        axes.set_title(shift)
        _draw(axes, evidence, shifts[shift])
        axes.set_yticks(range(len(backbones)), backbones)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    grid[0, 0].set_ylim(len(backbones) - 0.5, -0.5)
    finish(panels, "")
    return figure


def _draw(axes: Axes, evidence: Evidence, dots: list[Dot]) -> None:
    """The dots of a shift, those of a backbone around its line."""
    look, several = strategy_looks(evidence), bool(evidence.with_neighbours())
    for i, backbone in enumerate(evidence.backbones):
        group = [dot for dot in dots if dot.condition.backbone == backbone]
        axes.axhspan(i - 0.5, i + 0.5, color="#f4f6f8" if i % 2 else "white", lw=0, zorder=0)
        for j, (condition, mean, interval) in enumerate(group):
            strategy = condition.retrieval
            name = "without neighbours" if strategy == "none" else f"with {strategy}"
            y = i + 0.6 * ((j + 0.5) / len(group) - 0.5)
            spans = np.array([[mean - interval.low], [interval.high - mean]]).clip(0)
            caps = {"capsize": 2 if spans.any() else 0, "elinewidth": 1.4}
            style = {**look[strategy], **caps, "ls": "none", "ms": 5}
            label = name if several else "none"
            axes.errorbar(100 * mean, y, xerr=100 * spans, label=label, **style)


def _dots(evidence: Evidence) -> Iterator[tuple[str, list[Dot]]]:
    """The dots of each shift that was measured."""
    shown = _shown(evidence)
    for level in evidence.clean_and_noisiest:
        dots = []
        for condition in shown:
            correct = evidence.stacks[condition].correct[:, level]
            low, high = evidence.interval(correct)
            interval = Interval(max(0, low), min(1, high))
            dots.append(Dot(condition, float(correct.mean()), interval))
        yield level_words(evidence.levels[level]), dots
    names = corrupted_top1(evidence, shown[0])[0]
    if names:
        dots = []
        for condition in shown:
            by_seed = corrupted_top1(evidence, condition)[1].mean(axis=1)
            mean = float(by_seed.mean())
            few = len(by_seed) < MIN_SEEDS
            interval = Interval(mean, mean) if few else interval_over_seeds(by_seed.tolist())
            dots.append(Dot(condition, mean, interval))
        yield f"{count(len(names), 'corruption')}, mean", dots


def _shown(evidence: Evidence) -> list[Condition]:
    """Classifiers without neighbours, and those that search theirs."""
    return [
        condition
        for condition in evidence.stacks
        if condition.retrieval == "none" or searches(condition.retrieval)
    ]
