"""Pretraining as a Lightning module.

Letters: B batch, V views of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rapipe.batches.loader import ArrayField, BatchLoader
from rapipe.batches.transforms import VIEWS, Normalise, to_float
from rapipe.device import device
from rapipe.pretraining.objectives import Objective
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.records import Images
from rapipe.specs import PretrainingRecipe
from rapipe.training.module import TrainingModule, Weights


class PretrainingModule(TrainingModule):
    """An objective on views of images, with one learning-rate cycle.

    Labels are fed too, for objectives that want them. Whoever starts it should say
    `objective.caution`: this does not.
    """

    network: Objective
    recipe: PretrainingRecipe
    activity = "pretraining"

    def __init__(
        self,
        objective: Objective,
        images: Images,
        normalise: Normalise,
        recipe: PretrainingRecipe,
        seed: int,
        weights: Weights,
    ) -> None:
        on = device()
        loader = BatchLoader(on, ArrayField(images.pixels, on), ArrayField(images.labels, on))
        super().__init__(objective, loader, recipe, seed, weights)
        self.views: nn.Module = VIEWS[recipe.views](images.pixels.shape[1])
        self.normalise = normalise

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network.before_step(self.global_step, self.steps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = to_float(batch[0]), batch[1]  # (B, 3, H, W), (B,)
        v = self.network.views
        with torch.autocast(images.device.type, enabled=False):
            views = self.normalise(self.views(images.repeat(v, 1, 1, 1)))  # (VB, 3, H, W)
        loss: Tensor = self.network(views.chunk(v), labels)
        self.step_metrics["loss"].append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = OPTIMISERS[self.recipe.optimiser](
            [p for p in self.network.parameters() if p.requires_grad],
            self.recipe.learning_rate,
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            self.recipe.learning_rate,
            total_steps=self.steps,
            # The others' momentum is what their docstrings say; of AdamW it would be a beta.
            cycle_momentum=self.recipe.optimiser == "sgd",
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cycle, "interval": "step"},
        }
