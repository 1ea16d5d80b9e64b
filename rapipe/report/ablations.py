"""Accuracy against whatever was changed: the number of neighbours, the learning rate, ..."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from rapipe.evaluation.ablations import (
    CURVES,
    Ablation,
    Trial,
    Value,
    accuracies,
    accuracy_interval,
    by_epoch,
    is_number,
    label,
    table_rows,
    value_words,
)
from rapipe.evaluation.results import SELF, Row
from rapipe.report.material import Material
from rapipe.report.style import (
    GREY,
    MARKERS,
    Look,
    band,
    finish,
    log_axis,
    looks,
    panels_of,
    styled,
)
from rapipe.report.tables import NOTHING, Table

MOST_ROWS = 12
"""Classifiers with learning curves in one figure."""
WIDE = 8
"""Largest number over the smallest from which on an axis is logarithmic."""
APART = 0.045
"""Share of an axis that two ticks must be apart, or their labels would overlap."""
LETTERS = 30
"""Of all labels of a panel that stand side by side."""
SLANTED: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def accuracy_by_k(material: Material) -> Figure | None:
    """Of all results that differ from the present ones in k or bank alone.

    Clean test accuracy against k; dashed: without retrieval, or with its own vector alone.
    """
    return ablation_curves(material.results.rows(), "k")


def accuracy_by_bank(material: Material) -> Figure | None:
    """The same against the size of the bank.

    Clean test accuracy against images remembered; dashed: without retrieval.
    """
    return ablation_curves(material.results.rows(), "bank_size")


@styled
def ablation_curves(rows: Sequence[Row], axis: str) -> Figure | None:
    """Clean test accuracy against `k` or `bank_size`; None where each strategy has but one.

    Along k the bank is the largest one seen, along the bank size the k most often seen.
    """
    clean = [row for row in rows if row["noise_std"] == 0]
    retrieving = [row for row in clean if row["k"]]
    other = "bank_size" if axis == "k" else "k"
    if not retrieving:
        return None
    fixed = max((row[other] for row in retrieving), key=[r[other] for r in retrieving].count)
    series = [row for row in retrieving if row[other] == fixed]
    if len({row[axis] for row in series}) < 2:
        return None
    strategies = list(dict.fromkeys(row["retrieval"] for row in series))
    look = looks(strategies)
    along = "neighbours k" if axis == "k" else "images in the memory"
    title = f"Clean test accuracy against {along}"
    figure, panels = panels_of(list(dict.fromkeys(row["backbone"] for row in series)), title)
    for backbone, axes in panels.items():
        for strategy in strategies:
            points: dict[float, list[float]] = defaultdict(list)
            for row in series:
                if (row["backbone"], row["retrieval"]) == (backbone, strategy):
                    points[row[axis]].append(row["top1"])
            band(axes, points, strategy, look[strategy])
        for name, colour in (("none", GREY), (SELF, looks([SELF])[SELF]["color"])):
            names = (backbone, name)
            plain = [row["top1"] for row in clean if (row["backbone"], row["retrieval"]) == names]
            if plain:
                axes.axhline(float(np.mean(plain)), color=colour, ls="--", label=name)
        log_axis(axes)
        axes.set_xlabel(along)
    finish(panels, "test accuracy, clean")
    return figure


def table(material: Material) -> str:
    """What each ablation did, in numbers, and what is in none.

    Results in results/kept, of runs with other parameters too: those that differ in one key of
    params.yaml alone, and by seed. Means over seeds, with 95 % intervals over these where there
    are three or more. The epoch was chosen on validation; test measurements during training were
    used for nothing.
    """
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in material.ablation_notes)
    return ablation_table(material.ablations).html() + notes


def final_accuracy(material: Material) -> Figure | None:
    """Test accuracy against the value of each key.

    Clean test accuracy of the epoch that was best on validation, against the value of what was
    changed alone. A tick stands at each value that was run; bars are 95 % intervals over seeds,
    where there are three or more.
    """
    return accuracy_by_value(material.ablations)


def learning_curves(material: Material) -> Figure | None:
    """Loss and accuracy by epoch, on training and on test images, a curve a value.

    Means over seeds. The loss of training is what was minimised, with whatever is mixed or
    smoothed; that of the test is the cross-entropy. Nothing was chosen on test images.
    """
    return curves_by_value(material.ablations)


def ablation_table(ablations: Sequence[Ablation]) -> Table:
    """A line an ablation, classifier and value; no rows without ablations."""
    rows = table_rows(ablations)
    heads = ["what differs", "value", "classifier", "neighbours", "seeds", "parameters"]
    heads += ["epoch", "train loss", "train, %", "validation, %", "test loss", "test, %"]
    heads += ["95 % interval", "test, top-3, %", "test, strongest noise, %"]
    lines = []
    for row in rows:
        interval = NOTHING
        if row["low"] is not None:
            interval = f"{100 * row['low']:.1f}, {100 * row['high']:.1f}"
        lines.append(
            [
                *(row[name] for name in ("key", "value", "backbone", "retrieval", "seeds")),
                f"{row['parameters']:,}",
                f"{row['best_epoch']:g}",
                *(
                    _cell(row["train_loss"], 1),
                    _cell(row["train_top1"]),
                    _cell(row["validation_top1"]),
                ),
                *(_cell(row["test_loss"], 1), _cell(row["test_top1"]), interval),
                *(_cell(row["test_top3"]), _cell(row["noisy_top1"] if row["noise_std"] else None)),
            ]
        )
    return Table(heads, lines)


def _cell(value: float | None, factor: int = 100) -> str:
    if value is None:
        return NOTHING
    return f"{factor * value:.1f}" if factor > 1 else f"{value:.3f}"


@styled
def accuracy_by_value(ablations: Sequence[Ablation]) -> Figure | None:
    """Clean test accuracy against the value of the first key of each ablation, a panel each.

    A line a classifier, and of several keys a line for each combination of the others too.
    """
    if not ablations:
        return None
    titles = [", ".join(ablation.keys) for ablation in ablations]
    title = "Clean test accuracy, with 95 % intervals over seeds"
    figure, panels = panels_of(titles, title)
    lines = [_lines(ablation) for ablation in ablations]
    look = looks(dict.fromkeys(name for of_panel in lines for name in of_panel))
    for ablation, of_panel, axes in zip(ablations, lines, panels.values(), strict=True):
        values = list(dict.fromkeys(value[0] for value in ablation.values))
        position = _scale(axes, values)
        for name, points in of_panel.items():
            xs = [position[value] for value in points]
            means = np.array([np.mean(accuracies(trials)) for trials in points.values()])
            intervals = [accuracy_interval(trials) for trials in points.values()]
            ends = np.array(
                [
                    [m - i.low, i.high - m] if i else [0, 0]
                    for m, i in zip(means, intervals, strict=True)
                ]
            ).T
            bars = ends if ends.any() else None
            style = {
                **look[name],
                "ls": look[name].get("ls", "-") if is_number(values[0]) else "none",
            }
            axes.errorbar(xs, means, yerr=bars, label=name, ms=4, capsize=2, elinewidth=1, **style)
        axes.set_xlabel(ablation.keys[0])
    finish(panels, "test accuracy, clean")
    return figure


def _lines(ablation: Ablation) -> dict[str, dict[Any, Sequence[Trial]]]:
    """Trials by the value of the first key, a line a classifier and value of the other keys."""
    lines: dict[str, dict[Any, Sequence[Trial]]] = defaultdict(dict)
    for series in ablation.series:
        for value, trials in series.trials.items():
            others = f", {label(ablation.keys[1:], value[1:])}" if value[1:] else ""
            lines[series.name + others][value[0]] = trials
    return lines


def _scale(axes: Axes, values: Sequence[Any]) -> dict[Any, float]:
    """Put a tick at each value, and nowhere else; returns where each lies.

    Numbers lie where they are, on a logarithmic axis if they span much; side by side where their
    labels would overlap, and so do names.
    """
    names = [value_words(value) for value in values]
    places = {value: float(i) for i, value in enumerate(values)}
    if all(map(is_number, values)):
        numbers = np.array(values, np.float64)
        logarithmic = bool(numbers.min() > 0 and numbers.max() >= WIDE * numbers.min())
        spots = np.log10(numbers) if logarithmic else numbers
        if len(spots) < 2 or np.diff(spots).min() >= APART * np.ptp(spots):
            places = {value: float(value) for value in values}
            if logarithmic:
                axes.set_xscale("log")
    long = max(map(len, names)) * len(names) > LETTERS
    axes.set_xticks(list(places.values()), names, **(SLANTED if long else {}))
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_xscale() == "linear":
        axes.margins(x=0.08)
    return places


@styled
def curves_by_value(ablations: Sequence[Ablation]) -> Figure | None:
    """Four panels a classifier: loss and accuracy by epoch, in training and test, a curve a value.

    Of the first classifiers, if there are many.
    """
    rows = [(ablation, series) for ablation in ablations for series in ablation.series][:MOST_ROWS]
    if not rows:
        return None
    size = (3.3 * len(CURVES), 0.5 + 2.7 * len(rows))
    figure, grid = plt.subplots(
        len(rows), len(CURVES), figsize=size, squeeze=False, layout="constrained"
    )
    figure.suptitle("Learning curves, by what differs", fontsize=11, fontweight="bold")
    for (ablation, series), panels in zip(rows, grid, strict=True):
        look = _looks_of(ablation.values)
        for measure, axes in zip(CURVES, panels, strict=True):
            for value, trials in series.trials.items():
                if points := by_epoch(trials, measure.column):
                    band(axes, points, label(ablation.keys, value), look[value])
            axes.set(title=f"{series.name}: {measure.title}", xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[-1].legend(
            title="\n".join(ablation.keys),
            title_fontsize=8,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return figure


def _looks_of(values: Sequence[Value]) -> dict[Value, Look]:
    """Numbers from dark to light by size; names as strategies look."""
    if all(is_number(value[0]) for value in values):
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.88, len(values)))
        marks = cycle(MARKERS)
        return {
            value: {"color": tuple(shade), "marker": mark}
            for value, shade, mark in zip(values, shades, marks, strict=False)
        }
    look = looks([str(value) for value in values])
    return {value: look[str(value)] for value in values}
