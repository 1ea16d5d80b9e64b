"""How the encoder was pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import History
from rapipe.evaluation.results import Row
from rapipe.report.material import Material
from rapipe.report.style import GREY, PALETTE, styled

MOST_HEADS = 12
"""That are shown."""


@styled
def curves(material: Material) -> Figure | None:
    """kNN accuracy with its baselines, loss, and feature spread and rank, against epochs.

    Accuracy of a vote of nearest training images for validation images, beside two baselines
    that needed no pretraining; then the loss, and signs of collapse (rank and spread near
    zero). Of dino also entropies of its teacher's targets: that of their mean falls to 0 where
    one prototype wins (too little centring), that of each image rises to meet it where all are
    alike (too little sharpening); the divergence is what the student has yet to learn. Of an
    encoder that was taken as it is, the vote alone.
    """
    history = material.pretraining
    if not history:
        return None
    if "loss" not in history[-1]:
        return _baselines(history[-1])
    epochs = [row["epoch"] for row in history]
    has_teacher = "teacher_entropy" in history[-1]
    columns = 4 if has_teacher else 3
    size = (10 * columns / 3, 3)
    figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained")
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
    if has_teacher:
        _entropies(axes[3], history)
    for panel in axes:
        panel.set_xlabel("epoch")
    return figure


def _entropies(axes: Axes, history: History) -> None:
    """Of a teacher's targets, and how far the student is from them."""
    epochs = [row["epoch"] for row in history]
    entropy = [row["teacher_entropy"] for row in history]
    lines = {
        "of their mean": [row["mean_target_entropy"] for row in history],
        "of each image": entropy,
        "divergence": [row["loss"] - own for row, own in zip(history, entropy, strict=True)],
    }
    for (label, values), colour, style in zip(
        lines.items(), (GREY, PALETTE[1], PALETTE[0]), ("--", "-", ":"), strict=True
    ):
        axes.plot(epochs, values, color=colour, ls=style, label=label)
    axes.set(title="entropy of the teacher's targets (nats)", ylim=(0, None))
    axes.legend()


@styled
def attention(material: Material) -> Figure | None:
    """The attention of a vision transformer's last block, by head.

    Validation images, one a class, and how much the CLS token attends to each patch of them,
    brighter is more; each picture is scaled to its own largest weight. Of a network without a
    CLS token, the mean over its patches.
    """
    pictures = material.pretraining_pictures
    if "attention" not in pictures:
        return None
    maps = pictures["attention"]  # (N, heads, G, G)
    heads = {f"head {head + 1}": maps[:, head] for head in range(min(maps.shape[1], MOST_HEADS))}
    return _grid({"image": pictures["original"], **heads})


@styled
def reconstructions(material: Material) -> Figure | None:
    """Masked autoencoding of validation images, one a class.

    What the encoder sees of an image, what it and its decoder make of the rest, and the
    original. Reconstructed are a patch's pixels relative to their mean and spread, which the
    picture takes from the original.
    """
    pictures = material.pretraining_pictures
    if "masked" not in pictures:
        return None
    return _grid({name: pictures[name] for name in ("masked", "reconstructed", "original")})


def _grid(columns: Mapping[str, npt.NDArray[Any]]) -> Figure:
    """Pictures in columns: images (N, H, H, 3), or maps (N, G, G)."""
    count = len(next(iter(columns.values())))
    size = (1.2 * len(columns), 1.2 * count + 0.3)
    figure, grid = plt.subplots(count, len(columns), figsize=size, squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        for axes, image in zip(grid[:, column], images, strict=True):
            axes.axis("off")
            axes.imshow(image, vmin=0)  # the scale and the colours are of maps alone
        grid[0, column].set_title(name, fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06, left=0, right=1, bottom=0, top=0.9)
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
