"""Pretraining as a Lightning module.

Letters: B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.fitting.base import Fit, Schedule, Weights
from rapipe.objectives import Objective
from rapipe.records import Images
from rapipe.views import Normalise, to_float


class Pretraining(Fit):
    """An objective on two views of unlabelled images; SGD with one learning-rate cycle."""

    def __init__(
        self,
        objective: Objective,
        views: nn.Module,
        normalise: Normalise,
        images: Images,
        schedule: Schedule,
        weights: Weights,
    ) -> None:
        super().__init__((torch.from_numpy(np.array(images.pixels)),), schedule, weights)
        self.objective = objective
        self.views = views
        self.normalise = normalise

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.objective.before_step(self.global_step, self.steps)

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        images = to_float(batch[0])  # (B, 3, H, W)
        with torch.autocast(images.device.type, enabled=False):
            first, second = (self.normalise(self.views(images)) for _ in range(2))
        loss: Tensor = self.objective.loss(first, second)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(
            [p for p in self.objective.parameters() if p.requires_grad],
            self.schedule.learning_rate,
            momentum=0.9,
            weight_decay=5e-4,
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.schedule.learning_rate, total_steps=self.steps
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cycle, "interval": "step"},
        }
