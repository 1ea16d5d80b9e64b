"""How fast the study's classifiers learn, what they cost, and what they ran on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rapipe.evaluation.learning_curves import area, first_step
from rapipe.evaluation.results import Condition, Run
from rapipe.report.tables import NOTHING, Table, number
from study.results import MAIN, StudyResults


def names_of(condition: Condition) -> list[str]:
    """Backbone and neighbours, as tables call them."""
    return [condition.backbone, neighbours_of(condition)]


def neighbours_of(condition: Condition) -> str:
    """The neighbours of a condition, as tables call them."""
    return {"knn": "kNN"}.get(condition.retrieval, condition.retrieval)


def speed(results: StudyResults) -> Table:
    """How fast the classifiers of `main` learn, seed by seed against those without neighbours."""
    goal = _goal(results)
    heads = [
        "classifier",
        "neighbours",
        "area under the curve",
        "minus none",
        "95 % interval",
        f"steps to {goal:.0%}",
    ]
    rows = []
    for condition in results.of(MAIN):
        plain = condition._replace(retrieval="none")
        areas, plain_areas = _areas(results, condition), _areas(results, plain)
        gains = np.array([areas[seed] - plain_areas[seed] for seed in areas if seed in plain_areas])
        gain = [NOTHING, NOTHING]
        if condition != plain and len(gains) > 1:
            low, high = results.interval(gains[:, None])
            gain = [f"{gains.mean():+.3f}", f"{low:+.3f}, {high:+.3f}"]
        firsts = [first_step(history, goal) for history in results.histories[condition]]
        steps = f"{np.mean([step for step in firsts if step is not None]):.0f}"
        rows.append([*names_of(condition), number(list(areas.values())), *gain, steps])
    return Table(heads, rows)


def _areas(results: StudyResults, condition: Condition) -> dict[int, float]:
    """Area under test accuracy by seed."""
    areas = map(area, results.histories[condition])
    return dict(zip(results.seeds(condition), areas, strict=True))


def _goal(results: StudyResults) -> float:
    """The highest tenth of test accuracy that every classifier of `main` reaches."""
    best = [
        max(row["test_top1_not_for_selection"] for row in history)
        for condition in results.of(MAIN)
        for history in results.histories[condition]
    ]
    return math.floor(10 * min(best, default=0)) / 10


def seconds_of(runs: Sequence[Run], stage: str) -> float:
    """Median of what a stage took, of trainings that were not interrupted if there are any."""
    timed = [run for run in runs if not run.get("resumed")] or runs
    return float(np.median([run["seconds"][stage] for run in timed]))


def costs(results: StudyResults) -> Table:
    """Weights and seconds of the classifiers of `main`, and how many times those of none.

    Those that were made at once have the seconds of all of them.
    """
    heads = ["classifier", "neighbours", "weights", "times none's"]
    heads += ["seconds of training", "times none's", "of evaluation"]
    at_once = [max(map(together, results.runs[condition])) for condition in results.of(MAIN)]
    if max(at_once, default=1) > 1:
        heads.append("for so many at once")
    rows = []
    for condition, many in zip(results.of(MAIN), at_once, strict=True):
        weights, seconds = cost_of(results.runs[condition])
        ratios = [NOTHING, NOTHING]
        plain = condition._replace(retrieval="none")
        if condition != plain and plain in results.runs:
            plain_weights, plain_seconds = cost_of(results.runs[plain])
            ratios = [f"{weights / plain_weights:.2f}", f"{seconds / plain_seconds:.2f}"]
        evaluation = f"{seconds_of(results.runs[condition], 'eval'):.0f}"
        row = [*names_of(condition), f"{weights:,}", ratios[0], f"{seconds:.0f}", ratios[1]]
        rows.append([*row, evaluation, str(many)][: len(heads)])
    return Table(heads, rows)


def together(run: Run) -> int:
    """How many classifiers were made at once, in the seconds of the run."""
    return int(run.get("together", 1))


def cost_of(runs: Sequence[Run]) -> tuple[int, float]:
    """Weights, and seconds of training."""
    return runs[0]["weights"], seconds_of(runs, "train")


def machines(results: StudyResults) -> Table:
    """What it ran on."""
    counts: dict[str, int] = {}
    for run in results.every_run():
        machine = run["machine"]
        name = (
            f"{machine.get('gpu', machine['processor'])}, {machine['threads']} thread(s) a "
            f"process, {run['precision']}, torch {machine['torch']}, rapipe {machine['rapipe']}"
        )
        counts[name] = counts.get(name, 0) + 1
    return Table(["machine", "classifiers"], [[name, str(n)] for name, n in counts.items()])


def total(results: StudyResults) -> str:
    """Below the machines: how long all of it took."""
    seconds = sum(sum(run["seconds"].values()) / together(run) for run in results.every_run())
    seconds += sum(sum(record["costs"].values()) for record in results.encoders.values())
    return f"\nAll of it: {seconds / 3600:.1f} hours of one process.\n"
