"""The page's numbers as JSON and CSV."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe.evaluation.results import over_seeds
from rapipe.report.material import Material
from rapipe.report.tables import level_words


def metrics(material: Material) -> dict[str, Any]:
    """Means over seeds, nested for `dvc metrics`: backbone, condition, noise level; baselines."""
    nested: dict[str, Any] = {"pretraining": material.pretraining[-1]}
    for baseline in material.vote_baselines():
        votes = nested.setdefault(f"votes of {baseline.retrieval}", {})
        votes[f"{baseline.vote}-k{baseline.k}"] = {
            level_words(level): top1 for level, top1 in baseline.top1.items()
        }
    for condition, levels in over_seeds(material.results.rows(), "top1").items():
        name = condition.retrieval
        if name != "none":
            name += f"-k{condition.k}-bank{condition.bank_size}"
        nested.setdefault(condition.backbone, {})[name] = {
            level_words(level): round(float(np.mean(values)), 6) for level, values in levels.items()
        }
    return nested


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
