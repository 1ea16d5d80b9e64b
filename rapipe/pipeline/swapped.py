"""What the classifiers' predictions hang on: swapped neighbours, drift under noise, attribution."""

from __future__ import annotations

import html

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.statistics import Interval
from rapipe.pipeline.evidence import (
    CONTROL,
    Evidence,
    interval_words,
    level_words,
    spread_words,
)
from rapipe.pipeline.inputs import pictures
from rapipe.records import Images
from rapipe.report import evidence as drawn
from rapipe.report import pictures as shown
from rapipe.report import tables
from rapipe.report.style import Point, looks


def tables_of(found: Evidence) -> dict[str, str]:
    """The tables that there is something for, by section."""
    made = {"attribution": attribution_table(found)}
    made["swaps"] = "".join(
        f"<h3>{level_words(level)}</h3>{swap_table(found, level)}" for level in found.swap_levels()
    )
    return {name: table for name, table in made.items() if table}


def figures(found: Evidence, train: Images) -> dict[str, Figure | None]:
    """The figures that there is something for, by section."""
    drift, losses = drift_figures(found)
    made = {"drift": drift, "losses": losses, "blame": blame_figure(found, train)}
    if found.swap_levels():
        made["swap-dots"] = swap_figure(found)
    if 0 in found.swap_levels():
        made["matrix"] = matrix_figure(found)
    return made


def swap_figure(found: Evidence) -> Figure:
    """Accuracy with each swap, by backbone and strategy in training, a row a noise level."""
    panels: dict[str, dict[str, dict[str, Point]]] = {}
    for level in found.swap_levels():
        for backbone, strategy in found.retrieving():
            own = {}
            for place, (name, rows) in enumerate(found.swaps((backbone, strategy), level).items()):
                top1, change, low, high = (
                    float(np.mean([row[key] for row in rows]))
                    for key in ("top1", "change", "low", "high")
                )
                own[name] = Point(place, top1, top1 - change + low, top1 - change + high)
            panels.setdefault(f"{backbone}, {level_words(level)}", {})[strategy] = own
    look = looks(strategy for _, strategy in found.stacks)
    return drawn.swap_dots(panels, look, len(found.swap_levels()))


def swap_table(found: Evidence, level: float) -> str:
    """What each swap does to the predictions, for classifiers that look something up."""
    heads = ["classifier", "trained with", "neighbours shown", "accuracy, %", "change [95 %]"]
    heads += ["flips, %", "KL, nats", "moved", "follows them, %"]
    lines = []
    for key in found.retrieving():
        if key[1] == CONTROL:
            continue
        for name, rows in found.swaps(key, level).items():
            mean = {
                column: np.mean([row[column] for row in rows])
                for column in ("top1", "change", "low", "high", "flips", "kl")
            }
            span = Interval(float(mean["low"]), float(mean["high"]))
            follows = [row["follows"] for row in rows if row["follows"] is not None]
            lines.append(
                [
                    *(html.escape(part) for part in (*key, name)),
                    f"{100 * mean['top1']:.1f}",
                    f"{100 * mean['change']:+.1f} [{interval_words(span)}]",
                    f"{100 * mean['flips']:.1f}",
                    f"{mean['kl']:.3f}",
                    spread_words(rows, "moved"),
                    f"{100 * np.mean(follows):.0f}" if follows else tables.NOTHING,
                ]
            )
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
                own[i, j] = np.mean([row["top1"] for row in swaps[other]])
        panels[backbone] = own
    return drawn.matrices(panels, trained, tested)


def drift_figures(found: Evidence) -> tuple[Figure, Figure]:
    """Neighbourhoods under noise, by strategy; and the accuracy lost, by backbone."""
    drifting = [key for key in found.retrieving() if key[1] != CONTROL] or [*found.retrieving()]
    panels: dict[str, dict[str, drawn.Line]] = {}
    names = {
        "recall": "still found",
        "rank_correlation": "rank correlation",
        "purity": "of the image's class",
    }
    for key in drifting:
        if key[1] in panels:
            continue
        rows = found.runs[key][0]["drift"]
        look = looks(names.values())
        panels[key[1]] = {
            label: drawn.Line(
                [Point(row["noise_std"], row[name], row[name], row[name]) for row in rows],
                look[label],
            )
            for name, label in names.items()
        }
    lost = {}
    for backbone, strategy in drifting:
        runs = [run["drift"] for run in found.runs[backbone, strategy]]
        lost[f"{backbone}, {strategy}"] = [
            (
                rows[0]["noise_std"],
                float(np.mean([row["retrieval_failed"] for row in rows])),
                float(np.mean([row["fusion_failed"] for row in rows])),
            )
            for rows in zip(*runs, strict=True)
            if rows[0]["noise_std"]
        ]
    title = "What noise does to the neighbours"
    return drawn.curves_over_noise(panels, title, "share, or correlation"), drawn.losses(lost)


def attribution_table(found: Evidence) -> str:
    """Attention, its agreement with effect, and what pruning by effect does."""
    heads = ["classifier", "retrieval", "attention entropy", "agreement [95 %]"]
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
            f"{100 * np.mean([row['top1'] for row in swaps[name]]):.1f}"
            if name in swaps
            else tables.NOTHING
            for name in names
        ]
        known = [own for own in facts if "agreement" in own]
        lines.append(
            [
                *map(html.escape, key),
                f"{np.mean([own['attention_entropy'] for own in facts]):.3f}",
                spread_words(known, "agreement") if known else tables.NOTHING,
                f"{np.mean([own['largest_effect'] for own in facts]):.3f}",
                *(
                    f"{np.mean([own[name] for own in facts]):.0f}"
                    for name in ("rows", "harmful", "pruned")
                ),
                *top1,
            ]
        )
    return tables.table_of(heads, lines) if lines else ""


def blame_figure(found: Evidence, train: Images) -> Figure | None:
    """The rows of the memory that harmed and helped most, for each backbone."""
    lines: dict[str, list[shown.Tile]] = {}
    for key in found.retrieving():
        run = found.runs[key][0]
        if key[1] == CONTROL or "attribution" not in run:
            continue
        for side in ("help", "harm"):
            rows = [
                row for row in run["attribution"][side] if (row["effect"] > 0) == (side == "help")
            ]
            if rows:
                ids = np.array([row["id"] for row in rows])
                lines[f"{key[0]}\n{key[1]}: {side}"] = [
                    shown.Tile(
                        pixels, f"{row['class'] or '?'}  {row['effect']:+.2f}", side == "help"
                    )
                    for pixels, row in zip(pictures(train, ids), rows, strict=True)
                ]
    if not lines:
        return None
    return shown.tiles(lines, "Images of the memory that helped and harmed most, on validation")
