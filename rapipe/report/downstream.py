"""What pretraining longer is worth: accuracy downstream against epochs of pretraining."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rapipe.evaluation.uses import WORDS, Curve
from rapipe.report.material import Material
from rapipe.report.style import Line, Point, draw_line, finish, looks, panels_of, styled

TICKS = 8
"""Epochs that an axis has room for: where all that were measured fit, each has its tick."""


def by_epoch(material: Material) -> Figure | None:
    """Of the encoders that were kept on the way (`pretrain.keep_every`, `rapipe downstream`).

    Accuracy on clean test images against epochs of pretraining, with 95 % intervals over the
    choice of test images, and over seeds where classifiers were fine-tuned with several. 0 is
    before the first step. Vote and probe are of the encoder as it is, and chosen on validation.
    """
    return accuracy_by_pretraining(material.downstream)


@styled
def accuracy_by_pretraining(curves: Sequence[Curve]) -> Figure | None:
    """A panel a use, in each a line an encoder; None where nothing was measured."""
    used = {row["use"] for curve in curves for row in curve.rows}
    uses = [use for use in WORDS if use in used]
    if not uses:
        return None
    figure, panels = panels_of([WORDS[use] for use in uses], "Accuracy by epochs of pretraining")
    look = looks(curve.name for curve in curves)
    epochs = sorted({row["epoch"] for curve in curves for row in curve.rows})
    for use in uses:
        axes = panels[WORDS[use]]
        for curve in curves:
            points = [
                Point(row["epoch"], row["top1"], row["low"], row["high"])
                for row in sorted(curve.rows, key=lambda row: row["epoch"])
                if row["use"] == use
            ]
            if points:
                draw_line(axes, curve.name, Line(points, look[curve.name]))
        axes.set_xlabel("epochs of pretraining")
        if len(epochs) <= TICKS:
            axes.set_xticks(epochs)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(TICKS, integer=True))
    finish(panels, "test accuracy, clean")
    return figure
