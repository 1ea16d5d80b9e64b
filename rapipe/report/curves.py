"""Curves: accuracy against steps, noise, k and memory; and the encoder's training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rapipe.report.style import (
    BASELINE,
    PALETTE,
    Row,
    band,
    finish,
    log_axis,
    looks,
    panels_of,
    styled,
)


@styled
def accuracy_curves(histories: Mapping[tuple[str, str], Sequence[Sequence[Row]]], x: str) -> Figure:
    """Test accuracy during training, a panel a backbone, against `step` or `epoch`.

    Args:
        histories: by (backbone, retrieval), a history a seed.
        x: `step` shows every measurement on a log scale, `epoch` the ends of epochs.
    """
    look = looks(retrieval for _, retrieval in histories)
    title = f"Test accuracy against {'optimiser steps' if x == 'step' else 'epochs'}"
    figure, panels = panels_of(list(dict.fromkeys(name for name, _ in histories)), title)
    for (backbone, retrieval), seeds in histories.items():
        axes = panels[backbone]
        points: dict[float, list[float]] = defaultdict(list)
        for history in seeds:
            for row in _epoch_ends(history) if x == "epoch" else history:
                points[row[x]].append(row["test_top1_not_for_selection"])
        band(axes, points, retrieval, look[retrieval])
        axes.set_xlabel("optimiser step" if x == "step" else "epoch")
        if x == "step":
            log_axis(axes)
    finish(panels, "test accuracy")
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
    look = looks(strategies)
    along = "neighbours k" if axis == "k" else "images in the memory"
    title = f"Clean test accuracy against {along}"
    figure, panels = panels_of(list(dict.fromkeys(row["backbone"] for row in kept)), title)
    for backbone, axes in panels.items():
        for strategy in strategies:
            points: dict[float, list[float]] = defaultdict(list)
            for row in kept:
                if (row["backbone"], row["retrieval"]) == (backbone, strategy):
                    points[row[axis]].append(row["top1"])
            band(axes, points, strategy, look[strategy])
        plain = [
            row["top1"]
            for row in clean
            if (row["backbone"], row["retrieval"]) == (backbone, "none")
        ]
        if plain:
            axes.axhline(float(np.mean(plain)), color=BASELINE, ls="--", label="none")
        log_axis(axes)
        axes.set_xlabel(along)
    finish(panels, "test accuracy, clean")
    return figure


@styled
def pretraining_curves(history: Sequence[Row]) -> Figure:
    """kNN accuracy with its floors, loss, and feature spread and rank, against epochs."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    figure.suptitle("Pretraining of the encoder", fontsize=11, fontweight="bold")
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


def _epoch_ends(history: Sequence[Row]) -> list[Row]:
    """The last row of each epoch."""
    return list({row["epoch"]: row for row in history}.values())
