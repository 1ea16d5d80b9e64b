"""The page's numbers as JSON and CSV."""

from __future__ import annotations

from typing import Any

from rapipe.evaluation.evidence import Correct
from rapipe.report.material import Material

SHIFTS = ("clean", "noise")
"""Clean images, and the strongest noise."""
COLUMNS = 12
"""Of classifiers in the headline, if there are few enough."""


def metrics(material: Material) -> dict[str, Any]:
    """The headline for `dvc metrics` and `dvc exp show`: top-1 accuracy by classifier.

    Means over seeds, of the present classifiers alone: those without neighbours and those that
    search theirs; others only where nothing is searched. On clean images, and at the strongest
    noise too if there is room: of all that results.csv has, a dozen columns or so are a headline.
    Keys name no value of a parameter that an experiment changes, so that experiments share their
    columns.
    """
    searched = material.searching() or material.with_neighbours()
    conditions = [c for c in material.stacks if c.retrieval == "none" or c in searched]
    shifts = len(SHIFTS) if len(SHIFTS) * len(conditions) <= COLUMNS else 1
    headline: dict[str, Any] = {}
    for condition in conditions:
        top1 = _top1(material, material.stacks[condition].correct, shifts)
        headline.setdefault(condition.backbone, {})[condition.retrieval] = top1
    if searched:
        headline["encoder"] = {"knn_top1": material.pretraining[-1]["knn_top1"]}
        headline["baselines"] = {
            name: _top1(material, baseline.correct, 1)
            for name, baseline in material.encoder_baselines.items()
        }
    return headline


def _top1(material: Material, correct: Correct, shifts: int) -> dict[str, float]:
    """Of answers (S, L, N), by shift, the first of them."""
    mean = correct.mean(axis=(0, 2))
    levels = zip(material.clean_and_noisiest, SHIFTS[:shifts], strict=False)
    return {shift: round(float(mean[level]), 6) for level, shift in levels}


def curves(material: Material) -> list[dict[str, Any]]:
    """All histories in one long table; empty where nothing was measured."""
    rows = [
        (condition, run["rows"][0]["seed"], row)
        for condition, histories in material.histories.items()
        for run, history in zip(material.runs[condition], histories, strict=True)
        for row in history
    ]
    measured = dict.fromkeys(name for *_, row in rows for name in row)
    return [
        {
            "backbone": condition.backbone,
            "retrieval": condition.retrieval,
            "k": condition.k,
            "seed": seed,
            **{name: row.get(name) for name in measured},
        }
        for condition, seed, row in rows
    ]
