"""Accuracy on corrupted images and on images from elsewhere, and whom a fusion trusts under noise.

Letters: S seeds, C corruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Condition, Row
from rapipe.report.style import Line, Panels, Point, curves_over_noise, looks
from rapipe.report.tables import NOTHING, Table, count, percent

TRUST = {
    "purity": "label purity of the neighbours",
    "reliance": "reliance on the neighbours",
    "neighbour_share": "share that the fusion gives them",
}
CORRUPTIONS, SHIFTS = "corruptions", "shifts"
"""Keys of what `rapipe eval` wrote."""


def trust_over_noise(evidence: Evidence) -> Figure | None:
    """Whom it trusts, and how far that is deserved.

    Means over test images and seeds. Label purity: the share of the neighbours that have the
    image's class. Reliance: how far the prediction moves when another image's neighbours are shown
    instead. Share: how much of its attention, or of its mixture, a fusion gives to neighbours, of
    one that may also give it to none. Where a fusion knows when to trust, both fall as purity
    does.
    """
    panels: Panels = {}
    look = looks(TRUST.values())
    for condition in evidence.searching():
        lines = {}
        for name, label in TRUST.items():
            points = _over_noise([run["rows"] for run in evidence.runs[condition]], name)
            if points:
                lines[label] = Line(points, look[label])
        if lines:
            panels[f"{condition.backbone}, {condition.retrieval}"] = lines
    title = "Trust in the neighbours under noise, and what they are worth"
    backbones = len(evidence.backbones)
    rows = backbones if len(panels) > backbones else 1
    return curves_over_noise(panels, title, "share", rows=rows)


def _over_noise(runs: Sequence[Sequence[Row]], name: str) -> list[Point]:
    """Mean over seeds of a value at each noise level, with the lowest and the highest."""
    points = []
    for rows in zip(*runs, strict=True):
        values = [row[name] for row in rows if name in row]
        if values:
            std = rows[0]["noise_std"]
            points.append(Point(std, float(np.mean(values)), min(values), max(values)))
    return points


def corruptions(evidence: Evidence) -> Table:
    """Test accuracy on corrupted images.

    Percent of the test split, mean over seeds. The corruptions are those of CIFAR-10-C, by name
    and severity; a corrupted image looks up the neighbours of its corrupted self, and `vote` is
    the best vote of these. Mean CE is the corruption error: the errors on all of these, summed, as
    a share of those of the same classifier without neighbours. Relative CE is the same of the
    errors that are added to the clean ones. Both are 100 for that classifier, and lower is better
    (Hendrycks and Dietterich, ICLR 2019, where AlexNet stands in its place).
    """
    return _table(evidence, CORRUPTIONS, lambda row: f"{row['corruption']}:{row['severity']}")


def elsewhere(evidence: Evidence) -> Table:
    """Accuracy on images from elsewhere.

    Sources with `role: shift`, of which nothing was learned and nothing is looked up: percent of
    their images of classes that the task has, mean over seeds. `vote` is the best vote of the
    neighbours.
    """
    return _table(evidence, SHIFTS, lambda row: str(row["shift"]))


def _table(evidence: Evidence, kind: str, name_of: Callable[[Row], str]) -> Table:
    conditions = [c for c in evidence.runs if any(run.get(kind) for run in evidence.runs[c])]
    if not conditions:
        return Table([], [])
    names = [name_of(row) for row in evidence.runs[conditions[0]][0][kind]]
    heads = ["classifier", "retrieval", *names]
    if kind == CORRUPTIONS:
        heads += ["mean", "mean CE", "relative CE"]
    lines = []
    for condition in conditions:
        runs = evidence.runs[condition]
        top1 = np.array([[row["top1"] for row in run[kind]] for run in runs])  # (S, corruptions)
        cells = [percent(column) for column in top1.T.tolist()]
        if kind == CORRUPTIONS:
            cells += [percent(top1.mean(axis=1).tolist()), *_errors(evidence, condition)]
        lines.append([condition.backbone, condition.retrieval, *cells])
    lines += list(_votes(evidence, kind, len(heads)))
    return Table(heads, lines)


def _errors(evidence: Evidence, condition: Condition) -> Iterator[str]:
    """Mean and relative corruption error, in percent of those without neighbours."""
    plain = evidence.runs.get(Condition(condition.backbone, "none"))
    if plain is None:
        yield from (NOTHING, NOTHING)
        return
    ours, theirs = _error_sums(evidence.runs[condition]), _error_sums(plain)
    for own, reference in zip(ours, theirs, strict=True):
        yield f"{100 * own / reference:.0f}" if reference > 0 else NOTHING


def _error_sums(runs: Sequence[Row]) -> tuple[float, float]:
    """Errors summed over corruptions, and those beyond the clean ones; means over seeds."""
    corrupted = np.array([[1 - row["top1"] for row in run[CORRUPTIONS]] for run in runs])
    clean = np.array([1 - run["rows"][0]["top1"] for run in runs])
    return float(corrupted.sum(1).mean()), float((corrupted - clean[:, None]).sum(1).mean())


def _votes(evidence: Evidence, kind: str, width: int) -> Iterator[list[str]]:
    """A line a strategy: they are the same for every classifier."""
    seen: set[str] = set()
    for condition in evidence.searching():
        rows = evidence.runs[condition][0].get(kind, [])
        if condition.retrieval in seen or not rows or "vote_top1" not in rows[0]:
            continue
        seen.add(condition.retrieval)
        values = [row["vote_top1"] for row in rows]
        cells = [percent([value]) for value in values]
        mean = [percent([float(np.mean(values))])] if kind == CORRUPTIONS else []
        line = ["no training", f"{condition.retrieval}: vote", *cells, *mean]
        yield [*line, *[NOTHING] * (width - len(line))]


def shifted_top1(
    evidence: Evidence, condition: Condition
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Names of shifts, and top-1 accuracy (S, C)."""
    names, top1 = corrupted_top1(evidence, condition)
    if names:
        yield count(len(names), "corruption"), top1
    runs = evidence.runs[condition]
    for i, row in enumerate(runs[0].get(SHIFTS, ())):
        yield str(row["shift"]), np.array([[run[SHIFTS][i]["top1"]] for run in runs])


def corrupted_top1(
    evidence: Evidence, condition: Condition
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Corruptions as NAME:SEVERITY, and top-1 accuracy (S, C) on each."""
    runs = evidence.runs[condition]
    names = [f"{row['corruption']}:{row['severity']}" for row in runs[0].get(CORRUPTIONS, ())]
    top1 = [[row["top1"] for row in run.get(CORRUPTIONS, ())] for run in runs]
    return names, np.array(top1, np.float64)
