"""Which neighbours matter: attention, effect, and the rows of the memory that helped or harmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Condition, Row
from rapipe.evaluation.statistics import deviation
from rapipe.report.material import Material
from rapipe.report.pictures import Tile, pixels_by_id, short, tiles
from rapipe.report.tables import NOTHING, Table

LISTED = 5
"""Rows of the memory in the table, for each classifier and side."""


def attribution(evidence: Evidence) -> Table:
    """The agreement of attention with effect, and what pruning by effect does.

    Measured on validation images by leaving out one neighbour at a time. Agreement is the rank
    correlation of attention with the size of the effect. The last columns leave out of the
    memory what harmed most, or as many rows at random, and test again.
    """
    heads = ["classifier", "retrieval", "agreement"]
    heads += ["largest effect", "rows retrieved", "that harmed", "pruned", "accuracy, %", "pruned"]
    heads += ["as many at random"]
    rows = []
    for condition in evidence.with_neighbours():
        facts = [run["attribution"] for run in evidence.runs[condition] if "attribution" in run]
        if not facts:
            continue
        stacks = evidence.counterfactuals_at(condition)
        top1 = [
            f"{100 * (stacks[name].mean('top1') or 0):.1f}" if name in stacks else NOTHING
            for name in (condition.retrieval, "pruned", "pruned at random")
        ]
        mean = {
            name: np.mean([seed[name] for seed in facts])
            for name in ("largest_effect", "rows", "harmful", "pruned")
        }
        rows.append(
            [
                condition.backbone,
                condition.retrieval,
                _agreement([seed for seed in facts if "agreement" in seed]),
                f"{mean['largest_effect']:.3f}",
                *(f"{mean[name]:.0f}" for name in ("rows", "harmful", "pruned")),
                *top1,
            ]
        )
    return Table(heads, rows)


def attention_entropy(evidence: Evidence) -> Table:
    """How widely each head attends.

    The entropy of the attention of each head of a fusion to the neighbours, a line a stage of the
    backbone: 1 if all neighbours get the same attention, 0 if one gets it all. The mean over
    tokens, validation images and seeds.
    """
    stages: dict[tuple[str, str, str], list[str]] = {}
    for condition in evidence.with_neighbours():
        facts = [run.get("attribution", {}) for run in evidence.runs[condition]]
        seeds = [seed["attention_entropy_by_head"] for seed in facts if seed]
        for stage, by_seed in enumerate(zip(*seeds, strict=True), start=1):
            means = np.mean(by_seed, axis=0)
            key = (condition.backbone, condition.retrieval, str(stage))
            stages[key] = [f"{mean:.3f}" for mean in means]
    most = max(map(len, stages.values()), default=0)
    heads = ["classifier", "retrieval", "stage", *(f"head {n + 1}" for n in range(most))]
    rows = [[*key, *cells, *[NOTHING] * (most - len(cells))] for key, cells in stages.items()]
    return Table(heads, rows)


def _agreement(facts: Sequence[Row]) -> str:
    """Its mean, with the interval over images of one seed, or the deviation over several."""
    values = [seed["agreement"] for seed in facts]
    if not values:
        return NOTHING
    if len(values) > 1:
        return f"{np.mean(values):.2f} ± {deviation(values):.2f} over seeds"
    return f"{values[0]:.2f} [{facts[0]['low']:.2f}, {facts[0]['high']:.2f}]"


def _influential(evidence: Evidence) -> Iterator[tuple[Condition, str, list[dict[str, Any]]]]:
    """The rows that helped and that harmed searching classifiers, in the first seed."""
    for condition in evidence.searching():
        facts = evidence.runs[condition][0].get("attribution", {"help": [], "harm": []})
        for side, sign in (("help", 1), ("harm", -1)):
            rows = [row for row in facts[side] if sign * row["effect"] > 0]
            if rows:
                yield condition, side, rows


def table(evidence: Evidence) -> Table:
    """The rows of the memory that helped and harmed most.

    With how many of the validation images looked them up, and the sum of their effects on the
    probability of the right class, in the first seed. All rows: <code>rows.csv</code> in
    <code>data/evidence</code>.
    """
    heads = ["classifier", "retrieval", "", "id", "class", "source", "retrieved", "effect"]
    rows = [
        [
            condition.backbone,
            condition.retrieval,
            f"{side}ed",
            str(row["id"]),
            row["class"] or "?",
            row["source"],
            str(row["shown"]),
            f"{row['effect']:+.3f}",
        ]
        for condition, side, listed in _influential(evidence)
        for row in listed[:LISTED]
    ]
    return Table(heads, rows)


def images(material: Material) -> Figure | None:
    """The same as pictures.

    The same as pictures. Dashed frames harmed.
    """
    lines = {}
    for condition, side, rows in _influential(material):
        pixels = pixels_by_id(material.train, np.array([row["id"] for row in rows]))
        titles = [f"{short(row['class'] or '?')}  {row['effect']:+.3f}" for row in rows]
        lines[f"{condition.backbone}\n{condition.retrieval}: {side}"] = [
            Tile(image, title, side == "help") for image, title in zip(pixels, titles, strict=True)
        ]
    title = "Images of the memory that helped and harmed most, on validation, first seed"
    return tiles(lines, title) if lines else None
