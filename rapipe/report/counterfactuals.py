"""What the predictions depend on: the same classifiers with other neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Row, searches
from rapipe.evaluation.statistics import Interval
from rapipe.report.material import Material
from rapipe.report.style import finish, panels_of, strategy_looks, styled
from rapipe.report.tables import NOTHING, Table, interval_words, level_words

PRUNED = ("pruned", "pruned at random")
OTHER_NEIGHBOURS = (
    "Test accuracy with other neighbours than its own, with 95 % intervals of the change"
)
COLUMNS = ("top1", "change", "flips", "kl", "total_variation", "neighbour_agreement")


def counterfactual_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """A row a condition, noise level and counterfactual: means over seeds, 95 % intervals."""
    rows = []
    for condition in evidence.with_neighbours():
        for (level, name), stack in evidence.counterfactuals[condition].items():
            row: dict[str, Any] = {
                "backbone": condition.backbone,
                "retrieval": condition.retrieval,
                "noise_std": level,
                "swap": name,
                "seeds": len(stack.rows),
            }
            row |= {column: stack.mean(column) for column in COLUMNS}
            for prefix, values in (
                ("", stack.correct_change),
                ("total_variation_", stack.total_variation),
            ):
                low, high = evidence.interval(values)
                row |= {f"{prefix}low": low, f"{prefix}high": high}
            rows.append(row)
    return rows


def tables(material: Material) -> str:
    """HTML: what each counterfactual does to the predictions, a table a noise level.

    “Flips” are images whose predicted class changes; KL and total variation (0 to 1) say how
    far the predicted probabilities change; neighbour agreement is the share of images
    predicted as the class most of the shown neighbours have. The total variation with another
    image's neighbours is the reliance. Classifiers trained on random neighbours are the
    control.
    """
    heads = ["classifier", "trained with", "neighbours shown", "accuracy, %", "change [95 %]"]
    heads += ["flips, %", "KL, nats", "total variation [95 %]", "neighbour agreement, %"]
    tables: dict[float, list[list[str]]] = {}
    for row in material.counterfactual_rows:
        distance, agreement = row["total_variation"], row["neighbour_agreement"]
        low, high = row["total_variation_low"], row["total_variation_high"]
        tables.setdefault(row["noise_std"], []).append(
            [
                *(row[name] for name in ("backbone", "retrieval", "swap")),
                f"{100 * row['top1']:.1f}",
                f"{100 * row['change']:+.1f} [{interval_words(Interval(row['low'], row['high']))}]",
                f"{100 * row['flips']:.1f}",
                f"{row['kl']:.3f}",
                f"{distance:.3f} [{low:.3f}, {high:.3f}]",
                NOTHING if agreement is None else f"{100 * agreement:.0f}",
            ]
        )
    return "".join(
        f"<h3>{level_words(level)}</h3>{Table(heads, tables[level]).html()}"
        for level in sorted(tables)
    )


def dots(material: Material) -> Figure | None:
    """Accuracy with each counterfactual, by backbone and strategy in training.

    The trained classifiers with neighbours that are not theirs: drawn at random, none, those
    of another image, the nearest of the right class and of a wrong one (oracles, which know
    the answer), the image itself as its nearest neighbour (as if it had leaked), a memory in
    which a share of the rows, found as before, hold the vector or class of another, and one
    without the rows that harmed most on validation. Dashed: with their own. What is used
    shows between the right and the wrong class.
    """
    return draw_dots(material, material.counterfactual_rows, OTHER_NEIGHBOURS, "neighbours shown")


def edited_memories(material: Material) -> Figure | None:
    """Accuracy with edits of the memory alone, of what searches it.

    The trained classifiers with a memory in which a share of the rows, found as before, hold the
    vector or class of another, and with one without the rows that harmed most on validation, or
    without as many at random. Dashed: with the memory as it was. Bars are 95 % intervals of the
    change.
    """
    edited = {row["retrieval"] for row in edit_rows(material.counterfactual_rows)}
    rows = [
        row
        for row in material.counterfactual_rows
        if row["retrieval"] in edited and (is_edit(row) or row["swap"] == row["retrieval"])
    ]
    title = "Test accuracy with edited memories, with 95 % intervals of the change"
    return draw_dots(material, rows, title, "memory")


def edit_rows(rows: Sequence[Row]) -> list[Row]:
    """The counterfactuals that edit the memory, of what searches it."""
    return [row for row in rows if searches(row["retrieval"]) and is_edit(row)]


def is_edit(row: Row) -> bool:
    """Whether a counterfactual edits the memory, rather than show other neighbours."""
    return row["swap"] in PRUNED or "% wrong " in row["swap"]


@styled
def draw_dots(evidence: Evidence, rows: Sequence[Row], title: str, label: str) -> Figure | None:
    """Accuracy by counterfactual, a row of panels a noise level; `rows` are of counterfactuals.

    Args:
        label: of the y axis.
    """
    names = list(dict.fromkeys(row["swap"] for row in rows))
    panels: dict[str, dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["noise_std"]):
        name = f"{row['backbone']}, {level_words(row['noise_std'])}"
        panels.setdefault(name, {}).setdefault(row["retrieval"], []).append(row)
    if not panels:
        return None
    look, levels = strategy_looks(evidence), len({row["noise_std"] for row in rows})
    figure, axes_of = panels_of(list(panels), title, levels, sharex=True)
    figure.set_size_inches(figure.get_figwidth(), levels * (0.9 + 0.3 * len(names)))
    for panel, strategies in panels.items():
        axes = axes_of[panel]
        for shift, (strategy, points) in enumerate(strategies.items()):
            offset = 0.16 * (shift - (len(strategies) - 1) / 2)
            style = {**look[strategy], "ls": "none", "ms": 4, "lw": 1.2}
            ys = [names.index(point["swap"]) + offset for point in points]
            mean, change, low, high = np.array(
                [[point[key] for key in ("top1", "change", "low", "high")] for point in points]
            ).T
            spans = [change - low, high - change]
            axes.errorbar(mean, ys, xerr=spans, label=f"trained with {strategy}", **style)
            factual = next(point["top1"] for point in points if point["swap"] == strategy)
            axes.axvline(factual, color=look[strategy]["color"], ls="--", lw=0.9)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("test accuracy")
    for axes in axes_of.values():
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.invert_yaxis()
    finish(axes_of, label)
    return figure


@styled
def matrix(evidence: Evidence) -> Figure | None:
    """Clean accuracy, %, by the strategy in training (rows) and in the test (columns).

    A classifier without neighbours cannot tell. One that was trained with some may lose
    without them because it used what they say, or merely because what it sees is unlike what
    it was trained on: one trained on random neighbours, which say nothing, may lose too when
    it is shown the nearest. The counterfactuals tell the two apart.
    """
    if 0 not in evidence.counterfactual_levels():
        return None
    strategies = list(dict.fromkeys(condition.retrieval for condition in evidence.stacks))
    matrices = {name: _transfer(evidence, name, strategies) for name in evidence.backbones}
    title = "Clean test accuracy, %, by neighbours in training and in the test"
    figure, axes_of = panels_of(list(matrices), title)
    values = np.concatenate([matrix.reshape(-1) for matrix in matrices.values()])
    low, high = np.nanmin(values), np.nanmax(values)
    crowded = len(strategies) > 4  # so names and numbers would overlap
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right"} if crowded else {}
    for name, matrix in matrices.items():
        axes = axes_of[name]
        axes.imshow(matrix, cmap="cividis", vmin=low, vmax=high)
        axes.grid(False)
        axes.set_xticks(range(len(strategies)), strategies, **slanted)
        axes.set_yticks(range(len(strategies)), strategies)
        for (i, j), value in np.ndenumerate(matrix):
            if np.isnan(value):  # the memory could not serve it
                continue
            size, colour = 6 if crowded else 9, "w" if value < (low + high) / 2 else "k"
            text = f"{100 * value:.1f}"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
        axes.set_xlabel("tested with")
    finish(axes_of, "trained with")
    return figure


def _transfer(evidence: Evidence, backbone: str, strategies: list[str]) -> np.ndarray:
    """Clean accuracy (0 to 1) by strategy in training and in the test; nan where there is none."""
    matrix = np.full((len(strategies), len(strategies)), np.nan)
    for strategy, condition in evidence.conditions(backbone).items():
        row = matrix[strategies.index(strategy)]
        if strategy == "none":
            row[:] = evidence.stacks[condition].correct[:, 0].mean()
            continue
        stacks = evidence.counterfactuals_at(condition)
        for column, other in enumerate(strategies):
            if other in stacks:  # else the memory could not serve it
                row[column] = stacks[other].mean("top1")
    return matrix
