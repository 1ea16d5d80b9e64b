"""Accuracy with its floors, and which differences are more than chance.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rapipe.config.names import NOISY
from rapipe.evaluation import statistics
from rapipe.evaluation.comparisons import NOISE, VOTE, Claim
from rapipe.evaluation.evidence import (
    CONTROL,
    CounterfactualStack,
    Evidence,
    Key,
    Run,
    interval_words,
    level_words,
)
from rapipe.evaluation.statistics import Interval, Verdict
from rapipe.records import OTHER_IMAGE
from rapipe.report import figures as drawn
from rapipe.report import tables
from rapipe.report.style import Point, looks


def findings(found: Evidence, made: Sequence[Claim]) -> str:
    """The answers in sentences, as an HTML list."""
    said = []
    for backbone in found.backbones:
        for strategy in found.looking_up(backbone):
            own = [c for c in made if (c.backbone, c.first) == (backbone, strategy)]
            swaps = found.swaps((backbone, strategy))
            lines = [
                _compared("Against the same without neighbours", own, "none"),
                _compared("Against noise in training instead of neighbours", own, NOISE),
                _voted(found, (backbone, strategy), own),
            ]
            if swaps:
                lines.append(_reliance(found, backbone, swaps))
            name = html.escape(f"{backbone} with {strategy}")
            items = "".join(f"<li>{line}</li>" for line in lines if line)
            said.append(f"<li><b>{name}</b><ul>{items}</ul></li>")
    seeds = len(next(iter(found.runs.values())))
    if not said:
        said = ["<li>No classifier here looks anything up: there is nothing to claim.</li>"]
    return (
        f"<ul>{''.join(said)}</ul><p>Differences of accuracy in points, with 95 % intervals. "
        f"“Better” and “worse” are said only of {statistics.MIN_SEEDS} seeds or more; this run "
        f"has {seeds}.</p>"
    )


def _reliance(found: Evidence, backbone: str, swaps: Mapping[str, CounterfactualStack]) -> str:
    """How far predictions hang on the neighbours, and what they are worth once trained."""
    moved = found.interval(swaps[OTHER_IMAGE].moved)
    said = (
        f"Reliance on its own neighbours (0 to 1): {swaps[OTHER_IMAGE].moved.mean():.3f} "
        f"[{moved.low:.3f}, {moved.high:.3f}]"
    )
    control = found.swaps((backbone, CONTROL)) if (backbone, CONTROL) in found.stacks else {}
    if control:
        said += f", on random ones {control[OTHER_IMAGE].moved.mean():.3f}"
    change = swaps["none"].change
    points = f"{100 * change.mean():+.1f} [{interval_words(found.interval(change))}]"
    return f"{said}. Without neighbours the trained network itself changes by {points}."


def _compared(what: str, own: Sequence[Claim], second: str) -> str:
    parts = [
        f"{level_words(c.noise_std)} {_points(c.verdict)}, {c.words}"
        for c in own
        if c.second == second
    ]
    return f"{what}: {'; '.join(parts)}." if parts else ""


def _voted(found: Evidence, key: Key, own: Sequence[Claim]) -> str:
    """Whether the learned fusion beats the best vote of the same neighbours."""
    second = f"{VOTE} of {key[1]}"
    best = best_baseline(vote_baselines(found.runs[key][0]))
    if best is None:
        return "No neighbour has a class of the task, so there is no vote to beat."
    vote = f"the best vote of its neighbours ({best.vote}, k = {best.k}, {best.top1[0]:.1%})"
    lost = [
        level_words(c.noise_std)
        for c in own
        if c.second == second and (c.verdict.difference <= 0 or c.words == statistics.NOTHING)
    ]
    beaten = f" <b>Its learned fusion is not shown to beat that vote: {', '.join(lost)}.</b>"
    return _compared(f"Against {vote}", own, second) + (beaten if lost else "")


def _points(own: Verdict) -> str:
    return f"{100 * own.difference:+.1f} [{interval_words(own.interval)}]"


def claim_rows(made: Sequence[Claim]) -> list[dict[str, object]]:
    """The same as rows of a CSV."""
    return [
        {
            "backbone": c.backbone,
            "first": c.first,
            "second": c.second,
            "noise_std": c.noise_std,
            "difference": c.verdict.difference,
            "low": c.verdict.interval.low,
            "high": c.verdict.interval.high,
            "mcnemar": c.verdict.mcnemar,
            "p": c.verdict.p,
            "adjusted_mcnemar": c.adjusted_mcnemar,
            "adjusted_p": c.adjusted_p,
            "without_lookalikes": None if np.isnan(c.without) else c.without,
            "seeds": c.verdict.seeds,
            "words": c.words,
        }
        for c in made
    ]


def claims_table(made: Sequence[Claim]) -> str:
    """A line a comparison."""
    heads = ["classifier", "comparison", "images", "difference, points", "95 % interval"]
    heads += ["without lookalikes", "seeds", "p, McNemar", "p, seeds too", "in words"]
    lines = [
        [
            html.escape(c.backbone),
            html.escape(f"{c.first} minus {c.second}"),
            level_words(c.noise_std),
            f"{100 * c.verdict.difference:+.1f}",
            interval_words(c.verdict.interval),
            tables.NOTHING if np.isnan(c.without) else f"{100 * c.without:+.1f}",
            str(c.verdict.seeds),
            *("&lt; .001" if p < 0.001 else f"{p:.3f}" for p in (c.adjusted_mcnemar, c.adjusted_p)),
            c.words,
        ]
        for c in made
    ]
    return tables.table_of(heads, lines)


def points_of(found: Evidence, values: npt.NDArray[Any], factor: float = 1) -> list[Point]:
    """Means of values (S, L, N) with 95 % intervals, one a level."""
    points = []
    for place, level in enumerate(found.levels):
        own = values[:, place]
        ends = (factor * end for end in found.interval(own))
        points.append(Point(level, factor * float(own.mean()), *ends))
    return points


def accuracy_over_noise(found: Evidence) -> Figure:
    """Accuracy of each condition and of its best vote."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for (backbone, strategy), own in found.stacks.items():
        points = points_of(found, own.correct)
        panel = panels.setdefault(backbone, {})
        panel[strategy] = drawn.Line(points, look[strategy])
        if own.voted is not None and strategy != CONTROL:
            vote = points_of(found, own.voted[:1])
            colour = {"color": look[strategy]["color"]}
            panel[f"vote of {strategy}"] = drawn.Line(vote, {**drawn.VOTE, **colour})
    title = "Test accuracy against noise, with 95 % intervals"
    return drawn.curves_over_noise(panels, title, "test accuracy")


def differences_over_noise(found: Evidence) -> Figure | None:
    """What each strategy adds to the accuracy of the same classifier without neighbours."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for backbone, strategy in found.retrieving():
        plain = found.stacks[backbone, "none"].correct.astype(np.float64)
        added = found.stacks[backbone, strategy].correct - plain
        points = points_of(found, added, 100)
        panels.setdefault(backbone, {})[strategy] = drawn.Line(points, look[strategy])
    title = "Accuracy with neighbours minus without, with 95 % intervals"
    return drawn.curves_over_noise(panels, title, "difference, points", zero=True)


def four_cells(found: Evidence) -> Figure | None:
    """{neighbours or not} x {noise in training or not}, for backbones that have both."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for backbone in found.backbones:
        noisy = backbone + NOISY
        if noisy not in found.backbones:
            continue
        for strategy in found.strategies(backbone):
            if strategy == CONTROL:
                continue
            for name, dashes in ((backbone, "-"), (noisy, "--")):
                own = found.stacks[name, strategy]
                label = f"{strategy}{', noise in training' if name == noisy else ''}"
                points = points_of(found, own.correct)
                style = {**look[strategy], "ls": dashes}
                panels.setdefault(backbone, {})[label] = drawn.Line(points, style)
    if not panels:
        return None
    title = "Test accuracy: neighbours or not, noise in training or not"
    return drawn.curves_over_noise(panels, title, "test accuracy")


def vote_baselines(run: Run) -> list[tables.VoteBaseline]:
    """Every vote of the neighbours of one evaluation."""
    found: dict[str, tables.VoteBaseline] = {}
    for row in run["votes"]:
        new = tables.VoteBaseline(
            run["rows"][0]["retrieval"], row["vote"], row["k"], {}, row["validation_top1"]
        )
        floor = found.setdefault(row["vote"], new)
        found[row["vote"]] = floor._replace(top1={**floor.top1, row["noise_std"]: row["top1"]})
    return list(found.values())


def best_baseline(floors: Sequence[tables.VoteBaseline]) -> tables.VoteBaseline | None:
    """The vote that was best on validation; None where nobody votes."""
    return max(floors, key=lambda floor: floor.chosen_by, default=None)


def baseline_lines(found: Evidence) -> list[tables.VoteBaseline]:
    """Every vote of every strategy's neighbours: they are the same for all classifiers."""
    first: dict[str, Run] = {}
    for key in found.retrieving():
        first.setdefault(key[1], found.runs[key][0])
    return [floor for run in first.values() for floor in vote_baselines(run)]


def clean_intervals(found: Evidence) -> dict[Key, Interval]:
    """Of clean accuracy, no further than 0 and 1."""
    spans = {key: found.interval(own.correct[:, 0]) for key, own in found.stacks.items()}
    return {key: Interval(max(0, own.low), min(1, own.high)) for key, own in spans.items()}


def lookalikes_table(found: Evidence) -> str:
    """Every accuracy without the test images that are most like the memory; empty if none are."""
    if not found.lookalikes.any() or found.lookalikes.all():
        return ""
    heads = ["classifier", "retrieval", *map(level_words, found.levels)]
    lines: dict[str, list[str]] = {}
    for (backbone, strategy), own in found.stacks.items():
        vote = f"best vote of {strategy}"
        if own.voted is not None and vote not in lines:
            lines[vote] = ["no training", vote, *_percents(found, own.voted)]
        values = _percents(found, own.correct)
        lines[f"{backbone} {strategy}"] = [backbone, strategy, *values]
    order = sorted(lines.values(), key=lambda line: line[0] != "no training")
    return tables.table_of(heads, [[*map(html.escape, line)] for line in order])


def _percents(found: Evidence, right: npt.NDArray[np.bool_]) -> list[str]:
    levels = range(len(found.levels))
    return [f"{100 * found.without_lookalikes(right[:, place]):.1f}" for place in levels]
