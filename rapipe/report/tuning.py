"""How the learning rate was found: the loss while it rises from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from rapipe.evaluation.results import Condition
from rapipe.report.material import Material, RateCurve
from rapipe.report.style import GREY, finish, looks, panels_of, styled


def rates(material: Material) -> Figure | None:
    """Smoothed loss against the learning rate, with the rate that was taken.

    The finder raises the learning rate from step to step, and leaves no trace in the weights. It
    takes the rate at which the smoothed loss falls fastest: a dot on its curve. One curve a
    training.
    """
    return rates_figure(material.rate_curves)


@styled
def rates_figure(curves: Mapping[Condition, Sequence[RateCurve]]) -> Figure | None:
    """A panel a backbone; None without curves."""
    if not curves:
        return None
    look = looks(condition.retrieval for condition in curves)
    backbones = list(dict.fromkeys(condition.backbone for condition in curves))
    figure, panels = panels_of(backbones, "The learning rate that was found")
    for condition, of_seeds in curves.items():
        axes, colour = panels[condition.backbone], look[condition.retrieval]["color"]
        for found in of_seeds:
            rates, losses = (
                np.array([row[name] for row in found.rows]) for name in ("learning_rate", "loss")
            )
            axes.plot(rates, losses, color=colour, label=condition.retrieval)
            loss = np.interp(np.log(found.rate), np.log(rates), losses)
            axes.plot(found.rate, loss, "o", color=colour, mec="white", ms=8, zorder=3)
    every = [found.rows for of_seeds in curves.values() for found in of_seeds]
    low, high = min(row["loss"] for rows in every for row in rows), max(r[0]["loss"] for r in every)
    for axes in panels.values():
        axes.set(xscale="log", xlabel="learning rate")
        axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))  # it explodes at the end
        axes.xaxis.set_major_locator(LogLocator(base=100))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.plot([], [], "o", color=GREY, mec="white", ms=8, label="taken")
    finish(panels, "smoothed loss")
    return figure
