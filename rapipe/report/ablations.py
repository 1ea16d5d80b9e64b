"""Clean accuracy against the number of neighbours, and against the size of the memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.results import SELF, Row
from rapipe.report.material import Material
from rapipe.report.style import GREY, band, finish, log_axis, looks, panels_of, styled


def accuracy_by_k(material: Material) -> Figure | None:
    """Of all results that differ from the present ones in k or bank alone.

    Clean test accuracy against k; dashed: without retrieval, or with its own vector alone.
    """
    return ablation_curves(material.results.rows(), "k")


def accuracy_by_bank(material: Material) -> Figure | None:
    """The same against the size of the bank.

    Clean test accuracy against images remembered; dashed: without retrieval.
    """
    return ablation_curves(material.results.rows(), "bank_size")


@styled
def ablation_curves(rows: Sequence[Row], axis: str) -> Figure | None:
    """Clean test accuracy against `k` or `bank_size`; None where each strategy has but one.

    Along k the bank is the largest one seen, along the bank size the k most often seen.
    """
    clean = [row for row in rows if row["noise_std"] == 0]
    retrieving = [row for row in clean if row["k"]]
    other = "bank_size" if axis == "k" else "k"
    if not retrieving:
        return None
    fixed = max((row[other] for row in retrieving), key=[r[other] for r in retrieving].count)
    series = [row for row in retrieving if row[other] == fixed]
    if len({row[axis] for row in series}) < 2:
        return None
    strategies = list(dict.fromkeys(row["retrieval"] for row in series))
    look = looks(strategies)
    along = "neighbours k" if axis == "k" else "images in the memory"
    title = f"Clean test accuracy against {along}"
    figure, panels = panels_of(list(dict.fromkeys(row["backbone"] for row in series)), title)
    for backbone, axes in panels.items():
        for strategy in strategies:
            points: dict[float, list[float]] = defaultdict(list)
            for row in series:
                if (row["backbone"], row["retrieval"]) == (backbone, strategy):
                    points[row[axis]].append(row["top1"])
            band(axes, points, strategy, look[strategy])
        for name, colour in (("none", GREY), (SELF, looks([SELF])[SELF]["color"])):
            names = (backbone, name)
            plain = [row["top1"] for row in clean if (row["backbone"], row["retrieval"]) == names]
            if plain:
                axes.axhline(float(np.mean(plain)), color=colour, ls="--", label=name)
        log_axis(axes)
        axes.set_xlabel(along)
    finish(panels, "test accuracy, clean")
    return figure
