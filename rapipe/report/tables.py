"""Tables of the page, as HTML."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rapipe.report.style import Condition, Row, over_seeds, spread

NOTHING = "&ndash;"
Interval = tuple[float, float]


class VoteBaseline(NamedTuple):
    """A vote of neighbours, which needed no training."""

    retrieval: str
    vote: str
    k: int
    top1: Mapping[float, float]
    """By noise level."""
    chosen_by: float = 0.0
    """Accuracy on validation, by which the best vote is chosen."""


def table(
    rows: Sequence[Row], intervals: Mapping[Condition, Interval], floors: Sequence[VoteBaseline]
) -> str:
    """HTML: a line a floor, then a line a condition, accuracy in percent, mean over seeds.

    Several seeds have a standard deviation.

    Args:
        intervals: 95 % of clean accuracy, where it is known.
    """
    conditions, top3 = over_seeds(rows, "top1"), over_seeds(rows, "top3")
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "k", "memory", "seeds", "clean", "95 % interval"]
    heads += ["clean, top-3"]
    heads += [f"noise {level:g}" for level in levels if level]
    lines = [
        [
            *("no training", f"{html.escape(floor.retrieval)}: {floor.vote} vote", str(floor.k)),
            *(NOTHING, NOTHING, _percent([floor.top1[0]]), NOTHING, NOTHING),
            *(_percent([floor.top1[own]] if own in floor.top1 else []) for own in levels if own),
        ]
        for floor in floors
    ]
    for condition, values in conditions.items():
        backbone, retrieval, k, bank = condition
        span = intervals.get(condition)
        lines.append(
            [
                html.escape(backbone),
                html.escape(retrieval),
                str(k or NOTHING),
                f"{bank:,}" if bank else NOTHING,
                str(len(values[0.0])),
                _percent(values.get(0.0, [])),
                f"{100 * span[0]:.1f}, {100 * span[1]:.1f}" if span else NOTHING,
                _percent(top3[condition].get(0.0, [])),
                *(_percent(values.get(level, [])) for level in levels if level),
            ]
        )
    return table_of(heads, lines)


def edits_table(rows: Sequence[Row], floors: Mapping[str, VoteBaseline]) -> str:
    """HTML: the best vote of each memory, then a line a (classifier, retrieval, memory).

    Larger memories come first.
    """
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
            *("no training", f"{html.escape(floor.retrieval)}: {floor.vote} vote"),
            *(html.escape(memory), NOTHING, NOTHING),
            *(_percent([floor.top1[own]] if own in floor.top1 else []) for own in levels),
        ]
        for memory, floor in floors.items()
    ]
    lines += [
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
