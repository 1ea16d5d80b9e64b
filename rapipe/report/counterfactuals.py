"""What the classifiers' predictions hang on: swapped neighbours, drift under noise, attribution."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import CONTROL, Evidence, Key, interval_words, level_words
from rapipe.evaluation.statistics import Interval
from rapipe.pipeline.inputs import pictures
from rapipe.records import Images
from rapipe.report import figures as drawn
from rapipe.report import pictures as shown
from rapipe.report import tables
from rapipe.report.claims import points_of
from rapipe.report.style import Point, looks, spread

LISTED = 5
"""Rows of the memory in the table, for each classifier and side."""


def tables_of(found: Evidence, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The tables that there is something for, by section; `rows` are of the swaps."""
    made = {
        "swaps": "".join(
            f"<h3>{level_words(level)}</h3>{swap_table(rows, level)}"
            for level in found.swap_levels()
        ),
        "attribution": attribution_table(found),
        "blamed": blame_table(found),
    }
    return {name: table for name, table in made.items() if table}


def figures(
    found: Evidence, rows: Sequence[dict[str, Any]], train: Images
) -> Iterator[tuple[str, Figure | None]]:
    """Each figure with its section; None where there is nothing. `rows` are of the swaps."""
    yield "drift", drift_figure(found)
    yield "losses", losses_figure(found)
    yield "blame", blame_figure(found, train)
    if found.swap_levels():
        yield "swap-dots", swap_figure(found, rows)
    if 0 in found.swap_levels():
        yield "matrix", matrix_figure(found)


def swap_rows(found: Evidence) -> list[dict[str, Any]]:
    """A row a condition, noise level and swap: means over seeds, with 95 % intervals."""
    rows = []
    for key in found.retrieving():
        for (level, name), own in found.swapped[key].items():
            change, moved = found.interval(own.change), found.interval(own.moved)
            row: dict[str, Any] = {"backbone": key[0], "retrieval": key[1]}
            row |= {"noise_std": level, "swap": name, "seeds": len(own.rows)}
            for column in ("top1", "change", "flips", "kl", "moved", "follows"):
                row[column] = own.mean(column)
            row |= {"low": change.low, "high": change.high}
            rows.append({**row, "moved_low": moved.low, "moved_high": moved.high})
    return rows


def swap_figure(found: Evidence, rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy with each swap, by backbone and strategy in training, a row a noise level."""
    panels: dict[str, dict[str, dict[str, Point]]] = {}
    for place, row in enumerate(sorted(rows, key=lambda row: row["noise_std"])):
        top1, change = row["top1"], row["change"]
        span = (top1 - change + row[end] for end in ("low", "high"))
        panel = panels.setdefault(f"{row['backbone']}, {level_words(row['noise_std'])}", {})
        panel.setdefault(row["retrieval"], {})[row["swap"]] = Point(place, top1, *span)
    look = looks(strategy for _, strategy in found.stacks)
    return drawn.swap_dots(panels, look, len(found.swap_levels()))


def swap_table(rows: Sequence[dict[str, Any]], level: float) -> str:
    """What each swap does to the predictions at a noise level."""
    heads = ["classifier", "trained with", "neighbours shown", "accuracy, %", "change [95 %]"]
    heads += ["flips, %", "KL, nats", "moved [95 %]", "follows them, %"]
    lines = [
        [
            *(html.escape(row[name]) for name in ("backbone", "retrieval", "swap")),
            f"{100 * row['top1']:.1f}",
            f"{100 * row['change']:+.1f} [{interval_words(Interval(row['low'], row['high']))}]",
            f"{100 * row['flips']:.1f}",
            f"{row['kl']:.3f}",
            f"{row['moved']:.3f} [{row['moved_low']:.3f}, {row['moved_high']:.3f}]",
            tables.NOTHING if row["follows"] is None else f"{100 * row['follows']:.0f}",
        ]
        for row in rows
        if row["noise_std"] == level
    ]
    return tables.table_of(heads, lines)


def matrix_figure(found: Evidence) -> Figure:
    """Accuracy by strategy in training and strategy in the test."""
    trained = list(dict.fromkeys(strategy for _, strategy in found.stacks))
    tested = trained
    panels = {}
    for backbone in found.backbones:
        own = np.full((len(trained), len(tested)), np.nan)
        for i, strategy in enumerate(trained):
            if strategy == "none":
                own[i] = found.stacks[backbone, strategy].correct[:, 0].mean()
                continue
            swaps = found.swaps((backbone, strategy))
            for j, other in enumerate(tested):
                if other in swaps:  # else the memory could not serve it
                    own[i, j] = swaps[other].mean("top1")
        panels[backbone] = own
    return drawn.matrices(panels, trained, tested)


def drift_figure(found: Evidence) -> Figure | None:
    """Neighbourhoods under noise, by strategy; they are the same for every classifier."""
    panels: dict[str, dict[str, drawn.Line]] = {}
    names = {
        "recall": "still found",
        "rank_correlation": "rank correlation",
        "purity": "of the image's class",
    }
    look = looks(names.values())
    for key in found.retrieving():
        if key[1] in (CONTROL, *panels):
            continue
        panel = panels.setdefault(key[1], {})
        for name, label in names.items():
            rows = [row for row in found.runs[key][0]["drift"] if row[name] is not None]
            points = [Point(row["noise_std"], *[row[name]] * 3) for row in rows]
            if points:
                panel[label] = drawn.Line(points, look[label])
    title = "What noise does to the neighbours: means over the test images"
    return drawn.curves_over_noise(panels, title, "share, or correlation") if panels else None


def losses_figure(found: Evidence) -> Figure | None:
    """The accuracy lost to noise, in two parts, with intervals."""
    panels: dict[str, dict[str, drawn.Line]] = {}
    look = looks(["retrieval failed", "fusion failed"])
    for backbone in found.backbones:
        for strategy in found.looking_up(backbone):
            own = found.stacks[backbone, strategy]
            assert own.repaired is not None
            right, repaired = own.correct.astype(np.float64), own.repaired.astype(np.float64)
            parts = {
                "retrieval failed": repaired - right,
                "fusion failed": right[:, :1] - repaired,
            }
            panels[f"{backbone}, {strategy}"] = {
                name: drawn.Line(points_of(found, part, 100), look[name])
                for name, part in parts.items()
            }
    if not panels:
        return None
    title = "Accuracy lost to noise, by what failed, with 95 % intervals"
    several = len(panels) > len(found.backbones)  # strategies: a row a backbone
    rows = len(found.backbones) if several else 1
    return drawn.curves_over_noise(panels, title, "points lost", zero=True, rows=rows)


def attribution_table(found: Evidence) -> str:
    """Attention, its agreement with effect, and what pruning by effect does."""
    heads = ["classifier", "retrieval", "attention entropy", "agreement"]
    heads += ["largest effect", "rows seen", "that harmed", "pruned", "accuracy, %", "pruned"]
    heads += ["as many at random"]
    lines = []
    for key in found.retrieving():
        facts = [run["attribution"] for run in found.runs[key] if "attribution" in run]
        if not facts:
            continue
        swaps = found.swaps(key)
        names = (key[1], "pruned", "pruned at random")
        top1 = [
            f"{100 * (swaps[name].mean('top1') or 0):.1f}" if name in swaps else tables.NOTHING
            for name in names
        ]
        known = [own for own in facts if "agreement" in own]
        lines.append(
            [
                *map(html.escape, key),
                f"{np.mean([own['attention_entropy'] for own in facts]):.3f}",
                _agreement(known) if known else tables.NOTHING,
                f"{np.mean([own['largest_effect'] for own in facts]):.3f}",
                *(
                    f"{np.mean([own[name] for own in facts]):.0f}"
                    for name in ("rows", "harmful", "pruned")
                ),
                *top1,
            ]
        )
    return tables.table_of(heads, lines) if lines else ""


def _agreement(facts: Sequence[dict[str, Any]]) -> str:
    """Its mean, with the interval over images of one seed, or the deviation over several."""
    values = [own["agreement"] for own in facts]
    if len(facts) > 1:
        return f"{np.mean(values):.2f} ± {spread(values):.2f} over seeds"
    return f"{values[0]:.2f} [{facts[0]['low']:.2f}, {facts[0]['high']:.2f}]"


def _blamed(found: Evidence) -> Iterator[tuple[Key, str, list[dict[str, Any]]]]:
    """Of what looks something up, the rows that helped and that harmed, in the first seed."""
    for backbone in found.backbones:
        for strategy in found.looking_up(backbone):
            own = found.runs[backbone, strategy][0].get("attribution", {"help": [], "harm": []})
            for side, sign in (("help", 1), ("harm", -1)):
                rows = [row for row in own[side] if sign * row["effect"] > 0]
                if rows:
                    yield (backbone, strategy), side, rows


def blame_table(found: Evidence) -> str:
    """The rows of the memory that helped and harmed most."""
    heads = ["classifier", "retrieval", "", "id", "class", "source", "looked up", "effect"]
    lines = [
        [
            *map(html.escape, (*key, f"{side}ed")),
            str(row["id"]),
            html.escape(row["class"] or "?"),
            html.escape(row["source"]),
            str(row["shown"]),
            f"{row['effect']:+.3f}",
        ]
        for key, side, rows in _blamed(found)
        for row in rows[:LISTED]
    ]
    return tables.table_of(heads, lines) if lines else ""


def blame_figure(found: Evidence, train: Images) -> Figure | None:
    """The same as pictures."""
    lines = {
        f"{key[0]}\n{key[1]}: {side}": [
            shown.Tile(
                pixels, f"{shown.short(row['class'] or '?')}  {row['effect']:+.3f}", side == "help"
            )
            for pixels, row in zip(
                pictures(train, np.array([row["id"] for row in rows])), rows, strict=True
            )
        ]
        for key, side, rows in _blamed(found)
    }
    if not lines:
        return None
    title = "Images of the memory that helped and harmed most, on validation, first seed"
    return shown.tiles(lines, title)
