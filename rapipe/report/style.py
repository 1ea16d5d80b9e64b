"""How every figure looks, and what its panels share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.statistics import deviation

Look = dict[str, Any]
"""What matplotlib draws a line with: colour, marker, style."""


class Point(NamedTuple):
    """A value with its interval."""

    x: float
    mean: float
    low: float
    high: float


class Line(NamedTuple):
    """The points of one condition, and how it looks."""

    points: Sequence[Point]
    look: Look


Panels = dict[str, dict[str, Line]]
"""Lines by their labels, in panels by their titles."""
GREY = "#5b6470"
"""Of what has no neighbours, and of reference lines."""
PALETTE = (
    *("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f6a00"),
    "#882255",
)
"""Distinct for the colour-blind too: Okabe and Ito, "Color Universal Design", 2008; of their
yellow, which white paper swallows, the last but one is a darker shade. The last is Tol's wine."""
MARKERS = ("s", "o", "^", "D", "v", "P", "X", "*", "p")
"""So that lines can be told apart without colours."""
STRATEGIES = (
    *("sampled", "knn", "class-balanced", "diverse", "hard", "replay", "self", "self+knn"),
    "prioritised-replay",
)
"""Strategies that look the same in every report, whichever others stand beside them."""
DASHES = {"self": (0, (5, 1.5))}
"""Of what is shown something, but nothing of the memory."""
VOTE: Look = {"color": "black", "ls": ":", "marker": "."}
NOISE = "standard deviation of the noise"
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


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each strategy, or of whatever else; `none` is grey.

    Names that are no strategies take the looks that are left, in their order.
    """
    unique = [name for name in dict.fromkeys(names) if name != "none"]
    unused = [i for i, name in enumerate(STRATEGIES) if name not in unique]
    unused_looks = cycle(unused or range(len(STRATEGIES)))
    number = {
        name: STRATEGIES.index(name) if name in STRATEGIES else next(unused_looks)
        for name in unique
    }
    coloured: dict[str, Look] = {
        name: {"color": PALETTE[i], "marker": MARKERS[i]} for name, i in number.items()
    }
    for name in coloured.keys() & DASHES.keys():
        coloured[name]["ls"] = DASHES[name]
    return {"none": {"color": GREY, "marker": "x"}, **coloured}


def strategy_looks(evidence: Evidence) -> dict[str, Look]:
    """Colour and marker of each strategy of the evidence."""
    return looks(condition.retrieval for condition in evidence.stacks)


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG (same figure, same bytes), without transparency; it is closed.

    One that shows no images has as many colours as fit a palette, and a third of the bytes.
    """
    drawn, small = BytesIO(), BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # boxes stand for them
        figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    shows_images = any(axes.images for axes in figure.axes)
    plt.close(figure)
    with Image.open(drawn) as picture:
        image = picture.convert("RGB")
    if not shows_images:
        image = image.quantize(dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


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
    deviations = np.array([deviation(points[x]) for x in xs])
    axes.plot(xs, means, label=label, ms=3, **look)
    if deviations.any():
        low, high = means - deviations, means + deviations
        axes.fill_between(xs, low, high, color=look["color"], alpha=0.18, lw=0)


def draw_line(axes: Axes, label: str, line: Line) -> None:
    """A line with its intervals as a band."""
    points, look = line
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
    """Name the y axis of the first panel of each row, and every line once, under the panels.

    Where nothing looks anything up there is one line a panel, which needs no name.
    """
    lines: dict[str, Any] = {}
    for axes in panels.values():
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(label)
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    if lines.keys() - {"none"}:
        figure = next(iter(panels.values())).figure
        figure.legend(lines.values(), lines, loc="outside lower center", ncols=min(len(lines), 6))


def points_of(evidence: Evidence, values: npt.NDArray[Any], factor: float = 1) -> list[Point]:
    """Means of values (S, L, N) with 95 % intervals, one a noise level."""
    points = []
    for position, level in enumerate(evidence.levels):
        at_level = values[:, position]
        ends = (factor * end for end in evidence.interval(at_level))
        points.append(Point(level, factor * float(at_level.mean()), *ends))
    return points


@styled
def curves_over_noise(
    panels: Mapping[str, Mapping[str, Line]], title: str, y: str, zero: bool = False, rows: int = 1
) -> Figure | None:
    """Values with 95 % intervals against noise; None without panels.

    Args:
        zero: draw the line where nothing differs.
        rows: of panels.
    """
    if not panels:
        return None
    figure, axes_of = panels_of(list(panels), title, rows)
    for name, lines in panels.items():
        axes = axes_of[name]
        if zero:
            axes.axhline(0, color=GREY, lw=1)
        for label, line in lines.items():
            draw_line(axes, label, line)
        axes.set_xlabel(NOISE)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    finish(axes_of, y)
    return figure
