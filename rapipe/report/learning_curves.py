"""Sample efficiency: test accuracy during training, as curves and in numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rapipe.evaluation.evidence import Evidence, History
from rapipe.evaluation.learning_curves import area, first_step
from rapipe.evaluation.results import Row
from rapipe.report.style import band, finish, log_axis, panels_of, strategy_looks, styled
from rapipe.report.tables import NOTHING, Table, number

LOSSES = {"loss": "training loss", "test_loss_not_for_selection": "test loss"}
"""Columns of a history, and what panels call them."""
TARGETS = (0.5, 0.8)
"""Test accuracies whose first steps are given."""


def accuracy_by_step(evidence: Evidence) -> Figure | None:
    """Test accuracy at every measurement, against optimiser steps on a log scale.

    Test accuracy against optimiser steps, on a log scale; a band is the standard deviation
    over seeds, and there is none for one seed. No choice was made on these measurements.
    """
    return _accuracy_curves(evidence, "step")


@styled
def losses_by_epoch(evidence: Evidence) -> Figure | None:
    """Loss in training above loss on test images, at the ends of epochs.

    The loss of training is what was minimised, with whatever is mixed or smoothed; that of the test
    is the cross-entropy. Means over seeds; a band is their standard deviation.
    """
    ends = {
        condition: [_epoch_ends(history) for history in histories]
        for condition, histories in evidence.histories.items()
    }
    rows = [row for histories in ends.values() for history in histories for row in history]
    measured = [column for column in LOSSES if rows and all(column in row for row in rows)]
    if not measured:
        return None
    look = strategy_looks(evidence)
    names = [f"{backbone}: {LOSSES[c]}" for c in measured for backbone in evidence.backbones]
    figure, panels = panels_of(names, "Loss against epochs", len(measured), sharex=True)
    for column in measured:
        for condition, histories in ends.items():
            axes = panels[f"{condition.backbone}: {LOSSES[column]}"]
            points = points_by(histories, "epoch", column)
            band(axes, points, condition.retrieval, look[condition.retrieval])
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.set_xlabel("epoch")
    finish(panels, "loss")
    return figure


def accuracy_by_epoch(evidence: Evidence) -> Figure | None:
    """Test accuracy at the ends of epochs.

    Test accuracy at the ends of epochs; a band is the standard deviation over seeds.
    """
    return _accuracy_curves(evidence, "epoch")


@styled
def _accuracy_curves(evidence: Evidence, x: str) -> Figure | None:
    """Test accuracy during training, a panel a backbone, against `step` or `epoch`."""
    if not evidence.histories:
        return None
    look = strategy_looks(evidence)
    title = f"Test accuracy against {'optimiser steps' if x == 'step' else 'epochs'}"
    figure, panels = panels_of(evidence.backbones, title)
    for condition, histories in evidence.histories.items():
        axes = panels[condition.backbone]
        shortened = map(_epoch_ends, histories) if x == "epoch" else histories
        band(axes, accuracy_points(shortened, x), condition.retrieval, look[condition.retrieval])
        axes.set_xlabel("optimiser step" if x == "step" else "epoch")
        if x == "step":
            log_axis(axes)
    finish(panels, "test accuracy")
    return figure


def accuracy_points(histories: Iterable[History], x: str = "step") -> dict[float, list[float]]:
    """Test accuracies of several seeds, by `step` or `epoch`."""
    return points_by(histories, x, "test_top1_not_for_selection")


def points_by(histories: Iterable[History], x: str, column: str) -> dict[float, list[float]]:
    """What several seeds measured, by `step` or `epoch`."""
    points: dict[float, list[float]] = defaultdict(list)
    for history in histories:
        for row in history:
            points[row[x]].append(row[column])
    return points


def _epoch_ends(history: History) -> list[Row]:
    """The last row of each epoch."""
    return list({row["epoch"]: row for row in history}.values())


def efficiency(evidence: Evidence) -> Table:
    """A line a condition; what it gains over the same classifier without neighbours.

    Area: mean test accuracy from the first to the last measurement, over images seen; what it
    gains over the same classifier without neighbours, seed by seed; and the first measured
    step with a test accuracy.
    """
    heads = ["classifier", "retrieval", "seeds", "area", "minus none [95 %]"]
    heads += [f"steps to {target:.0%}" for target in TARGETS]
    rows = []
    for condition, histories in evidence.histories.items():
        plain = evidence.conditions(condition.backbone)["none"]
        areas, plain_areas = (
            np.array([area(history) for history in evidence.histories[key]])
            for key in (condition, plain)
        )
        gain = NOTHING if condition == plain else _gain(evidence, areas - plain_areas)
        firsts = (
            _steps([first_step(history, target) for history in histories]) for target in TARGETS
        )
        names = (condition.backbone, condition.retrieval, str(len(histories)))
        rows.append([*names, number(areas.tolist()), gain, *firsts])
    return Table(heads, rows)


def _gain(evidence: Evidence, differences: np.ndarray) -> str:
    """The mean of what seeds gained; its interval where there are several."""
    mean = f"{differences.mean():+.3f}"
    if len(differences) == 1:
        return f"{mean} (one seed)"
    low, high = evidence.interval(differences[:, None])
    return f"{mean} [{low:+.3f}, {high:+.3f}]"


def _steps(firsts: Sequence[float | None]) -> str:
    """The mean over the seeds that reached it, and how many did if not all."""
    reached = [step for step in firsts if step is not None]
    if not reached:
        return "never"
    short = "" if len(reached) == len(firsts) else f" ({len(reached)} of {len(firsts)} seeds)"
    return f"{np.mean(reached):.0f}{short}"
