"""How the encoder was pretrained."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rapipe.evaluation.results import Row
from rapipe.report.material import Material
from rapipe.report.style import GREY, PALETTE, styled


@styled
def curves(material: Material) -> Figure:
    """kNN accuracy with its baselines, loss, and feature spread and rank, against epochs.

    Accuracy of a vote of nearest training images for validation images, beside two baselines
    that needed no pretraining; then the loss, and signs of collapse (rank and spread near
    zero). Of an encoder that was taken as it is, the vote alone.
    """
    history = material.pretraining
    if "loss" not in history[-1]:
        return _baselines(history[-1])
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    figure.suptitle("Pretraining of the encoder", fontsize=11, fontweight="bold")
    axes[0].plot(epochs, [r["knn_top1"] for r in history], color=PALETTE[1], label="pretrained")
    for name, label, style in (
        ("raw_pixels_knn_top1", "raw pixels", ":"),
        ("random_init_knn_top1", "random initialisation", "--"),
    ):
        axes[0].axhline(history[0][name], color=GREY, ls=style, label=label)
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


def _baselines(scores: Row) -> Figure:
    """The vote of an encoder that was not trained here, beside its baselines."""
    bars = {
        label: scores[name]
        for name, label in (
            ("knn_top1", "this encoder"),
            ("random_init_knn_top1", "random initialisation"),
            ("raw_pixels_knn_top1", "raw pixels"),
        )
        if name in scores
    }
    figure, axes = plt.subplots(figsize=(6, 1.8), layout="constrained")
    axes.barh(list(bars), list(bars.values()), color=[PALETTE[1], *[GREY] * (len(bars) - 1)])
    for place, value in enumerate(bars.values()):
        axes.text(value + 0.01, place, f"{value:.1%}", va="center")
    axes.invert_yaxis()
    axes.set(title="kNN accuracy on validation", xlim=(0, 1.1))
    return figure
