"""How fast the classifiers learned: area under test accuracy, and steps to reach one."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from rapipe.evaluation.learning_curves import area, first_step
from rapipe.evaluation.statistics import interval_of_mean
from rapipe.report import tables
from rapipe.report.style import Row, spread

TARGETS = (0.5, 0.8)
"""Test accuracies whose first steps are given."""
Histories = Mapping[tuple[str, str], Sequence[Sequence[Row]]]
"""By backbone and strategy, a history a seed."""


def table(histories: Histories, seed: int) -> str:
    """HTML: a line a condition; what it gains over the same classifier without neighbours."""
    heads = ["classifier", "retrieval", "seeds", "area", "minus none [95 %]"]
    heads += [f"steps to {target:.0%}" for target in TARGETS]
    lines = []
    for (backbone, retrieval), seeds in histories.items():
        own = np.array([area(history) for history in seeds])
        plain = np.array([area(history) for history in histories[backbone, "none"]])
        lines.append(
            [
                html.escape(backbone),
                html.escape(retrieval),
                str(len(seeds)),
                _with_spread(own),
                tables.NOTHING if retrieval == "none" else _gain(own - plain, seed),
                *(_steps([first_step(history, target) for history in seeds]) for target in TARGETS),
            ]
        )
    return tables.table_of(heads, lines)


def _with_spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {spread(values.tolist()):.3f}" if len(values) > 1 else "")


def _gain(differences: np.ndarray, seed: int) -> str:
    """The mean of what seeds gained; its interval where there are several."""
    mean = f"{differences.mean():+.3f}"
    if len(differences) == 1:
        return f"{mean} (one seed)"
    low, high = interval_of_mean(differences[:, None], seed)
    return f"{mean} [{low:+.3f}, {high:+.3f}]"


def _steps(firsts: Sequence[float | None]) -> str:
    """The mean over the seeds that got there, and how many did if not all."""
    reached = [step for step in firsts if step is not None]
    if not reached:
        return "never"
    short = "" if len(reached) == len(firsts) else f" ({len(reached)} of {len(firsts)} seeds)"
    return f"{np.mean(reached):.0f}{short}"
