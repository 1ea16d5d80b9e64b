"""How every figure looks, and what its panels share.

A condition is a (backbone, retrieval, k, bank size); over its seeds we show
the mean and the standard deviation, and no deviation where there is one seed.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

Row = Mapping[str, Any]
Condition = tuple[str, str, int, int]
Look = dict[str, Any]
"""What matplotlib draws a line with: colour, marker, style."""


class Point(NamedTuple):
    """A value with its interval."""

    x: float
    mean: float
    low: float
    high: float


BASELINE = "#5b6470"
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by the colour-blind: Okabe and Ito, "Color Universal Design", 2008."""
MARKERS = ("s", "o", "^", "D", "v", "P")
"""So that lines can be told apart without colours."""
PLACES = ("sampled", "knn", "class-balanced", "diverse", "hard", "replay")
"""Strategies that look the same in every report, whichever others stand beside them."""
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 110,
    "savefig.bbox": "tight",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # names are no formulas
}
styled = mpl.rc_context(STYLE)
"""Decorator: draw in our style, and leave that of others as it was."""


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each strategy, or of whatever else; the baseline is grey.

    Names without a place of their own take those that are left, in their order.
    """
    names = [name for name in dict.fromkeys(strategies) if name != "none"]
    free = [i for i, name in enumerate(PLACES) if name not in names] or [*range(len(PLACES))]
    left = cycle(free)
    place = {name: PLACES.index(name) if name in PLACES else next(left) for name in names}
    drawn = {name: {"color": PALETTE[i], "marker": MARKERS[i]} for name, i in place.items()}
    return {"none": {"color": BASELINE, "marker": "x"}, **drawn}


def condition_of(row: Row) -> Condition:
    """The condition that a row is one seed and noise level of."""
    return row["backbone"], row["retrieval"], row["k"], row["bank_size"]


def over_seeds(rows: Iterable[Row], value: str) -> dict[Condition, dict[float, list[float]]]:
    """Values by condition and noise level, one a seed."""
    found: dict[Condition, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[condition_of(row)][row["noise_std"]].append(row[value])
    return found


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG (same figure, same bytes); it is closed."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # boxes stand for them
        figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def panels_of(
    names: Sequence[str], title: str, rows: int = 1, sharex: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel a name, in so many rows; panels of a row share their y axis."""
    columns = -(-len(names) // rows)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(3.2 * columns, 5), 0.4 + 2.9 * rows),
        sharex=sharex,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=11, fontweight="bold")
    for panel, name in zip(axes.flat, names, strict=True):
        panel.set_title(name)
    return figure, dict(zip(names, axes.flat, strict=True))


def band(axes: Axes, points: Mapping[float, Sequence[float]], label: str, look: Look) -> None:
    """Mean line over seeds, with one standard deviation around it where there are several."""
    xs = sorted(points)
    means = np.array([np.mean(points[x]) for x in xs])
    spreads = np.array([spread(points[x]) for x in xs])
    axes.plot(xs, means, label=label, ms=3, **look)
    if spreads.any():
        low, high = means - spreads, means + spreads
        axes.fill_between(xs, low, high, color=look["color"], alpha=0.18, lw=0)


def line(axes: Axes, points: Sequence[Point], label: str, look: Look) -> None:
    """A line with its intervals as a band."""
    xs, means, lows, highs = zip(*points, strict=True)
    axes.plot(xs, means, label=label, ms=3, **look)
    axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.15, lw=0)


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def finish(panels: Mapping[str, Axes], label: str) -> None:
    """Name the y axis of the first panel of each row, and every line once, under the panels."""
    lines: dict[str, Any] = {}
    for axes in panels.values():
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(label)
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    if lines:
        figure = next(iter(panels.values())).figure
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=min(len(lines), 6))
