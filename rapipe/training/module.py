"""What every training shares: batches, random state, history, resuming, the Trainer.

A batch is a slice of a permutation that depends on (seed, epoch) alone. Every
epoch starts from a random state that also depends on (seed, epoch) alone, so a
run that is killed and resumed from its last epoch ends with the weights of one
that was not (on a GPU: but for the order of sums in its backward passes). Losses stay
on the device until they are measured. Where weights are averaged, the averaged ones
are measured and kept.

Letters: N images.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from rapipe.batches.loader import BatchLoader
from rapipe.errors import UserError
from rapipe.io.weights import not_finite
from rapipe.training.recipe import Tricks

Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn, and from which random state."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class EpochBatches:
    """The batches of one epoch, for Lightning: it asks for their number too."""

    def __init__(self, feed: BatchLoader, order: Rows, batch_size: int) -> None:
        self.feed = feed
        self.batch_size = batch_size
        self.order = order[: len(order) // batch_size * batch_size]

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self.feed.batches(self.order, self.batch_size)


def epoch_rows(weights: Weights, rng: np.random.Generator) -> Rows:
    """The rows of one epoch, shuffled.

    A row of weight 2.25 comes twice, and a quarter of such rows a third time,
    drawn anew each epoch; so every epoch has the same length.

    Args:
        weights: (N,) how often each row is to come.
    """
    rows = [np.repeat(np.arange(len(weights)), np.floor(weights).astype(np.int64))]
    for weight in np.unique(weights % 1):
        own = np.flatnonzero(weights % 1 == weight)
        rows.append(rng.permutation(own)[: round(float(weight) * len(own))] if weight else own[:0])
    return rng.permutation(np.concatenate(rows))


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


class TrainingModule(pl.LightningModule):
    """What pretraining and training share: batches, random state, and the loss of the epoch.

    Args:
        network: what learns. All work of a step that `train.compile` is to speed up
            must be in its `forward`.
        feed: the batches' parts, of N rows.
        weights: (N,) how often an epoch sees each row.
        tricks: `fit` may set others.
    """

    doing = "training"
    """What it is called where it goes wrong."""
    rate = "train.learning_rate"
    """The parameter that is its learning rate."""

    def __init__(
        self,
        network: nn.Module,
        feed: BatchLoader,
        schedule: Schedule,
        weights: Weights,
        tricks: Tricks | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.feed = feed
        self.schedule = schedule
        self.weights = weights
        self.tricks = tricks or Tricks()
        self.epoch_size = len(epoch_rows(self.weights, _rng(schedule.seed, 0)))
        if not self.epoch_size:
            raise UserError("corpus.sources: the weights are so low that an epoch has no image")
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        self.measured = -1

    def train_dataloader(self) -> EpochBatches:
        rng = _rng(self.schedule.seed, self.current_epoch)
        order = epoch_rows(self.weights, rng)[: self.batches_an_epoch * self.batch_size]
        return EpochBatches(self.feed, order, self.batch_size)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(_rng(self.schedule.seed, self.current_epoch).integers(2**63)))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own refuses in mixed precision, since a fused optimiser might scale
        gradients back after it; but those of bfloat16 are not scaled."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as of averaged weights, has no data of its own."""
        return {**super().__getstate__(), "feed": None}

    @property
    def batch_size(self) -> int:
        """Images a batch: the schedule's, or all there are."""
        return min(self.schedule.batch_size, self.epoch_size)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        """For Lightning's batch-size finder."""
        self.schedule = replace(self.schedule, batch_size=size)

    @property
    def accumulate(self) -> int:
        """Batches a step: the tricks', or all there are."""
        return min(self.tricks.accumulate, self.epoch_size // self.batch_size)

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
        return self.schedule.epochs * self.steps_an_epoch

    def take(self, name: str) -> float:
        """Mean of what the steps since the last call put into `seen`.

        What is not a number is left out, as that of an image without a label; but a loss.
        """
        values = self.seen.pop(name, [])
        if not values:
            return math.nan
        stacked = torch.stack(values)
        mean = float(stacked.mean())
        return float(stacked.nanmean()) if math.isnan(mean) and name != "loss" else mean

    def take_loss(self) -> float:
        """Mean loss since the last call.

        Raises:
            UserError: it is not finite.
        """
        loss = self.take("loss")
        if not math.isfinite(loss):
            self._diverged(f"the loss became {loss}")
        return loss

    def check_weights(self) -> None:
        """Raise `UserError` if a weight is not finite: no loss tells of the last step."""
        if wrong := not_finite(self.network):
            self._diverged(f"the weight {wrong} became nan or infinite")

    def _diverged(self, what: str) -> NoReturn:
        raise UserError(
            f"{self.doing} diverged: {what} in epoch {self.current_epoch + 1} (step "
            f"{self.global_step}): lower the learning rate, now {self.schedule.learning_rate:g} "
            f"({self.rate})"
        )
