"""What every training shares: batches, random state, history, resuming, the Trainer.

A batch is a slice of a permutation that depends on (seed, epoch) alone. Every
epoch starts from a random state that also depends on (seed, epoch) alone, so a
run that is killed and resumed from its last epoch ends with the weights of one
that was not (on a GPU: but for the order of sums in its backward passes). Losses stay
on the device until they are measured.

Letters: N images.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn

from rapipe.device import Precision, device
from rapipe.errors import UserError
from rapipe.feed import Feed
from rapipe.progress import say, watched

Row = dict[str, float]
Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"Checkpoint directory .* exists and is not empty",  # we resume from it
)
"""Warnings of Lightning that tell a user nothing."""
PLUGIN: dict[Precision, Literal["bf16-mixed", "32-true"]] = {
    "bf16": "bf16-mixed",
    "fp32": "32-true",
}
"""What Lightning calls each precision."""
PROBED_EPOCHS = 2
"""Epochs in which measurements are also made between steps."""
REFRESH = 10
"""Steps between two looks of the progress bar."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn, and from which random state."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class Epoch:
    """The batches of one epoch, for Lightning: it asks for their number too."""

    def __init__(self, feed: Feed, order: Rows, batch_size: int) -> None:
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


class Fit(pl.LightningModule):
    """What pretraining and training share: batches, random state, and the loss of the epoch.

    Args:
        network: what learns. All work of a step that `train.compile` is to speed up
            must be in its `forward`.
        feed: the batches' parts, of N rows.
        weights: (N,) how often an epoch sees each row.
    """

    def __init__(self, network: nn.Module, feed: Feed, schedule: Schedule, weights: Weights):
        super().__init__()
        self.network = network
        self.feed = feed
        self.schedule = schedule
        self.weights = weights
        self.epoch_size = len(epoch_rows(self.weights, _rng(schedule.seed, 0)))
        if not self.epoch_size:
            raise UserError("corpus.sources: the weights are so low that an epoch has no image")
        self.seen: dict[str, list[Tensor]] = defaultdict(list)

    def train_dataloader(self) -> Epoch:
        rng = _rng(self.schedule.seed, self.current_epoch)
        return Epoch(self.feed, epoch_rows(self.weights, rng), self.batch_size)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

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

    def take(self, name: str) -> float:
        """Mean of what the steps since the last call put into `seen`."""
        values = self.seen.pop(name, [])
        return float(torch.stack(values).mean()) if values else math.nan

    def take_loss(self) -> float:
        """Mean loss since the last call.

        Raises:
            UserError: it is not finite.
        """
        loss = self.take("loss")
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
            "loss": module.take_loss(),
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


def fit(
    module: Fit, callbacks: list[Callback], checkpoints: Path, precision: Precision = "fp32"
) -> None:
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
    bars = [RichProgressBar(REFRESH, console_kwargs={"stderr": True})] if watched() else []
    keep = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="gpu" if device().type == "cuda" else "cpu",
        devices=1,
        precision=PLUGIN[precision],
        max_epochs=module.schedule.epochs,
        callbacks=[*callbacks, *bars, keep],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=watched(),
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    shutil.rmtree(checkpoints)
