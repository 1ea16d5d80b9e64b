"""Accuracy with its floors, and which differences are more than chance.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rapipe.evaluation import statistics
from rapipe.evaluation.statistics import Verdict
from rapipe.params import NOISY
from rapipe.pipeline.evidence import (
    CONTROL,
    Evidence,
    Key,
    interval_words,
    level_words,
    spread_words,
)
from rapipe.report import evidence as drawn
from rapipe.report import tables
from rapipe.report.style import Point, looks


class Claim(NamedTuple):
    """One comparison at one noise level."""

    backbone: str
    first: str
    second: str
    noise_std: float
    verdict: Verdict
    adjusted_p: float

    @property
    def words(self) -> str:
        return statistics.words(self.verdict, self.adjusted_p)


VOTE = "the best vote"
NOISE = "none, noise in training"


def claims(found: Evidence) -> list[Claim]:
    """Which differences were tested: on clean images and at the strongest noise.

    Each strategy against none and the control; what looks something up also
    against the best vote of its neighbours, and against noise in training without
    neighbours. P-values are adjusted for all of them.
    """
    compared = []
    for backbone in found.backbones:
        rights = _rights(found, backbone)
        for one, other in _pairs(list(rights)):
            for level in sorted({0, len(found.levels) - 1}):
                a, b = rights[one][:, level], rights[other][:, level]
                verdict = statistics.compare(a, b, found.seed)
                compared.append((backbone, one, other, found.levels[level], verdict))
    adjusted = statistics.holm([verdict.p for *_, verdict in compared])
    return [Claim(*own, p) for own, p in zip(compared, adjusted, strict=True)]


def _rights(found: Evidence, backbone: str) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is compared, whether it is right (S, L, N)."""
    rights = {name: found.stacks[backbone, name].correct for name in found.strategies(backbone)}
    for name in found.looking_up(backbone):
        voted = found.stacks[backbone, name].voted
        assert voted is not None
        rights[f"{VOTE} of {name}"] = voted
    noisy = found.stacks.get((backbone + NOISY, "none"))
    return {**rights, NOISE: noisy.correct} if noisy else rights


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is compared with what."""
    for other, one in combinations(names, 2):
        vote = other.startswith(VOTE) or one.startswith(VOTE)
        if not vote and NOISE not in (one, other) and other in ("none", CONTROL):
            yield one, other
        if one == f"{VOTE} of {other}":
            yield other, one
        if one == NOISE and not vote and other != CONTROL:
            yield (one, other) if other == "none" else (other, one)


def in_short(found: Evidence, made: Sequence[Claim]) -> str:
    """The answers in sentences, as an HTML list."""
    said = []
    for backbone in found.backbones:
        for strategy in found.looking_up(backbone):
            own = [c for c in made if (c.backbone, c.first) == (backbone, strategy)]
            moved = found.swaps((backbone, strategy)).get("another image's")
            lines = [
                _compared("Against the same without neighbours", own, "none"),
                _compared("Against noise in training instead of neighbours", own, NOISE),
                _voted(found, (backbone, strategy), own),
            ]
            if moved:
                how_far = spread_words(moved, "moved")
                lines.append(f"Reliance on its own neighbours (0 to 1): {how_far}.")
            name = html.escape(f"{backbone} with {strategy}")
            items = "".join(f"<li>{line}</li>" for line in lines if line)
            said.append(f"<li><b>{name}</b><ul>{items}</ul></li>")
    seeds = len(next(iter(found.runs.values())))
    return (
        f"<ul>{''.join(said)}</ul><p>Differences of accuracy in points, with 95 % intervals. "
        f"“Better” and “worse” are said only of {statistics.MIN_SEEDS} seeds or more; this run "
        f"has {seeds}.</p>"
    )


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
    best = max(_votes(found, key), key=lambda row: float(row["validation_top1"]))
    vote = f"the best vote of its neighbours ({best['vote']}, k = {best['k']}, {best['top1']:.1%})"
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
            "p": c.verdict.p,
            "adjusted_p": c.adjusted_p,
            "seeds": c.verdict.seeds,
            "words": c.words,
        }
        for c in made
    ]


def claims_table(made: Sequence[Claim]) -> str:
    """A line a comparison."""
    heads = ["classifier", "comparison", "images", "difference, points", "95 % interval"]
    heads += ["McNemar p, Holm", "seeds", "in words"]
    lines = [
        [
            html.escape(c.backbone),
            html.escape(f"{c.first} minus {c.second}"),
            level_words(c.noise_std),
            f"{100 * c.verdict.difference:+.1f}",
            interval_words(c.verdict.interval),
            "&lt; .001" if c.adjusted_p < 0.001 else f"{c.adjusted_p:.3f}",
            str(c.verdict.seeds),
            c.words,
        ]
        for c in made
    ]
    return tables.table_of(heads, lines)


def _line(
    values: npt.NDArray[Any], levels: Sequence[float], seed: int, factor: float = 1
) -> list[Point]:
    """Means of values (S, L, N) with 95 % intervals, one a level."""
    points = []
    for place, level in enumerate(levels):
        own = values[:, place].astype(np.float64)
        low, high = statistics.interval_of_mean(own, seed)
        points.append(Point(level, factor * float(own.mean()), factor * low, factor * high))
    return points


def accuracy_over_noise(found: Evidence) -> Figure:
    """Accuracy of each condition and of its best vote."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for (backbone, strategy), own in found.stacks.items():
        points = _line(own.correct, found.levels, found.seed)
        panel = panels.setdefault(backbone, {})
        panel[strategy] = drawn.Line(points, look[strategy])
        if own.voted is not None and strategy != CONTROL:
            vote = _line(own.voted[:1], found.levels, found.seed)
            panel[f"vote of {strategy}"] = drawn.Line(vote, drawn.VOTE)
    title = "Test accuracy against noise, with 95 % intervals"
    return drawn.curves_over_noise(panels, title, "test accuracy")


def differences_over_noise(found: Evidence) -> Figure | None:
    """What each strategy adds to the accuracy of the same classifier without neighbours."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, drawn.Line]] = {}
    for backbone, strategy in found.retrieving():
        plain = found.stacks[backbone, "none"].correct.astype(np.float64)
        added = found.stacks[backbone, strategy].correct - plain
        points = _line(added, found.levels, found.seed, 100)
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
                points = _line(own.correct, found.levels, found.seed)
                style = {**look[strategy], "ls": dashes}
                panels.setdefault(backbone, {})[label] = drawn.Line(points, style)
    if not panels:
        return None
    title = "Test accuracy: neighbours or not, noise in training or not"
    return drawn.curves_over_noise(panels, title, "test accuracy")


def _votes(found: Evidence, key: Key, level: float = 0.0) -> list[dict[str, Any]]:
    return [row for row in found.runs[key][0]["votes"] if row["noise_std"] == level]


def floor_lines(found: Evidence) -> list[tables.Floor]:
    """Every vote of every strategy's neighbours, for the table of accuracies."""
    first = {strategy: key for key in reversed(list(found.retrieving())) for strategy in key[1:]}
    return [
        tables.Floor(
            strategy,
            row["vote"],
            row["k"],
            {level: _votes(found, key, level)[place]["top1"] for level in found.levels},
        )
        for strategy, key in reversed(first.items())
        for place, row in enumerate(_votes(found, key))
    ]


def without_lookalikes(found: Evidence) -> dict[Key, tuple[float, float, float]]:
    """The interval of clean accuracy, and clean accuracy without lookalikes of the memory."""
    left = ~found.lookalikes
    return {
        key: (
            *statistics.interval_of_mean(own.correct[:, 0], found.seed),
            float(own.correct[:, 0][:, left].mean()) if left.any() else float("nan"),
        )
        for key, own in found.stacks.items()
    }
