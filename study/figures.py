"""The study's figures; to add one is to add a function and a line in `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from rapipe.config.names import NOISY
from rapipe.evaluation.results import Condition
from rapipe.report import style
from rapipe.report.ablations import ablation_curves
from rapipe.report.learning_curves import accuracy_by_step, accuracy_points
from rapipe.report.robustness import accuracy_over_noise
from rapipe.report.style import (
    Line,
    Look,
    Panels,
    band,
    curves_over_noise,
    draw_line,
    finish,
    log_axis,
    looks,
    panels_of,
    points_of,
    styled,
)
from study.results import MAIN, StudyResults, run_rows


@styled
def headline(results: StudyResults) -> Figure | None:
    """Both questions in one: accuracy while it learns, and against noise."""
    main = results.only(MAIN)
    if not main.stacks:
        return None
    look = style.strategy_looks(main)
    learning, noise = (
        {name: f"{name}: {panel}" for name in main.backbones} for panel in ("as it learns", "noise")
    )
    names = [*learning.values(), *noise.values()]
    figure, panels = panels_of(names, "Test accuracy, with neighbours and without", rows=2)
    for condition, stack in main.stacks.items():
        retrieval = condition.retrieval
        above, below = panels[learning[condition.backbone]], panels[noise[condition.backbone]]
        band(above, accuracy_points(main.histories[condition]), retrieval, look[retrieval])
        log_axis(above)
        above.set_xlabel("optimiser step")
        draw_line(below, retrieval, _line(results, condition, look[retrieval]))
        if retrieval == "knn" and stack.vote_correct is not None:
            points = points_of(results, stack.vote_correct[:1])
            draw_line(below, "vote of knn", Line(points, style.VOTE))
        below.set_xlabel(style.NOISE)
    for backbone, condition in results.hardened():
        none = condition.retrieval == "none"
        label = "none" if none else "knn by an encoder that saw noise"
        line = _line(results, condition, {**look[condition.retrieval], "ls": "--"})
        draw_line(panels[noise[backbone]], f"{label}, noise in training", line)
    finish(panels, "test accuracy")
    return figure


def _line(results: StudyResults, condition: Condition, look: Look) -> Line:
    """Accuracy against noise."""
    return Line(points_of(results, results.stacks[condition].correct), look)


def steps(results: StudyResults) -> Figure | None:
    """Accuracy of `main` while it learns."""
    return accuracy_by_step(results.only(MAIN))


def noise(results: StudyResults) -> Figure | None:
    """Accuracy of `main` against noise, and of the best vote."""
    return accuracy_over_noise(results.only(MAIN))


def cells(results: StudyResults) -> Figure | None:
    """{neighbours or not} x {noise in training or not}."""
    look = looks(words.lower() for _, words, _ in results.cells())
    panels: Panels = {}
    for backbone, words, condition in results.cells():
        noisy = condition.backbone.endswith(NOISY)
        dashed = {**look[words.lower()], "ls": "--" if noisy else "-"}
        label = words + noisy * ", noise in training"
        panels.setdefault(backbone, {})[label] = _line(results, condition, dashed)
    title = "Test accuracy: neighbours or not, noise in training or not"
    return curves_over_noise(panels, title, "test accuracy")


def neighbours(results: StudyResults) -> Figure | None:
    """Clean accuracy against the number of neighbours."""
    return _series(results, "k-", "k")


def memory(results: StudyResults) -> Figure | None:
    """Clean accuracy against the size of the memory."""
    return _series(results, "bank-", "bank_size")


def _series(results: StudyResults, start: str, axis: str) -> Figure | None:
    """Of a series of settings and of `main`, for the backbones that the series has."""
    backbones = {condition.backbone for condition in results.of(*results.settings(start))}
    rows = [
        row
        for row in run_rows(results)
        if row["backbone"] in backbones
        and (row["setting"] == MAIN or row["setting"].startswith(start))
        and row["retrieval"] != "sampled"
    ]
    return ablation_curves(rows, axis)


@styled
def labels(results: StudyResults) -> Figure | None:
    """Clean accuracy against the share of the labels."""
    settings = results.settings("labels-")
    backbones = list(dict.fromkeys(condition.backbone for condition in results.of(*settings)))
    if not backbones:
        return None
    look = looks(("none", "knn"))
    figure, panels = panels_of(backbones, "Clean test accuracy against the share of labels")
    for backbone, axes in panels.items():
        votes = {}
        for retrieval in ("none", "knn"):
            points = {}
            for setting in (*settings, MAIN):
                condition = Condition(backbone, retrieval, setting=setting)
                if condition in results.runs:
                    train = results.runs[condition][0]["parameters"]["train"]
                    share, votes_correct = (
                        100 * train["label_fraction"],
                        results.stacks[condition].vote_correct,
                    )
                    points[share] = results.top1(condition, 0)
                    if votes_correct is not None:
                        votes[share] = [float(votes_correct[0, 0].mean())]
            band(axes, points, retrieval, look[retrieval])
        band(axes, votes, "best vote", style.VOTE)
        log_axis(axes)
        axes.set_xlabel("labels known, %")
    finish(panels, "test accuracy, clean")
    return figure


FIGURES: dict[str, Callable[[StudyResults], Figure | None]] = {
    "headline": headline,
    "steps": steps,
    "noise": noise,
    "cells": cells,
    "k": neighbours,
    "bank": memory,
    "labels": labels,
}
"""Each figure by the name of its file; a function gives None where there is nothing to draw."""
