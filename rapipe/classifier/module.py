"""Training a classifier, with or without neighbours, as a Lightning module.

Letters: B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rapipe.batches.loader import ArrayField, BatchLoader, Field
from rapipe.batches.transforms import to_float
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourField
from rapipe.device import device
from rapipe.records import Images, Neighbours
from rapipe.training.mixing import label_smoothing, mixup
from rapipe.training.module import Schedule, TrainingModule
from rapipe.training.recipe import Tricks
from rapipe.training.schedules import scheduler


class ClassifierModule(TrainingModule):
    """A classifier on labelled images and their prefetched neighbours; AdamW.

    With `soft`, it learns what a teacher says of the images rather than their labels, as
    in Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS 2020, equation 2.

    Args:
        dropout: probability that an image sees none of its neighbours in a step.
        soft: (N, classes) logits of a teacher; labels may then be -1, and are only compared with.
        temperature: what its logits, and the classifier's, are divided by.
    """

    def __init__(
        self,
        classifier: Classifier,
        augment: nn.Module,
        images: Images,
        neighbours: Neighbours | None,
        bank: DeviceBank | None,
        schedule: Schedule,
        weight_decay: float,
        dropout: float,
        tricks: Tricks = Tricks(),  # noqa: B008
        soft: npt.NDArray[np.float32] | None = None,
        temperature: float = 1.0,
    ) -> None:
        here = device()
        parts: list[Field] = [ArrayField(images.pixels, here), ArrayField(images.labels, here)]
        if neighbours is not None and bank is not None:
            parts.append(NeighbourField(neighbours.indices, bank))
        if soft is not None:
            parts.append(ArrayField(soft, here))
        super().__init__(
            classifier, BatchLoader(here, *parts), schedule, np.ones(len(images)), tricks
        )
        self.soft = soft is not None
        self.temperature = temperature
        self.augment = augment
        self.weight_decay = weight_decay
        self.dropout = dropout

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        pixels, labels, *rest = batch
        teacher = rest.pop() if self.soft else None
        images = to_float(pixels)  # (B, 3, H, W)
        others, own = None, 1.0
        with torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
            if self.tricks.mixup:
                images, others, own = mixup(images, self.tricks.mixup)
        retrieved = None
        if rest:
            present = torch.rand(len(labels)) >= self.dropout  # drawn alike on every device
            retrieved = rest[0]._replace(present=present.to(labels.device, non_blocking=True))
        logits = self.network(images, retrieved)  # (B, classes)
        self._note_correct(logits, labels)
        targets = labels
        if teacher is not None:
            targets = (teacher / self.temperature).softmax(1)  # (B, classes)
            logits = logits.float() / self.temperature
        loss = label_smoothing(logits, targets, self.tricks.label_smoothing)
        if others is not None:
            other = label_smoothing(logits, targets[others], self.tricks.label_smoothing)
            loss = own * loss + (1 - own) * other
        self.seen["loss"].append(loss.detach())
        return loss

    def _note_correct(self, logits: Tensor, labels: Tensor) -> None:
        """Whether the label is predicted: of a mixed image the one that weighs more, its own."""
        right = (logits.detach().argmax(1) == labels).float()  # (B,)
        if self.soft:  # rows without a label are left out where the mean is taken
            right = right.where(labels >= 0, torch.nan)
        self.seen["correct"].append(right if self.soft else right.mean())

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            [p for p in self.network.parameters() if p.requires_grad],
            self.schedule.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        rate = scheduler(optimiser, self.steps, self.tricks)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
