"""What every training shares: batches, random state, history, resuming, the Trainer.

Images stay in memory as uint8; a batch is a slice of a permutation that
depends on (seed, epoch) alone. Every epoch starts from a random state that
also depends on (seed, epoch) alone, so a run that is killed and resumed from
its last epoch ends with the weights of one that was not.

Letters: N images.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn

from rapipe.device import device, training_precision
from rapipe.errors import UserError
from rapipe.progress import say, watched

Row = dict[str, float]
Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"Checkpoint directory .* exists and is not empty",  # we resume from it
)
"""Warnings of Lightning that tell a user nothing."""
PROBED_EPOCHS = 2
"""Epochs in which measurements are also made between steps."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn, and from which random state."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class Batches:
    """One epoch: these rows of tensors that share their first axis; the rest is dropped."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, order: Rows) -> None:
        self.tensors = tensors
        self.batch_size = batch_size
        self.order = torch.from_numpy(order)

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for step in range(len(self)):
            rows = self.order[step * self.batch_size : (step + 1) * self.batch_size]
            yield tuple(tensor[rows] for tensor in self.tensors)


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


class Fit(pl.LightningModule):
    """What pretraining and training share: batches, random state, and the loss of the epoch.

    Args:
        tensors: share their first axis, N.
        weights: (N,) how often an epoch sees each row; once unless given.
    """

    def __init__(
        self, tensors: tuple[Tensor, ...], schedule: Schedule, weights: Weights | None = None
    ) -> None:
        super().__init__()
        self.tensors = tensors
        self.schedule = schedule
        self.weights = np.ones(len(tensors[0])) if weights is None else weights
        self.epoch_size = len(epoch_rows(self.weights, _rng(schedule.seed, 0)))
        if not self.epoch_size:
            raise UserError("corpus.sources: the weights are so low that an epoch has no image")
        self.losses: list[Tensor] = []

    def train_dataloader(self) -> Batches:
        rng = _rng(self.schedule.seed, self.current_epoch)
        return Batches(self.tensors, self.batch_size, epoch_rows(self.weights, rng))

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(_rng(self.schedule.seed, self.current_epoch).integers(2**63)))

    @property
    def batch_size(self) -> int:
        """Images a step: the schedule's, or all there are."""
        return min(self.schedule.batch_size, self.epoch_size)

    @property
    def steps_an_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self.epoch_size // self.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.schedule.epochs * self.steps_an_epoch

    def take_losses(self) -> float:
        """Mean loss since the last call.

        Raises:
            UserError: it is not finite.
        """
        loss = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        self.losses.clear()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} in epoch {self.current_epoch + 1} "
                f"(step {self.global_step}): lower the learning rate, now "
                f"{self.schedule.learning_rate:g}"
            )
        return loss


class History(Callback):
    """Rows of measurements, after each epoch and, if asked, between steps in the first two.

    Args:
        measure: returns what to record; gets the Lightning module.
        every: steps between two measurements in the first epochs; 0 for none.
    """

    def __init__(self, measure: Callable[[Any], Row], every: int = 0) -> None:
        self.measure = measure
        self.every = every
        self.rows: list[Row] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.every or trainer.current_epoch >= PROBED_EPOCHS:
            return
        last = batch_idx + 1 == module.steps_an_epoch
        if not last and trainer.global_step % self.every == 0:
            self._record(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._record(trainer, module)
        if not watched():
            facts = " ".join(f"{name} {value:.4g}" for name, value in self.rows[-1].items())
            say(facts)

    def _record(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": step,
            "images_seen": step * module.batch_size,
            "loss": module.take_losses(),
        }
        self.rows.append({**row, **self.measure(module)})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class Best(Callback):
    """Keeps the weights of the epoch with the highest `score` in `history` (first of equals)."""

    def __init__(self, network: nn.Module, history: History, score: str) -> None:
        self.network = network
        self.history = history
        self.score = score
        self.kept: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        row = self.history.rows[-1]
        if not self.kept or row[self.score] > self.kept["row"][self.score]:
            self.kept = {"row": row, "weights": copy.deepcopy(self.network.state_dict())}

    def restore(self) -> Row:
        """Put the kept weights back into the network; returns the row of that epoch."""
        self.network.load_state_dict(self.kept["weights"])
        row: Row = self.kept["row"]
        return row

    def state_dict(self) -> dict[str, Any]:
        return self.kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = dict(state_dict)


def fit(module: Fit, callbacks: list[Callback], checkpoints: Path) -> None:
    """Train to the end of the schedule, resuming from the last epoch in `checkpoints`.

    The folder must belong to this training alone (name it by a hash of what
    goes in); it is removed at the end. Checkpoints are read with
    `weights_only`: nothing in them can run code.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    last = checkpoints / "last.ckpt"
    if last.exists():
        say(f"resuming from {last}")
    bars = [RichProgressBar(console_kwargs={"stderr": True})] if watched() else []
    keep = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="gpu" if device().type == "cuda" else "cpu",
        devices=1,
        precision=training_precision(),
        max_epochs=module.schedule.epochs,
        callbacks=[*callbacks, *bars, keep],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=watched(),
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )
    module.to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    shutil.rmtree(checkpoints)
