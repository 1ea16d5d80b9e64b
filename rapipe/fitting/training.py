"""Training a classifier, with or without neighbours, as a Lightning module.

Letters: B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier import Classifier
from rapipe.device import device
from rapipe.feed import Column, Feed, Part
from rapipe.fitting.base import Fit, Schedule
from rapipe.records import Images, Neighbours
from rapipe.retrieved import Bank, Neighbourhood
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
        here = device()
        parts: list[Part] = [Column(images.pixels, here), Column(images.labels, here)]
        if neighbours is not None and bank is not None:
            parts.append(Neighbourhood(neighbours.indices, bank))
        super().__init__(classifier, Feed(here, *parts), schedule, np.ones(len(images)))
        self.augment = augment
        self.weight_decay = weight_decay
        self.dropout = dropout

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        pixels, labels, *rest = batch
        images = to_float(pixels)  # (B, 3, H, W)
        with torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
        retrieved = None
        if rest:
            present = torch.rand(len(labels)) >= self.dropout  # drawn alike on every device
            retrieved = rest[0]._replace(present=present.to(labels.device, non_blocking=True))
        logits = self.network(images, retrieved)  # (B, classes)
        loss = F.cross_entropy(logits, labels)
        self.seen["loss"].append(loss.detach())
        self.seen["correct"].append((logits.detach().argmax(1) == labels).float().mean())
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.network.parameters(),
            self.schedule.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cosine, "interval": "step"},
        }
