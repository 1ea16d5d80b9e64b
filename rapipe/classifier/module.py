"""Training a classifier, with or without neighbours, as a Lightning module.

Letters: B batch, N images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rapipe.batches.loader import ArrayField, BatchLoader, Field
from rapipe.batches.transforms import VIEWS, RandomGaussianNoise, to_float
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown, fields_of, join
from rapipe.device import device
from rapipe.records import Images, Neighbours
from rapipe.specs import TrainingRecipe
from rapipe.training.mixing import label_smoothing, mixup
from rapipe.training.module import TrainingModule
from rapipe.training.schedules import scheduler


class Teacher(NamedTuple):
    """What a trained classifier says of the training images, to be learned in place of labels.

    Source: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS 2020, equation 2.
    """

    logits: npt.NDArray[np.float32]  # (N, classes)
    temperature: float = 1.0
    """What its logits, and the student's, are divided by."""


class ClassifierModule(TrainingModule):
    """A classifier on labelled images, or on its teacher's, and prefetched neighbours; AdamW.

    Args:
        images: N of them.
        neighbours, bank: theirs, with the same rows; None without retrieval.
        noise_std: standard deviation of the noise on half of the images of a batch; 0 = none.
        teacher: of the same images; labels may then be -1, and are only compared with.
    """

    network: Classifier
    recipe: TrainingRecipe

    def __init__(
        self,
        classifier: Classifier,
        images: Images,
        neighbours: Neighbours | None,
        bank: DeviceBank | None,
        recipe: TrainingRecipe,
        seed: int,
        noise_std: float = 0.0,
        teacher: Teacher | None = None,
    ) -> None:
        on = device()
        shown: list[Field] = []  # on the device before the images, if not all of it fits
        if neighbours is not None:
            shown = fields_of(Shown(bank, neighbours.indices, neighbours.query_vectors), on)
        fields = [ArrayField(images.pixels, on), ArrayField(images.labels, on), *shown]
        if teacher is not None:
            fields.append(ArrayField(teacher.logits, on))
        super().__init__(classifier, BatchLoader(on, *fields), recipe, seed, np.ones(len(images)))
        self.temperature = teacher.temperature if teacher else None
        self.augment: nn.Module = VIEWS[recipe.augment](images.pixels.shape[1])
        if noise_std:
            self.augment = nn.Sequential(self.augment, RandomGaussianNoise(noise_std))
        fusion = classifier.spec.fusion
        self.dropout = fusion.dropout if fusion else 0.0
        """Probability that an image sees none of its neighbours in a step."""

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        pixels, labels, *more = batch
        teacher = more.pop() if self.temperature else None
        images = to_float(pixels)  # (B, 3, H, W)
        others, weight = None, 1.0
        with torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
            if self.recipe.mixup:
                images, others, weight = mixup(images, self.recipe.mixup)
        neighbours = join(more)
        if neighbours is not None:
            present = torch.rand(len(labels)) >= self.dropout  # drawn alike on every device
            neighbours = neighbours._replace(present=present.to(labels.device, non_blocking=True))
        logits = self.network(images, neighbours)  # (B, classes)
        self._record_correct(logits, labels)
        targets = labels
        if teacher is not None and self.temperature is not None:
            targets = (teacher / self.temperature).softmax(1)  # (B, classes)
            logits = logits.float() / self.temperature
        loss = label_smoothing(logits, targets, self.recipe.label_smoothing)
        if others is not None:
            other_loss = label_smoothing(logits, targets[others], self.recipe.label_smoothing)
            loss = weight * loss + (1 - weight) * other_loss
        self.step_metrics["loss"].append(loss.detach())
        return loss

    def _record_correct(self, logits: Tensor, labels: Tensor) -> None:
        """Whether the label is predicted: of a mixed image the one that weighs more, its own."""
        correct = (logits.detach().argmax(1) == labels).float()  # (B,)
        if self.temperature is None:
            self.step_metrics["correct"].append(correct.mean())
        else:  # rows without a label are left out where the mean is taken
            self.step_metrics["correct"].append(correct.where(labels >= 0, torch.nan))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            [p for p in self.network.parameters() if p.requires_grad],
            self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        rate = scheduler(optimiser, self.steps, self.recipe)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
