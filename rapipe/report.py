"""Figures and the report page, from rows of results.

A condition is a (backbone, retrieval, k, bank size); over its seeds we show
the mean and the standard deviation, and no deviation where there is one seed.
"""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from rapipe.records import Pixels

Row = Mapping[str, Any]
Condition = tuple[str, str, int, int]

BASELINE = "#5b6470"
PALETTE = ("#e08214", "#1b6ca8", "#2f9e6e", "#a8327e", "#7a5cc0", "#b8a11a")
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
}
NOTHING = "&ndash;"
styled = mpl.rc_context(STYLE)
"""Decorator: draw in our style, and leave that of others as it was."""
TARGETS = (0.5, 0.8)
"""Test accuracies whose first steps the table gives."""


@dataclass(frozen=True)
class Neighbourhood:
    """A test image and its nearest neighbours, for the gallery."""

    image: Pixels  # (H, W, 3)
    label: str
    neighbours: Pixels  # (K, H, W, 3)
    labels: tuple[str, ...]
    similarities: tuple[float, ...]


def colours(strategies: Sequence[str]) -> dict[str, str]:
    """A colour for each strategy; the baseline is grey."""
    return {"none": BASELINE, **dict(zip(strategies, PALETTE, strict=False))}


def over_seeds(rows: Iterable[Row], value: str) -> dict[Condition, dict[float, list[float]]]:
    """Values by condition and noise level, one a seed."""
    found: dict[Condition, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        condition = (row["backbone"], row["retrieval"], row["k"], row["bank_size"])
        found[condition][row["noise_std"]].append(row[value])
    return found


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@styled
def accuracy_curves(histories: Mapping[tuple[str, str], Sequence[Sequence[Row]]], x: str) -> Figure:
    """Test accuracy during training, a panel a backbone, against `step` or `epoch`.

    Args:
        histories: by (backbone, retrieval), a history a seed.
        x: `step` shows every measurement on a log scale, `epoch` the ends of epochs.
    """
    names = list(dict.fromkeys(retrieval for _, retrieval in histories))
    colour = colours([name for name in names if name != "none"])
    figure, panels = _panels(list(dict.fromkeys(backbone for backbone, _ in histories)))
    for (backbone, retrieval), seeds in histories.items():
        axes = panels[backbone]
        points: dict[float, list[float]] = defaultdict(list)
        for history in seeds:
            for row in _epoch_ends(history) if x == "epoch" else history:
                points[row[x]].append(row["test_top1_not_for_selection"])
        _band(axes, points, retrieval, colour[retrieval])
        axes.set_xlabel("optimiser step" if x == "step" else "epoch")
        if x == "step":
            _log_axis(axes)
    _finish(panels, "test accuracy")
    return figure


@styled
def noise_curves(rows: Sequence[Row], current: Sequence[Condition]) -> Figure:
    """Test accuracy against noise, a panel a backbone, for the present conditions."""
    conditions = over_seeds(rows, "top1")
    colour = colours(list(dict.fromkeys(c[1] for c in current if c[1] != "none")))
    figure, panels = _panels(list(dict.fromkeys(c[0] for c in current)))
    for condition in current:
        backbone, retrieval, _, _ = condition
        _band(panels[backbone], conditions[condition], retrieval, colour[retrieval])
        panels[backbone].set_xlabel("standard deviation of the noise")
        panels[backbone].xaxis.set_major_locator(MaxNLocator(5))
    _finish(panels, "test accuracy")
    return figure


@styled
def ablation_curves(rows: Sequence[Row], axis: str) -> Figure | None:
    """Clean test accuracy against `k` or `bank_size`; None where each strategy has but one.

    Along k the bank is the largest one seen, along the bank size the k most often seen.
    """
    clean = [row for row in rows if row["noise_std"] == 0]
    looked_up = [row for row in clean if row["retrieval"] != "none"]
    other = "bank_size" if axis == "k" else "k"
    if not looked_up:
        return None
    fixed = max((row[other] for row in looked_up), key=[r[other] for r in looked_up].count)
    kept = [row for row in looked_up if row[other] == fixed]
    if len({row[axis] for row in kept}) < 2:
        return None
    strategies = list(dict.fromkeys(row["retrieval"] for row in kept))
    colour = colours(strategies)
    figure, panels = _panels(list(dict.fromkeys(row["backbone"] for row in kept)))
    for backbone, axes in panels.items():
        for strategy in strategies:
            points: dict[float, list[float]] = defaultdict(list)
            for row in kept:
                if (row["backbone"], row["retrieval"]) == (backbone, strategy):
                    points[row[axis]].append(row["top1"])
            _band(axes, points, strategy, colour[strategy])
        plain = [
            row["top1"]
            for row in clean
            if (row["backbone"], row["retrieval"]) == (backbone, "none")
        ]
        if plain:
            axes.axhline(float(np.mean(plain)), color=BASELINE, ls="--", label="none")
        _log_axis(axes)
        axes.set_xlabel("neighbours k" if axis == "k" else "images in the memory")
    _finish(panels, "test accuracy, clean")
    return figure


@styled
def pretraining_curves(history: Sequence[Row]) -> Figure:
    """kNN accuracy with its floors, loss, and feature spread and rank, against epochs."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.7), layout="constrained")
    axes[0].plot(epochs, [r["knn_top1"] for r in history], color=PALETTE[1], label="pretrained")
    for name, label, style in (
        ("raw_pixels_knn_top1", "raw pixels", ":"),
        ("random_init_knn_top1", "random initialisation", "--"),
    ):
        axes[0].axhline(history[0][name], color=BASELINE, ls=style, label=label)
    axes[0].set(title="kNN accuracy on validation", ylim=(0, 1))
    axes[0].legend()
    axes[1].plot(epochs, [r["loss"] for r in history], color=PALETTE[1])
    axes[1].set(title="loss")
    axes[2].plot(
        epochs, [r["effective_rank"] for r in history], color=PALETTE[1], label="effective rank"
    )
    axes[2].set(title="effective rank and spread of features", ylim=(0, None))
    right = axes[2].twinx()
    right.plot(epochs, [r["feature_std"] for r in history], color=PALETTE[0], label="feature std")
    right.set(ylim=(0, 1.05))
    right.grid(False)
    lines = [*axes[2].get_lines(), *right.get_lines()]
    axes[2].legend(lines, [line.get_label() for line in lines], loc="lower left")
    for panel in axes:
        panel.set_xlabel("epoch")
    return figure


@styled
def gallery(examples: Sequence[Neighbourhood]) -> Figure:
    """Test images, each with its nearest neighbours; frames say whether the class is the same."""
    columns = 1 + max(len(example.labels) for example in examples)
    figure, grid = plt.subplots(
        len(examples), columns, figsize=(columns, 1.15 * len(examples)), squeeze=False
    )
    for axes_row, example in zip(grid, examples, strict=True):
        for axes in axes_row:
            axes.axis("off")
        axes_row[0].imshow(example.image)
        axes_row[0].set_title(f"{example.label}?", fontsize=8, fontweight="bold", pad=3)
        found = zip(example.neighbours, example.labels, example.similarities, strict=True)
        for axes, (image, label, similarity) in zip(axes_row[1:], found, strict=False):
            axes.imshow(image)
            same = label == example.label
            axes.set_title(
                f"{label}  {similarity:.2f}",
                fontsize=7,
                pad=3,
                color=PALETTE[2] if same else "#c0392b",
            )
            h, w, _ = image.shape
            edge = mpl.patches.Rectangle(
                (-0.5, -0.5), w, h, fill=False, lw=2.5, color=PALETTE[2] if same else "#c0392b"
            )
            axes.add_patch(edge)
    figure.subplots_adjust(wspace=0.12, hspace=0.35)
    return figure


def table(rows: Sequence[Row], first_steps: Mapping[Condition, Sequence[float | None]]) -> str:
    """HTML: a line a condition, mean +- standard deviation over seeds of accuracy in percent.

    Args:
        first_steps: by condition and for each of `TARGETS`, the mean first measured
            step with that test accuracy; None where a seed never got there.
    """
    conditions = over_seeds(rows, "top1")
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "k", "memory", "seeds"]
    heads += [f"steps to {target:.0%}" for target in TARGETS]
    heads += ["clean" if level == 0 else f"noise {level:g}" for level in levels]
    lines = []
    for condition, values in conditions.items():
        backbone, retrieval, k, bank = condition
        steps = first_steps.get(condition, [None] * len(TARGETS))
        cells = [
            html.escape(backbone),
            html.escape(retrieval),
            str(k or NOTHING),
            f"{bank:,}" if bank else NOTHING,
            str(len(values[0.0])),
            *(NOTHING if step is None else f"{step:.0f}" for step in steps),
            *(_percent(values.get(level, [])) for level in levels),
        ]
        lines.append(cells)
    return _html(heads, lines)


def edits_table(rows: Sequence[Row]) -> str:
    """HTML: a line a (classifier, retrieval, memory), larger ones first."""
    found: dict[tuple[str, str, str, int], dict[float, list[float]]] = {}
    for row in sorted(rows, key=lambda row: -row["bank_size"]):
        key = (row["backbone"], row["retrieval"], row["memory"], row["bank_size"])
        found.setdefault(key, defaultdict(list))[row["noise_std"]].append(row["top1"])
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "memory", "images in it", "seeds"]
    heads += ["clean" if level == 0 else f"noise {level:g}" for level in levels]
    order = {name: place for place, name in enumerate(dict.fromkeys(r["backbone"] for r in rows))}
    lines = [
        [
            *(html.escape(name) for name in key[:3]),
            f"{key[3]:,}",
            str(len(values[0.0])),
            *(_percent(values.get(level, [])) for level in levels),
        ]
        for key, values in sorted(found.items(), key=lambda own: order[own[0][0]])
    ]
    return _html(heads, lines)


def _html(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; a rule stands where the first cell changes."""
    made = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    previous = ""
    for cells in lines:
        start = ' class="first"' if cells[0] != previous else ""
        previous = cells[0]
        made.append(f"<tr{start}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "<table>" + "".join(made) + "</table>"


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * spread(values):.1f}"


def first_step(histories: Sequence[Sequence[Row]], target: float) -> float | None:
    """Mean over seeds of the first measured step with test accuracy of at least `target`."""
    firsts = []
    for history in histories:
        reached = [r["step"] for r in history if r["test_top1_not_for_selection"] >= target]
        if not reached:
            return None
        firsts.append(reached[0])
    return float(np.mean(firsts))


@styled
def save(figure: Figure, path: Path) -> bytes:
    """Write a PNG (same figure, same bytes) and return it; the figure is closed."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def page(title: str, sections: Sequence[tuple[str, str, str | bytes]]) -> str:
    """A page that opens from disk with no network: pictures inside, no scripts.

    Args:
        sections: heading, explanation (HTML), and content: HTML or a PNG.
    """
    parts = []
    for heading, words, content in sections:
        if isinstance(content, bytes):
            data = base64.b64encode(content).decode()
            content = f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
        parts.append(f"<section><h2>{html.escape(heading)}</h2><p>{words}</p>{content}</section>")
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif; color: #1c2126;
  max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.7rem; }} h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .2rem; }}
p {{ max-width: 48rem; margin: .3rem 0 .9rem; color: #47505a; }}
img {{ max-width: 100%; }} section {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .65rem; text-align: right; white-space: nowrap; }}
th {{ font-weight: 600; border-bottom: 2px solid #1c2126; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
tr.first td {{ border-top: 1px solid #cfd4da; }}
code {{ background: #f2f4f6; padding: .1rem .3rem; border-radius: 3px; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def _panels(names: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(max(3.4 * len(names), 4), 3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name)
    return figure, dict(zip(names, axes[0], strict=True))


def _band(axes: Axes, points: Mapping[float, Sequence[float]], label: str, colour: str) -> None:
    """Mean line over seeds, with one standard deviation around it where there are several."""
    xs = sorted(points)
    means = np.array([np.mean(points[x]) for x in xs])
    spreads = np.array([spread(points[x]) for x in xs])
    axes.plot(xs, means, color=colour, label=label, marker="o", ms=2.5)
    if spreads.any():
        axes.fill_between(xs, means - spreads, means + spreads, color=colour, alpha=0.18, lw=0)


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _epoch_ends(history: Sequence[Row]) -> list[Row]:
    """The last row of each epoch."""
    return list({row["epoch"]: row for row in history}.values())


def _finish(panels: Mapping[str, Axes], label: str) -> None:
    first, *_, last = [*panels.values(), *panels.values()]
    first.set_ylabel(label)
    last.legend(loc="best")
