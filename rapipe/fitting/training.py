"""Training a classifier, with or without neighbours, as a Lightning module.

Letters: B batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier import Bank, Classifier
from rapipe.fitting.base import Fit, Schedule
from rapipe.records import Images, Neighbours
from rapipe.views import to_float


class Training(Fit):
    """A classifier on labelled images and their prefetched neighbours; AdamW, cosine to zero.

    Args:
        dropout: probability that an image sees none of its neighbours in a step.
    """

    def __init__(
        self,
        classifier: Classifier,
        augment: nn.Module,
        images: Images,
        neighbours: Neighbours | None,
        bank: Bank | None,
        schedule: Schedule,
        weight_decay: float,
        dropout: float,
    ) -> None:
        tensors = [
            torch.from_numpy(np.array(images.pixels)),
            torch.from_numpy(images.labels.copy()),
        ]
        if neighbours is not None:
            tensors.append(torch.from_numpy(np.array(neighbours.indices)))
        super().__init__(tuple(tensors), schedule)
        self.classifier = classifier
        self.augment = augment
        self.bank = bank
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.correct: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        pixels, labels, *rest = batch
        images = to_float(pixels)  # (B, 3, H, W)
        with torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
        retrieved = None
        if self.bank is not None:
            present = torch.rand(len(labels), device=labels.device) >= self.dropout
            retrieved = self.bank.gather(rest[0], present)
        logits = self.classifier(images, retrieved)  # (B, classes)
        loss = F.cross_entropy(logits, labels)
        self.losses.append(loss.detach())
        self.correct.append((logits.detach().argmax(1) == labels).float().mean())
        return loss

    def take_accuracy(self) -> float:
        """Mean accuracy on the training batches since the last call."""
        accuracy = float(torch.stack(self.correct).mean()) if self.correct else math.nan
        self.correct.clear()
        return accuracy

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.classifier.parameters(),
            self.schedule.learning_rate,
            weight_decay=self.weight_decay,
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cosine, "interval": "step"},
        }
