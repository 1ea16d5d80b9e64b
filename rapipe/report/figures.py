"""Figures on what retrieval is worth, what it hangs on, and how far it can be trusted.

Panels are keyed by their titles, lines by their labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rapipe.report.style import BASELINE, PALETTE, Look, Point, finish, line, panels_of, styled

VOTE: Look = {"color": "black", "ls": ":", "marker": "."}
NOISE = "standard deviation of the noise"


class Line(NamedTuple):
    """What to draw of one condition."""

    points: Sequence[Point]
    look: Look


@styled
def curves_over_noise(
    panels: Mapping[str, Mapping[str, Line]],
    title: str,
    y: str,
    zero: bool = False,
    rows: int = 1,
) -> Figure:
    """Values with 95 % intervals against noise.

    Args:
        zero: draw the line where nothing differs.
        rows: of panels.
    """
    figure, axes_of = panels_of(list(panels), title, rows)
    for name, lines in panels.items():
        axes = axes_of[name]
        if zero:
            axes.axhline(0, color=BASELINE, lw=1)
        for label, (points, look) in lines.items():
            line(axes, points, label, look)
        axes.set_xlabel(NOISE)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    finish(axes_of, y)
    return figure


@styled
def matrices(
    panels: Mapping[str, npt.NDArray[np.float64]], trained: Sequence[str], tested: Sequence[str]
) -> Figure:
    """Clean accuracy (0 to 1) by the strategy in training (rows) and in the test (columns)."""
    title = "Clean test accuracy, %, by neighbours in training and in the test"
    figure, axes_of = panels_of(list(panels), title)
    every = np.concatenate([own.reshape(-1) for own in panels.values()])
    low, high = np.nanmin(every), np.nanmax(every)
    for name, own in panels.items():
        axes = axes_of[name]
        axes.imshow(own, cmap="cividis", vmin=low, vmax=high)
        axes.grid(False)
        many = len(tested) > 4  # so names and numbers would overlap
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right"} if many else {}
        axes.set_xticks(range(len(tested)), tested, **slanted)
        axes.set_yticks(range(len(trained)), trained)
        for (i, j), value in np.ndenumerate(own):
            if np.isnan(value):  # the memory could not serve it
                continue
            dark = value < (low + high) / 2
            text = f"{100 * value:.1f}"
            size, colour = 6 if many else 9, "w" if dark else "k"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
        axes.set_xlabel("tested with")
    finish(axes_of, "trained with")
    return figure


@styled
def swap_dots(
    panels: Mapping[str, Mapping[str, Mapping[str, Point]]], look: Mapping[str, Look], rows: int
) -> Figure:
    """Test accuracy with swapped neighbours, a line a swap.

    Args:
        panels: by backbone, then strategy in training, then swap; `Point.mean` is the
            accuracy, with its interval. The dashed line is the accuracy with the
            neighbours of the strategy in training.
        rows: of panels, one a noise level.
    """
    names = list(dict.fromkeys(s for own_ in panels.values() for d in own_.values() for s in d))
    title = "Test accuracy with other neighbours than its own, with 95 % intervals of the change"
    figure, axes_of = panels_of(list(panels), title, rows, sharex=True)
    figure.set_size_inches(figure.get_figwidth(), rows * (0.9 + 0.3 * len(names)))
    for panel, strategies in panels.items():
        axes = axes_of[panel]
        for shift, (strategy, swaps) in enumerate(strategies.items()):
            offset = 0.16 * (shift - (len(strategies) - 1) / 2)
            style = {**look[strategy], "ls": "none", "ms": 4, "lw": 1.2}
            ys = [names.index(name) + offset for name in swaps]
            mean, low, high = np.array([[p.mean, p.low, p.high] for p in swaps.values()]).T
            spans = [mean - low, high - mean]
            axes.errorbar(mean, ys, xerr=spans, label=f"trained with {strategy}", **style)
            axes.axvline(swaps[strategy].mean, color=look[strategy]["color"], ls="--", lw=0.9)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("test accuracy")
    for axes in axes_of.values():
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.invert_yaxis()
    finish(axes_of, "neighbours shown")
    return figure


@styled
def reliability_diagrams(
    panels: Mapping[str, Mapping[str, tuple[Sequence[tuple[float, float, int]], Look]]], rows: int
) -> Figure:
    """Accuracy against confidence, a point a bin: (confidence, accuracy, images).

    A point's area grows with its images; below the diagonal a classifier is too sure.
    """
    figure, axes_of = panels_of(
        list(panels), "Reliability: accuracy against confidence, with 95 % intervals", rows
    )
    for name, lines in panels.items():
        axes = axes_of[name]
        axes.plot([0, 1], [0, 1], color=BASELINE, lw=0.8, ls="--")
        for label, (bins, look) in lines.items():
            if not bins:
                continue
            confidence, accuracy, images = zip(*bins, strict=True)
            axes.plot(confidence, accuracy, color=look["color"], lw=1)
            areas = 4 + 80 * np.array(images) / sum(images)
            style = {"color": look["color"], "marker": look["marker"], "alpha": 0.75}
            axes.scatter(confidence, accuracy, areas, label=label, lw=0.8, **style)
            errors = 1.96 * np.sqrt(np.multiply(accuracy, np.subtract(1, accuracy)) / images)
            axes.errorbar(
                confidence, accuracy, yerr=errors, fmt="none", color=look["color"], lw=0.8
            )
        axes.set(xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
    finish(axes_of, "accuracy")
    return figure


@styled
def risk_coverage_curves(
    panels: Mapping[str, Mapping[str, tuple[npt.NDArray, npt.NDArray, Look]]], rows: int
) -> Figure:
    """Share of errors among the images answered, against the share answered."""
    title = "Risk against coverage: what abstention buys"
    figure, axes_of = panels_of(list(panels), title, rows)
    for name, lines in panels.items():
        axes = axes_of[name]
        for label, (coverage, risk, look) in lines.items():
            axes.plot(coverage, risk, label=label, **{**look, "marker": None})
        axes.set(xlabel="share of images answered", xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    for axes in axes_of.values():
        axes.set_ylim(bottom=0)  # after all lines: panels share their scale
    finish(axes_of, "errors among them")
    return figure


@styled
def likeness_histogram(
    edges: Sequence[float], test: Sequence[int], others: Sequence[int], threshold: float
) -> Figure:
    """Similarity of test images to the memory, beside that of images of different classes."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    figure.suptitle("How like the memory are the test images?", fontsize=11, fontweight="bold")
    for counts, label, colour, style in (
        (others, "validation, nearest of another class", PALETTE[0], "--"),
        (test, "test, nearest of all", PALETTE[1], "-"),
    ):
        shares = np.asarray(counts) / max(1, sum(counts))
        axes.stairs(shares, edges, label=label, color=colour, ls=style, lw=1.6)
    axes.axvline(threshold, color="black", ls=":", label=f"threshold {threshold:.4f}")
    axes.set(xlabel="cosine similarity", ylabel="share of images")
    axes.legend(loc="upper left")
    return figure
