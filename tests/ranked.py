"""Trainings that are the same on one device and on several, and what starts them there.

Without BatchNorm, but where its name says so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_images
from trainings import MEAN, STD, Stop, training

from rapipe.batches.preprocess import Preprocess
from rapipe.classifier.module import Teacher
from rapipe.encoder.backbones import BACKBONES, build
from rapipe.pretraining.module import PretrainingModule
from rapipe.pretraining.objectives import OBJECTIVES, ObjectiveSpec
from rapipe.specs import PretrainingRecipe
from rapipe.training import ranks
from rapipe.training.callbacks import BestEpoch, History, Row
from rapipe.training.loop import fit


def pretraining(objective: str, batchnorm: bool = False) -> PretrainingModule:
    """16 pixels, batches of 16."""
    torch.manual_seed(0)
    if objective == "mae":
        backbone = build("timm:vit_tiny_patch16_224", 4, "half", 16)
    else:
        backbone = BACKBONES["resnet18" if batchnorm else "perceiver"](4, "half", 16)
    heads = {"mae": (), "dino": (16, 8, 12), "supervised": (), "byol": (), "moco": (16, 8)}
    head = heads.get(objective, () if batchnorm else (8,))
    if objective == "simclr-v2":
        head = (backbone.features, 8)
    images = make_images(40)
    labels = np.where(np.arange(40) % 5, images.labels, -1)
    recipe = PretrainingRecipe(
        objective=objective, epochs=2, batch_size=16, learning_rate=0.05, head=head
    )
    return PretrainingModule(
        OBJECTIVES[objective](backbone, ObjectiveSpec(16, 3, head, 0)),
        replace(images, labels=labels),
        Preprocess(16, MEAN, STD),
        recipe,
        0,
        np.full(40, 1.0),
    )


def tricks(**more: Any) -> Any:
    """A classifier with neighbours and all that is drawn or mixed."""
    return training(
        n=70,
        backbone="perceiver",
        noise_std=0.1,
        mixup=0.4,
        label_smoothing=0.1,
        accumulate=2,
        clip=0.5,
        **more,
    )


def taught() -> Any:
    module = training(backbone="perceiver")
    labels = np.where(np.arange(40) % 3, -1, 0)
    soft = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    from trainings import plain_training

    images = replace(make_images(40), labels=labels)
    del module
    return plain_training(
        epochs=2, n=40, backbone="perceiver", images=images, teacher=Teacher(soft)
    )


TRAININGS: dict[str, Any] = {
    "classifier": tricks,
    "ema": lambda: tricks(average="ema", patience=9),
    "teacher": taught,
    "batchnorm classifier": lambda: training(backbone="resnet18"),
    **{
        name: lambda name=name: pretraining(name)
        for name in ("simclr", "moco", "barlow-twins", "vicreg", "dino", "mae", "supervised")
    },
    "batchnorm byol": lambda: pretraining("byol", True),
    "batchnorm simsiam": lambda: pretraining("simsiam", True),
    "batchnorm simclr-v2": lambda: pretraining("simclr-v2", True),
}


def measure(module: Any) -> Row:
    """What steps measured, and how large the weights are."""
    names = [name for name in sorted(module.step_metrics) if name != "loss"]
    norms = {"norm": float(sum(p.detach().double().abs().sum() for p in module.parameters()))}
    return {name: module.pop_mean(name) for name in names} | norms


def rows(name: str, folder: Path, stop: int | None = None) -> list[Row]:
    """The history of a training; resumes in the folder, and stops before an epoch if asked."""
    module, history = TRAININGS[name](), History(measure)
    best = BestEpoch(module, history, "norm")
    more = [] if stop is None else [Stop(stop)]
    try:
        fit(module, [history, best, *more], folder, keep=True)
    except RuntimeError as error:
        if "killed" not in str(error):
            raise
    return history.rows


def each(names: list[str], folder: Path, stop: int | None = None) -> None:
    """In each rank: all trainings, one after the other; rank 0 writes their histories."""
    ranks.join(2, 1)
    for name in names:
        history = rows(name, folder / name, stop)
        if ranks.rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps(history))
