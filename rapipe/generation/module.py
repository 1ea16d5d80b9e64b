"""The training of a generator as a Lightning module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rapipe.batches.loader import ArrayField, BatchLoader
from rapipe.batches.transforms import to_float
from rapipe.device import device
from rapipe.generation.base import Generator
from rapipe.records import Images
from rapipe.specs import GenerationRecipe
from rapipe.training.module import TrainingModule


class GenerationModule(TrainingModule):
    """A generator on labelled images; its weights are averaged over steps."""

    network: Generator
    recipe: GenerationRecipe
    activity = "training of the generator"

    def __init__(
        self, network: Generator, images: Images, recipe: GenerationRecipe, seed: int
    ) -> None:
        on = device()
        loader = BatchLoader(on, ArrayField(images.pixels, on), ArrayField(images.labels, on))
        super().__init__(network, loader, recipe, seed, np.ones(len(images)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        channels = self.network.spec.channels
        images = 2 * to_float(batch[0])[:, :channels] - 1  # (B, C, S, S)
        losses = self.network(images, batch[1])
        loss = torch.stack([*losses.values()]).sum()
        self.step_metrics["loss"].append(loss.detach())
        for name, value in losses.items() if len(losses) > 1 else ():
            self.step_metrics[f"{name}_loss"].append(value.detach())
        return loss

    def configure_optimizers(self) -> Any:
        network, rate = self.network, self.recipe.learning_rate
        optimiser = torch.optim.Adam(network.parameters(), rate, network.betas)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rate, total_steps=self.steps, cycle_momentum=False
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": cycle, "interval": "step"},
        }
