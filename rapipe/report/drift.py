"""What noise does to the neighbours, and which part of the lost accuracy that explains."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import CONTROL
from rapipe.report.style import Line, Panels, Point, curves_over_noise, looks, points_of

MEASURES = {
    "recall": "recall of the clean neighbours",
    "rank_correlation": "rank correlation",
    "purity": "label purity",
}


def drift_over_noise(evidence: Evidence) -> Figure | None:
    """Drift of the neighbours, by strategy; it is the same for every classifier.

    Of the neighbours that a clean image finds, the share that its noisy self still finds
    (recall); how far their order stays (rank correlation); and the share of those found that
    have its class (label purity).
    """
    panels: Panels = {}
    look = looks(MEASURES.values())
    for condition in evidence.with_neighbours():
        if condition.retrieval in (CONTROL, *panels):
            continue
        drifts = evidence.runs[condition][0]["drift"]
        if not drifts:  # nothing is retrieved
            continue
        panel = panels.setdefault(condition.retrieval, {})
        for name, label in MEASURES.items():
            rows = [row for row in drifts if row[name] is not None]
            points = [Point(row["noise_std"], *[row[name]] * 3) for row in rows]
            if points:
                panel[label] = Line(points, look[label])
    title = "Drift of the neighbours under noise: means over the test images"
    return curves_over_noise(panels, title, "share, or correlation")


def losses_over_noise(evidence: Evidence) -> Figure | None:
    """The accuracy lost to noise, in two parts, with intervals.

    The accuracy lost to noise, in two parts. Retrieval failed: what would be saved if the
    noisy image had the neighbours of its clean self. Fusion failed: what is lost even then.
    """
    panels: Panels = {}
    look = looks(["retrieval failed", "fusion failed"])
    for condition in evidence.searching():
        stack = evidence.stacks[condition]
        assert stack.correct_with_clean_neighbours is not None
        correct = stack.correct.astype(np.float64)
        with_clean = stack.correct_with_clean_neighbours.astype(np.float64)
        parts = {
            "retrieval failed": with_clean - correct,
            "fusion failed": correct[:, :1] - with_clean,
        }
        panels[f"{condition.backbone}, {condition.retrieval}"] = {
            name: Line(points_of(evidence, part, 100), look[name]) for name, part in parts.items()
        }
    title = "Accuracy lost to noise, by what failed, with 95 % intervals"
    backbones = len(evidence.backbones)
    rows = backbones if len(panels) > backbones else 1  # several strategies: a row a backbone
    return curves_over_noise(panels, title, "points lost", zero=True, rows=rows)
