"""The study's figures; each is None where there is nothing to draw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from matplotlib.figure import Figure

from rapipe.config.names import NOISY
from rapipe.report import curves
from rapipe.report import figures as drawn
from rapipe.report.style import Point, band, finish, line, log_axis, looks, panels_of, styled
from study.results import MAIN, Key, StudyResults, run_rows


def figures(found: StudyResults) -> Iterator[tuple[str, Figure | None]]:
    """Each figure with the name of its file, one after the other."""
    main = {key: found.runs[key] for key in found.keys(MAIN)}
    histories = {
        (key.backbone, key.retrieval): [run["history"] for run in runs]
        for key, runs in main.items()
    }
    yield "headline", headline(found)
    yield "steps", curves.accuracy_curves(histories, "step") if histories else None
    yield "noise", noise(found)
    yield "cells", cells(found)
    for axis, start in (("k", "k-"), ("bank_size", "bank-")):
        yield start.strip("-"), curves.ablation_curves(_rows(found, start), axis)
    yield "labels", labels(found)


def _points(found: StudyResults, key: Key, voted: bool = False) -> list[Point]:
    """Mean over seeds and images at each noise level, with its 95 % interval."""
    right = found.voted(key)[:1] if voted else found.correct(key)
    points = []
    for place, level in enumerate(found.levels):
        own = right[:, place]
        points.append(Point(level, float(own.mean()), *found.interval(own)))
    return points


@styled
def headline(found: StudyResults) -> Figure | None:
    """Both questions in one: accuracy while it learns, and against noise."""
    keys = found.keys(MAIN)
    if not keys:
        return None
    look = looks(key.retrieval for key in keys)
    backbones = list(dict.fromkeys(key.backbone for key in keys))
    names = [
        *(f"{own}: as it learns" for own in backbones),
        *(f"{own}: noise" for own in backbones),
    ]
    figure, panels = panels_of(names, "Test accuracy, with neighbours and without", rows=2)
    for key in keys:
        style, above = look[key.retrieval], panels[f"{key.backbone}: as it learns"]
        points: dict[float, list[float]] = defaultdict(list)
        for run in found.runs[key]:
            for row in run["history"]:
                points[row["step"]].append(row["test_top1_not_for_selection"])
        band(above, points, key.retrieval, style)
        log_axis(above)
        above.set_xlabel("optimiser step")
        below = panels[f"{key.backbone}: noise"]
        line(below, _points(found, key), key.retrieval, style)
        if key.retrieval == "knn":
            line(below, _points(found, key, voted=True), "vote of knn", drawn.VOTE)
        below.set_xlabel(drawn.NOISE)
    for backbone, key in found.hardened():
        told = "none" if key.retrieval == "none" else "knn by an encoder that saw noise"
        style = {**look[key.retrieval], "ls": "--"}
        line(panels[f"{backbone}: noise"], _points(found, key), f"{told}, noise in training", style)
    finish(panels, "test accuracy")
    return figure


def noise(found: StudyResults) -> Figure | None:
    """Accuracy of `main` against noise, and of the best vote."""
    keys = found.keys(MAIN)
    if not keys:
        return None
    look = looks(key.retrieval for key in keys)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for key in keys:
        panel = panels.setdefault(key.backbone, {})
        panel[key.retrieval] = drawn.Line(_points(found, key), look[key.retrieval])
        if key.retrieval == "knn":
            panel["vote of knn"] = drawn.Line(_points(found, key, voted=True), drawn.VOTE)
    title = "Test accuracy against noise, with 95 % intervals"
    return drawn.curves_over_noise(panels, title, "test accuracy")


def cells(found: StudyResults) -> Figure | None:
    """{neighbours or not} x {noise in training or not}."""
    look = looks(told.lower() for _, told, _ in found.cells())
    panels: dict[str, dict[str, drawn.Line]] = {}
    for backbone, told, key in found.cells():
        noisy = key.backbone.endswith(NOISY)
        style = {**look[told.lower()], "ls": "--" if noisy else "-"}
        own = drawn.Line(_points(found, key), style)
        panels.setdefault(backbone, {})[told + noisy * ", noise in training"] = own
    if not panels:
        return None
    title = "Test accuracy: neighbours or not, noise in training or not"
    return drawn.curves_over_noise(panels, title, "test accuracy")


@styled
def labels(found: StudyResults) -> Figure | None:
    """Clean accuracy against the share of the labels."""
    settings = [*found.settings("labels-"), MAIN]
    keys = [key for setting in settings for key in found.keys(setting)]
    shown = list(dict.fromkeys(key.backbone for key in keys if key.setting != MAIN))
    if not shown:
        return None
    look = looks(("none", "knn"))
    figure, panels = panels_of(shown, "Clean test accuracy against the share of labels")
    for backbone in shown:
        votes = {}
        for retrieval in ("none", "knn"):
            points = {}
            for key in keys:
                if (key.backbone, key.retrieval) == (backbone, retrieval):
                    train = found.runs[key][0]["parameters"]["train"]
                    points[100 * train["label_fraction"]] = found.top1(key, 0)
                    if retrieval == "knn":
                        votes[100 * train["label_fraction"]] = [
                            float(found.voted(key)[0, 0].mean())
                        ]
            band(panels[backbone], points, retrieval, look[retrieval])
        band(panels[backbone], votes, "best vote", drawn.VOTE)
        log_axis(panels[backbone])
        panels[backbone].set_xlabel("labels known, %")
    finish(panels, "test accuracy, clean")
    return figure


def _rows(found: StudyResults, start: str) -> list[dict]:
    """Rows of a series and of `main`, for the backbones that the series has."""
    shown = {key.backbone for s in found.settings(start) for key in found.keys(s)}
    return [
        row
        for row in run_rows(found)
        if row["backbone"] in shown
        and (row["setting"] == MAIN or row["setting"].startswith(start))
        and row["retrieval"] != "sampled"
    ]
