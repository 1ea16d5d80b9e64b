"""Pretraining as a Lightning module.

Letters: B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rapipe.device import device
from rapipe.feed import Column, Feed
from rapipe.fitting.base import Fit, Schedule, Weights
from rapipe.objectives import Objective
from rapipe.records import Images
from rapipe.views import Normalise, to_float


class Pretraining(Fit):
    """An objective on two views of unlabelled images; SGD with one learning-rate cycle."""

    network: Objective

    def __init__(
        self,
        objective: Objective,
        views: nn.Module,
        normalise: Normalise,
        images: Images,
        schedule: Schedule,
        weights: Weights,
    ) -> None:
        feed = Feed(device(), Column(images.pixels, device()))
        super().__init__(objective, feed, schedule, weights)
        self.views = views
        self.normalise = normalise

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network.before_step(self.global_step, self.steps)

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        images = to_float(batch[0])  # (B, 3, H, W)
        with torch.autocast(images.device.type, enabled=False):
            both = self.normalise(self.views(images.repeat(2, 1, 1, 1)))  # (2B, 3, H, W)
        loss: Tensor = self.network(*both.chunk(2))
        self.seen["loss"].append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(
            [p for p in self.network.parameters() if p.requires_grad],
            self.schedule.learning_rate,
            momentum=0.9,
            weight_decay=5e-4,
            fused=True,
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.schedule.learning_rate, total_steps=self.steps
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cycle, "interval": "step"},
        }
