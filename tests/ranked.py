"""Trainings that are the same on one device and on several, and what starts them there.

Without BatchNorm, but where its name says so.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_images
from trainings import MEAN, STD, Stop, plain_training, training

from rapipe.batches.preprocess import Preprocess
from rapipe.classifier.module import Teacher
from rapipe.encoder.backbones import BACKBONES, build
from rapipe.errors import UserError
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


def tricks() -> Any:
    """A classifier with neighbours and all that is drawn or mixed."""
    return training(
        n=70,
        backbone="perceiver",
        noise_std=0.1,
        mixup=0.4,
        label_smoothing=0.1,
        accumulate=2,
        clip=0.5,
        average="ema",
        patience=9,
    )


def taught() -> Any:
    """A student of whose images a third have a label."""
    images = make_images(40)
    images = replace(images, labels=np.where(np.arange(40) % 3, -1, images.labels))
    logits = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    teacher = Teacher(logits)
    return plain_training(epochs=2, n=40, backbone="perceiver", images=images, teacher=teacher)


CONTRASTED = ("simclr", "moco", "barlow-twins", "dino", "mae", "supervised")
TRAININGS: dict[str, Callable[[], Any]] = {
    "classifier": tricks,
    "teacher": taught,
    **{name: partial(pretraining, name) for name in CONTRASTED},
    "batchnorm classifier": partial(training, 2, backbone="resnet18"),
    "batchnorm byol": partial(pretraining, "byol", True),
    "batchnorm simclr-v2": partial(pretraining, "simclr-v2", True),
}
ONE_FIRST, TWO_FIRST = "one rank, then two", "two ranks, then one"


def measure(module: Any) -> Row:
    """What steps measured, and how large the weights are."""
    names = [name for name in sorted(module.step_metrics) if name != "loss"]
    norms = {"norm": float(sum(p.detach().double().abs().sum() for p in module.parameters()))}
    return {name: module.pop_mean(name) for name in names} | norms


def rows(name: str, folder: Path, stop: int | None = None) -> list[Row]:
    """The history of a training; resumes in the folder, and is killed before an epoch if asked."""
    module, history = TRAININGS[name](), History(measure)
    callbacks = [history, BestEpoch(module, history, "norm")]
    if stop is None:
        fit(module, callbacks, folder, keep=True)
    else:
        with suppress(RuntimeError):
            fit(module, [*callbacks, Stop(stop)], folder, keep=True)
    return history.rows


def each(folder: Path) -> None:
    """On each of two ranks: all trainings, one after the other; rank 0 writes their histories."""
    ranks.join(2, 1)
    histories = {name: rows(name, folder / name) for name in TRAININGS}
    histories[ONE_FIRST] = rows("classifier", folder / ONE_FIRST)
    rows("classifier", folder / TWO_FIRST, stop=1)
    if ranks.rank() == 0:
        (folder / "histories.json").write_text(json.dumps(histories))


def fail(way: str) -> None:
    """What rank 1 does not survive, or no rank."""
    ranks.join(2, 1)
    if way == "killed" and ranks.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "refused":
        raise UserError("nobody wants this")
    time.sleep(60)
