"""What every training shares: batches, random state, and the loss of an epoch.

A batch is a slice of a permutation that depends on (seed, epoch) alone. Every
epoch starts from a random state that also depends on (seed, epoch) alone, so a
run that is killed and resumed from its last epoch ends with the weights of one
that was not (on a GPU: but for the order of sums in its backward passes). Losses stay
on the device until they are measured.

Letters: N images.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from rapipe.batches.loader import BatchLoader
from rapipe.device import fork_rng
from rapipe.errors import ArgumentError
from rapipe.io.weights import not_finite
from rapipe.specs import GenerationRecipe, PretrainingRecipe, TrainingRecipe
from rapipe.training import ranks

STABLE_BATCH = 8
"""Images of a batch below which its mean and variance may be far from those of others."""
Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


class EpochBatches:
    """The batches of one epoch, for Lightning: it asks for their number too."""

    def __init__(self, loader: BatchLoader, order: Rows, batch_size: int) -> None:
        self.loader = loader
        self.batch_size = batch_size
        self.order = order[: len(order) // batch_size * batch_size]

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self.loader.batches(self.order, self.batch_size)


def epoch_rows(weights: Weights, rng: np.random.Generator) -> Rows:
    """The rows of one epoch, shuffled.

    A row of weight 2.25 comes twice, and a quarter of such rows a third time,
    drawn anew each epoch; so every epoch has the same length.

    Args:
        weights: (N,) how often each row is to come.
    """
    rows = [np.repeat(np.arange(len(weights)), np.floor(weights).astype(np.int64))]
    for fraction in np.unique(weights % 1):
        if fraction:
            candidates = np.flatnonzero(weights % 1 == fraction)
            count = round(float(fraction) * len(candidates))
            rows.append(rng.permutation(candidates)[:count])
    return rng.permutation(np.concatenate(rows))


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


class TrainingModule(pl.LightningModule):
    """What pretraining and training share.

    Args:
        network: what learns. All work of a step that compiling is to speed up
            must be in its `forward`.
        loader: of the batches' fields, of N rows each.
        recipe: how long and how fast to learn, and by which tricks.
        seed: of batches and random state.
        weights: (N,) how often an epoch sees each row.

    Raises:
        ArgumentError: an epoch would have no row.
    """

    activity = "training"
    """What it is called where it goes wrong."""

    def __init__(
        self,
        network: nn.Module,
        loader: BatchLoader,
        recipe: TrainingRecipe | PretrainingRecipe | GenerationRecipe,
        seed: int,
        weights: Weights,
    ) -> None:
        super().__init__()
        self.network = network
        self.loader = loader
        self.recipe = recipe
        self.seed = seed
        self.weights = weights
        self.epoch_size = len(epoch_rows(weights, _rng(seed, 0)))
        if not self.epoch_size:
            raise ArgumentError(f"{self.activity}: {self.describe_epoch()}: raise `weights`")
        self._refuse_odd_batches()
        self.step_metrics: dict[str, list[Tensor]] = defaultdict(list)
        """What each step measured since `pop_mean` was called, by name."""
        self.measured_step = -1
        self.is_trial = False
        """Whether steps leave no trace: then of the learners there is the network alone."""

    def _refuse_odd_batches(self) -> None:
        """Raise `ArgumentError` unless ranks share each batch equally, some images to each."""
        r, size = ranks.count(), self.batch_size
        if r > 1 and (size % r or size < ranks.LEAST * r):
            raise ArgumentError(
                f"`batch_size` is {self.recipe.batch_size}, and {self.describe_epoch()}, so a "
                f"batch is of {size}, which {r} processes (`devices` times `nodes`) cannot share "
                f"equally, with {ranks.LEAST} images or more each: choose a multiple of {r} from "
                f"{ranks.LEAST * r} on"
            )

    def train_dataloader(self) -> EpochBatches:
        rng = _rng(self.seed, self.current_epoch)
        order = self.epoch_order(rng)[: self.batches_an_epoch * self.batch_size]
        return EpochBatches(self.loader, order, self.batch_size)

    def epoch_order(self, rng: np.random.Generator) -> Rows:
        """Rows of the loader's fields, in the order of an epoch."""
        return epoch_rows(self.weights, rng)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch, or of what this rank computes of it."""
        raise NotImplementedError

    def learners(self) -> list[nn.Module]:
        """What learns, by parts that have no part in each other's gradients."""
        return [self.network]

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(_rng(self.seed, self.current_epoch).integers(2**63)))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own refuses in mixed precision, since a fused optimiser might scale
        gradients back after it; but those of bfloat16 are not scaled."""
        for part in self.learners() if gradient_clip_val else ():
            nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as of averaged weights, has no data of its own."""
        return {**super().__getstate__(), "loader": None}

    def describe_epoch(self) -> str:
        """How many images an epoch has, for a message."""
        return f"an epoch has {self.epoch_size} image{'' if self.epoch_size == 1 else 's'}"

    @property
    def batch_size(self) -> int:
        """Images a batch: the recipe's, or all there are."""
        return min(self.recipe.batch_size, self.epoch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        """For Lightning's batch-size finder."""
        self.recipe = replace(self.recipe, batch_size=size)

    @property
    def accumulate(self) -> int:
        """Batches a step: the recipe's, or all there are."""
        return min(self.recipe.accumulate, self.epoch_size // self.batch_size)

    @property
    def batches_an_epoch(self) -> int:
        """Whole steps only, so that each is of as many images."""
        return self.steps_an_epoch * self.accumulate

    @property
    def steps_an_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self.epoch_size // self.batch_size // self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.recipe.epochs * self.steps_an_epoch

    def pop_mean(self, name: str) -> float:
        """Mean of a metric over the steps since the last call.

        What is not a number is left out, as that of an image without a label; but a loss.
        """
        values = self.step_metrics.pop(name, [])
        if not values:
            return math.nan
        stacked = ranks.collected(torch.stack(values))
        mean = float(stacked.mean())
        return float(stacked.nanmean()) if math.isnan(mean) and not name.endswith("loss") else mean

    def pop_loss(self, name: str = "loss") -> float:
        """Mean loss since the last call.

        Raises:
            ArgumentError: it is not finite.
        """
        loss = self.pop_mean(name)
        if not math.isfinite(loss):
            self.refuse_divergence(f"the loss became {loss}")
        return loss

    def check_weights(self) -> None:
        """Raise `ArgumentError` if a weight is not finite: no loss tells of the last step."""
        for part in self.learners():
            if name := not_finite(part):
                self.refuse_divergence(f"the weight {name} became nan or infinite")

    def refuse_divergence(self, symptom: str) -> NoReturn:
        """Raise `ArgumentError`: what became no number, where, and what helps."""
        size = self.batch_size
        few = f", or add images: BatchNorm of {size} is unstable" if size < STABLE_BATCH else ""
        raise ArgumentError(
            f"{self.activity} diverged: {symptom} in epoch {self.current_epoch + 1} (step "
            f"{self.global_step}): lower `learning_rate`, now {self.recipe.learning_rate:g}{few}"
        )


@contextmanager
def preserving_state(module: TrainingModule) -> Iterator[None]:
    """Steps made inside leave no trace: not in weights, nor in statistics or random numbers."""
    state = copy.deepcopy(module.network.state_dict())
    module.is_trial = True
    with fork_rng():
        yield
    module.is_trial = False
    module.network.load_state_dict(state)
    module.network.zero_grad(set_to_none=True)
    module.step_metrics.clear()
