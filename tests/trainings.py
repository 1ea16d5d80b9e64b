"""Trainings of small networks that many tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from conftest import make_embeddings, make_images, make_spec
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from rapipe.batches.loader import CPU
from rapipe.batches.preprocess import Preprocess
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.module import ClassifierModule
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.encoder.backbones import BACKBONES
from rapipe.pretraining.module import PretrainingModule
from rapipe.pretraining.objectives import OBJECTIVES, ObjectiveSpec
from rapipe.records import Images, Neighbours
from rapipe.specs import PretrainingRecipe, TrainingRecipe

MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


def pretraining(
    epochs: int = 3, rate: float = 0.1, seed: int = 0, weight: float = 1.0
) -> PretrainingModule:
    torch.manual_seed(0)
    spec = ObjectiveSpec(16, 3, (), 0)
    objective = OBJECTIVES["byol"](BACKBONES["resnet18"](4, "half", 16), spec)
    recipe = PretrainingRecipe(epochs=epochs, batch_size=16, learning_rate=rate)
    preprocess, weights = Preprocess(16, MEAN, STD), np.full(40, weight)
    return PretrainingModule(objective, make_images(40), preprocess, recipe, seed, weights)


def training(
    epochs: int = 3,
    rate: float = 0.003,
    seed: int = 0,
    dropout: float = 0.5,
    n: int = 40,
    backbone: str = "alexnet",
    noise_std: float = 0.0,
    noisy_neighbours: Neighbours | None = None,
    **tricks: Any,
) -> ClassifierModule:
    torch.manual_seed(0)
    spec = make_spec(backbone, mean=MEAN, std=STD, dropout=dropout)
    images, rng = make_images(n), np.random.default_rng(0)
    indices = rng.integers(0, 20, (n, 4)).astype(np.int32)
    table = Neighbours(images.ids, indices, np.zeros((n, 4), np.float32))
    classifier, bank = Classifier(spec), DeviceBank(make_embeddings(20), 3, CPU)
    recipe = TrainingRecipe(
        epochs=epochs, batch_size=16, learning_rate=rate, augment="flip", **tricks
    )
    noise = noise_std, noisy_neighbours
    return ClassifierModule(classifier, images, table, bank, recipe, seed, *noise)


def plain_training(
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008
    batch: int = 16,
    epochs: int = 1,
    n: int = 48,
    rate: float = 0.01,
    backbone: str = "resnet18",
    images: Images | None = None,
    **options: Any,
) -> ClassifierModule:
    torch.manual_seed(0)
    classifier = Classifier(make_spec(backbone, attend=""))
    recipe = replace(recipe, epochs=epochs, batch_size=batch, learning_rate=rate, weight_decay=0.0)
    return ClassifierModule(classifier, images or make_images(n), None, None, recipe, 0, **options)


class Each(Callback):
    """Calls a function after each optimiser step."""

    def __init__(self, note: Any) -> None:
        self.note = note

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.note(module)


class Stop(Callback):
    """Ends the process's training after the checkpoint of an epoch, as a kill would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


class Killed(Stop):
    """The same, or when the training has ended and has not said so yet."""

    def on_train_end(self, trainer: Any, module: Any) -> None:
        raise RuntimeError("killed")


def state(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())
