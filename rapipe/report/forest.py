"""Every claim in one figure: differences of accuracy with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import Comparison
from rapipe.report import baselines
from rapipe.report.material import Material
from rapipe.report.style import GREY, MARKERS, PALETTE, Look, finish, styled
from rapipe.report.tables import level_words

PANEL, LINE = 3.0, 0.27
"""Inches: the width of a panel, and the height of a line."""


def against_baselines(material: Material) -> Figure | None:
    """What each classifier that searches gains on each of its baselines.

    Accuracy with neighbours minus that of a baseline on the same test images, in points, with 95 %
    intervals: right of the line neighbours are ahead. Filled: on these test images more than
    chance, in every training; hollow: no difference is shown. What may be called better is in the
    table of claims.
    """
    panels: dict[str, dict[str, list[Comparison]]] = {}
    for condition in material.searching():
        for comparison in material.comparisons:
            if (comparison.group, comparison.first) == (condition.backbone, condition.retrieval):
                panel = panels.setdefault(f"{condition.backbone}, {condition.retrieval}", {})
                panel.setdefault(baselines.words(comparison.second), []).append(comparison)
    return _forest(panels, "Accuracy with neighbours minus that of ...")


def between_classifiers(material: Material) -> Figure | None:
    """Every two classifiers of a study without retrieval.

    Accuracy of the first classifier minus that of the second on the same test images, in points,
    with 95 % intervals. Filled: on these test images more than chance, in every training; hollow:
    no difference is shown.
    """
    lines: dict[str, list[Comparison]] = {}
    for comparison in material.comparisons:
        lines.setdefault(f"{comparison.first} \N{MINUS SIGN} {comparison.second}", []).append(
            comparison
        )
    return _forest({"": lines} if lines else {}, "Differences of accuracy")


@styled
def _forest(panels: Mapping[str, Mapping[str, Sequence[Comparison]]], title: str) -> Figure | None:
    """A panel a classifier, a line a comparison; None without any."""
    if not panels:
        return None
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    figure, grid = plt.subplots(
        1,
        len(panels),
        figsize=(max(PANEL * len(panels), 6) + 1, 1.3 + LINE * len(names)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=11, fontweight="bold")
    axes_of = dict(zip(panels, grid.flat, strict=True))
    levels = sorted({c.noise_std for lines in panels.values() for of in lines.values() for c in of})
    for panel, axes in axes_of.items():
        axes.set_title(panel)
        axes.axvline(0, color=GREY, lw=1)
        for level, std in enumerate(levels):
            shift = 0.3 * (level - (len(levels) - 1) / 2)
            points = {
                names.index(name) + shift: comparison
                for name, of_name in panels[panel].items()
                for comparison in of_name
                if comparison.noise_std == std
            }
            look = {"color": PALETTE[1 - level % 2], "marker": MARKERS[1 - level % 2]}
            _points(axes, points, look)
            axes.plot([], [], ls="none", label=level_words(std), **look)
        axes.set_xlabel("points")
        axes.set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    finish(axes_of, "")
    return figure


def _points(axes: Axes, points: Mapping[float, Comparison], look: Look) -> None:
    """Differences at their heights, hollow where none is shown."""
    for y, comparison in points.items():
        difference, interval = comparison.verdict.difference, comparison.verdict.interval
        spans = 100 * np.array([[difference - interval.low], [interval.high - difference]])
        face = "white" if comparison.words == statistics.NOTHING else look["color"]
        style = {**look, "mfc": face, "ms": 4.5, "elinewidth": 1.2, "ls": "none"}
        axes.errorbar(100 * difference, y, xerr=spans.clip(0), **style)
