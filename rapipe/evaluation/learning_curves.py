"""How fast does a classifier learn?"""

from __future__ import annotations

from collections.abc import Sequence

from rapipe.evaluation.results import Row
from rapipe.evaluation.statistics import area_under_accuracy


def area(history: Sequence[Row]) -> float:
    """Under test accuracy against images seen."""
    return area_under_accuracy(
        [row["images_seen"] for row in history],
        [row["test_top1_not_for_selection"] for row in history],
    )


def first_step(history: Sequence[Row], target: float) -> float | None:
    """The first measured step with test accuracy of at least `target`; None if there is none."""
    steps = (r["step"] for r in history if r["test_top1_not_for_selection"] >= target)
    return next(steps, None)
