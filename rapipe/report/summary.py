"""The page's numbers as JSON and CSV."""

from __future__ import annotations

from typing import Any

from rapipe.evaluation.evidence import Correct
from rapipe.report.material import Material

SHIFTS = ("clean", "noise")
"""Clean images, and the strongest noise."""


def metrics(material: Material) -> dict[str, Any]:
    """The headline for `dvc metrics`: top-1 accuracy by classifier, strategy and shift.

    Means over seeds, of the present classifiers alone, on clean images and at the strongest
    noise; controls only where nothing is searched. Then what the encoder knows by itself. Keys
    name no value of a parameter that an experiment changes, so that experiments share their
    columns.
    """
    searched = material.searching() or material.with_neighbours()
    headline: dict[str, Any] = {"encoder": {"knn_top1": material.pretraining[-1]["knn_top1"]}}
    for condition, stack in material.stacks.items():
        if condition.retrieval == "none" or condition in searched:
            of_backbone = headline.setdefault(condition.backbone, {})
            of_backbone[condition.retrieval] = _top1(material, stack.correct)
    headline["baselines"] = {
        name: _top1(material, baseline.correct)
        for name, baseline in material.encoder_baselines.items()
    }
    return headline


def _top1(material: Material, correct: Correct) -> dict[str, dict[str, float]]:
    """Of answers (S, L, N), by shift."""
    mean = correct.mean(axis=(0, 2))
    levels = zip(material.clean_and_noisiest, SHIFTS, strict=False)
    return {shift: {"top1": round(float(mean[level]), 6)} for level, shift in levels}


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
