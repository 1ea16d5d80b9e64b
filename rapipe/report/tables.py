"""Tables of the page, as HTML."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rapipe.report.style import Condition, Row, over_seeds, spread

NOTHING = "&ndash;"
TARGETS = (0.5, 0.8)
"""Test accuracies whose first steps the table gives."""


class Floor(NamedTuple):
    """A vote of neighbours, which needed no training."""

    retrieval: str
    vote: str
    k: int
    top1: Mapping[float, float]
    """By noise level."""


class Measured(NamedTuple):
    """What the table says of a condition beyond its accuracies."""

    first_steps: Sequence[float | None]
    """For each of `TARGETS`, the mean first measured step with that test accuracy."""
    area: float
    """Under test accuracy against images seen."""
    low: float
    high: float
    """95 % interval of clean accuracy."""
    without_lookalikes: float
    """Clean accuracy without the test images that are most like the memory."""


def table(
    rows: Sequence[Row], measured: Mapping[Condition, Measured], floors: Sequence[Floor]
) -> str:
    """HTML: a line a floor, then a line a condition, accuracy in percent, mean over seeds.

    Several seeds have a standard deviation. What is not `measured` stays empty.
    """
    conditions = over_seeds(rows, "top1")
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "k", "memory", "seeds"]
    heads += [f"steps to {target:.0%}" for target in TARGETS]
    heads += ["area", "clean", "95 % interval", "without lookalikes"]
    heads += [f"noise {level:g}" for level in levels if level]
    lines = [
        [
            *("no training", f"{html.escape(floor.retrieval)}: {floor.vote} vote", str(floor.k)),
            *(NOTHING,) * 5,
            f"{100 * floor.top1[0]:.1f}",
            *(NOTHING,) * 2,
            *(_percent([floor.top1[own]]) if own in floor.top1 else NOTHING for own in levels[1:]),
        ]
        for floor in floors
    ]
    for condition, values in conditions.items():
        backbone, retrieval, k, bank = condition
        own = measured.get(condition)
        steps = own.first_steps if own else [None] * len(TARGETS)
        lines.append(
            [
                html.escape(backbone),
                html.escape(retrieval),
                str(k or NOTHING),
                f"{bank:,}" if bank else NOTHING,
                str(len(values[0.0])),
                *(NOTHING if step is None else f"{step:.0f}" for step in steps),
                f"{own.area:.3f}" if own else NOTHING,
                _percent(values.get(0.0, [])),
                f"{100 * own.low:.1f}, {100 * own.high:.1f}" if own else NOTHING,
                f"{100 * own.without_lookalikes:.1f}" if own else NOTHING,
                *(_percent(values.get(level, [])) for level in levels if level),
            ]
        )
    return table_of(heads, lines)


def edits_table(rows: Sequence[Row]) -> str:
    """HTML: a line a (classifier, retrieval, memory), larger ones first."""
    found: dict[tuple[str, str, str, int], dict[float, list[float]]] = {}
    for row in sorted(rows, key=lambda row: -row["bank_size"]):
        key = (row["backbone"], row["retrieval"], row["memory"], row["bank_size"])
        found.setdefault(key, defaultdict(list))[row["noise_std"]].append(row["top1"])
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "memory", "images in it", "seeds"]
    heads += ["clean" if level == 0 else f"noise {level:g}" for level in levels]
    order = {name: place for place, name in enumerate(dict.fromkeys(r["backbone"] for r in rows))}
    lines = [
        [
            *(html.escape(name) for name in key[:3]),
            f"{key[3]:,}",
            str(len(values[0.0])),
            *(_percent(values.get(level, [])) for level in levels),
        ]
        for key, values in sorted(found.items(), key=lambda own: order[own[0][0]])
    ]
    return table_of(heads, lines)


def table_of(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """HTML of a table, cells as they are; a rule stands where the first cell changes."""
    made = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    previous = ""
    for cells in lines:
        start = ' class="first"' if cells[0] != previous else ""
        previous = cells[0]
        made.append(f"<tr{start}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "<table>" + "".join(made) + "</table>"


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * spread(values):.1f}"


def first_step(histories: Sequence[Sequence[Row]], target: float) -> float | None:
    """Mean over seeds of the first measured step with test accuracy of at least `target`."""
    firsts = []
    for history in histories:
        reached = [r["step"] for r in history if r["test_top1_not_for_selection"] >= target]
        if not reached:
            return None
        firsts.append(reached[0])
    return float(np.mean(firsts))
