"""Pretraining as a Lightning module.

Letters: B batch, V views of an image.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rapipe.batches.loader import ArrayField, BatchLoader
from rapipe.batches.preprocess import Preprocess
from rapipe.batches.transforms import VIEWS, multi_crop, to_float
from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives import Objective
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.records import Images
from rapipe.specs import PretrainingRecipe
from rapipe.training import ranks
from rapipe.training.module import TrainingModule, Weights


class PretrainingModule(TrainingModule):
    """An objective on views of images, with one learning-rate cycle.

    Labels are fed too, for objectives that want them. Whoever starts it should say
    `objective.caution`: this does not. Each rank augments whole batches, so that all that is drawn
    is as on one device.
    """

    network: Objective
    recipe: PretrainingRecipe
    activity = "pretraining"

    def __init__(
        self,
        objective: Objective,
        images: Images,
        preprocess: Preprocess,
        recipe: PretrainingRecipe,
        seed: int,
        weights: Weights,
    ) -> None:
        on = device()
        loader = BatchLoader(on, ArrayField(images.pixels, on), ArrayField(images.labels, on))
        self.sources = images.sources
        super().__init__(objective, loader, recipe, seed, weights)
        if self.batch_size < 2 <= objective.views:
            raise ArgumentError(
                f"{self.activity}: {self.describe_epoch()}, but two are needed, since "
                f"{type(objective).__name__} compares images: raise `weights`, or add images"
            )
        size = images.pixels.shape[1]
        if objective.local_crops:
            self.views, self.crops = multi_crop(recipe.views, size, objective.local_side)
        else:
            self.views = VIEWS[recipe.views](size)
        self.preprocess = preprocess

    def describe_epoch(self) -> str:
        """With the mean weight of the images of each source."""
        names, source = np.unique(self.sources, return_inverse=True)
        counts, sums = np.bincount(source), np.bincount(source, self.weights)
        sources = zip(names.tolist(), counts.tolist(), (sums / counts).tolist(), strict=True)
        words = ", ".join(f"{name}: {n:,} of weight {weight:g}" for name, n, weight in sources)
        return f"{super().describe_epoch()}, of {len(self.sources):,} ({words})"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network.before_step(self.global_step, self.steps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = to_float(batch[0]), batch[1]  # (B, 3, S, S), (B,)
        v = self.network.views
        with torch.autocast(images.device.type, enabled=False):
            views = self.preprocess(self.views(images.repeat(v, 1, 1, 1))).chunk(v)  # (B, 3, H, H)
            if n := self.network.local_crops:
                crops = self.crops(images.repeat(n, 1, 1, 1))
                views += self.preprocess.normalise(crops).chunk(n)
        share = ranks.share(len(labels))
        views = tuple(view[share] for view in views)
        with nullcontext() if self.network.draws else ranks.apart():
            loss: Tensor = self.network(views, labels[share])
        self.step_metrics["loss"].append(loss.detach())
        for name, value in self.network.measured.items():
            self.step_metrics[name].append(value)
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
