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

import copy
import logging
import math
import shutil
import signal
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from rapipe.device import Precision, device
from rapipe.errors import Interrupted, UserError
from rapipe.feed import Feed
from rapipe.fitting.checkpoint import Whole, intact
from rapipe.fitting.finders import find
from rapipe.fitting.loggers import close
from rapipe.fitting.tricks import AVERAGES, Averaging, Patience, Tricks, accumulation, clipping
from rapipe.progress import say, watched
from rapipe.weights import not_finite

Row = dict[str, float]
Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"Checkpoint directory .* exists and is not empty",  # we resume from it
    r"Found \d+ module\(s\) in eval mode",  # frozen backbones, and slow copies of networks
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
        tricks: `fit` may set others.
    """

    doing = "training"
    """What it is called where it goes wrong."""
    rate = "train.learning_rate"
    """The parameter that is its learning rate."""

    def __init__(
        self,
        network: nn.Module,
        feed: Feed,
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

    def train_dataloader(self) -> Epoch:
        rng = _rng(self.schedule.seed, self.current_epoch)
        order = epoch_rows(self.weights, rng)[: self.batches_an_epoch * self.batch_size]
        return Epoch(self.feed, order, self.batch_size)

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


class History(Callback):
    """Rows of measurements, after epochs and, if asked, between steps in the first two.

    Args:
        measure: returns what to record; gets the Lightning module.
        every: steps between two measurements in the first epochs; 0 for none.
        epochs: between two measurements after epochs; the last one is always measured. `fit`
            writes its checkpoints then, so that no row is of fewer steps where it resumes.
    """

    def __init__(self, measure: Callable[[Any], Row], every: int = 0, epochs: int = 1) -> None:
        self.measure = measure
        self.every = every
        self.epochs = epochs
        self.rows: list[Row] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.every or trainer.current_epoch >= PROBED_EPOCHS:
            return
        last = batch_idx + 1 == module.batches_an_epoch
        stepped = (batch_idx + 1) % module.accumulate == 0
        if stepped and not last and trainer.global_step % self.every == 0:
            self._record(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):  # whose file begins anew; the others go on in theirs
                for row in self.rows:
                    _log(logger, row)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        number = trainer.current_epoch + 1
        if number % self.epochs and number < module.schedule.epochs:
            module.check_weights()
            return
        self._record(trainer, module)
        module.measured = trainer.global_step
        module.log_dict(self.rows[-1], logger=False)  # for other callbacks, such as `Patience`
        if not watched():
            facts = " ".join(f"{name} {value:.4g}" for name, value in self.rows[-1].items())
            say(facts)

    def _record(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": step,
            "images_seen": step * module.batch_size * module.accumulate,
            "loss": module.take_loss(),
        }
        module.check_weights()
        with averaged(trainer, module):
            module.check_weights()
            self.rows.append({**row, **self.measure(module)})
        for logger in trainer.loggers:
            _log(logger, self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def _log(logger: Logger, row: Row) -> None:
    named = {name: value for name, value in row.items() if name != "step"}
    logger.log_metrics(named, step=int(row["step"]))


def averaging(trainer: pl.Trainer) -> Averaging | None:
    """The average of the weights, if one is made."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((own for own in callbacks if isinstance(own, Averaging)), None)


def averaged(trainer: pl.Trainer, module: Any) -> AbstractContextManager[None]:
    """Within it the module has the averaged weights, where they are averaged."""
    own = averaging(trainer)
    return own.within(module) if own else nullcontext()


class Best(Callback):
    """Keeps the weights of the epoch with the highest `score` in `history` (first of equals).

    Only epochs that end with a measurement count.

    Where weights are averaged, only epochs with an average count once there is one.
    """

    def __init__(self, network: nn.Module, history: History, score: str) -> None:
        self.network = network
        self.history = history
        self.score = score
        self.kept: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if module.measured != trainer.global_step:
            return
        row, own = self.history.rows[-1], averaging(trainer)
        counts = int(own is not None and own.begun)
        rank = (counts, row[self.score])
        if not self.kept or rank > (self.kept["averaged"], self.kept["row"][self.score]):
            with averaged(trainer, module):
                weights = copy.deepcopy(self.network.state_dict())
            self.kept = {"row": row, "averaged": counts, "weights": weights}

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
    module: Fit,
    callbacks: list[Callback],
    checkpoints: Path,
    precision: Precision = "fp32",
    tricks: Tricks | None = None,
    loggers: Sequence[Logger] = (),
    keep: bool = False,
) -> dict[str, float]:
    """Train to the end of the schedule, resuming from the last measured epoch in `checkpoints`.

    The folder must belong to this training alone (name it by a hash of what
    goes in). A damaged checkpoint is removed.

    Args:
        callbacks: with a `Best` if `tricks.patience` is set: it is its score that is waited for.
        tricks: the module's own if not given.
        loggers: get each row of the history (see `rapipe.fitting.loggers`).
        keep: leave the folder, for the caller to remove once all is written.

    Returns:
        What `tricks.tune` found, by its name.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module.tricks = tricks or module.tricks
    last = checkpoints / "last.ckpt"
    every = next((own.epochs for own in callbacks if isinstance(own, History)), 1)
    if last.exists() and not intact(last):
        say(f"{last} is damaged, so this training starts again")
        last.unlink()
    if last.exists():
        say(f"resuming from {last}")
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        with _interruptions_told(last, module, every):
            found = _found(module, checkpoints / "found.json", precision)
        bars = [RichProgressBar(REFRESH, console_kwargs={"stderr": True})] if watched() else []
        last_epoch = ModelCheckpoint(
            checkpoints, filename="last", enable_version_counter=False, every_n_epochs=every
        )
        trainer = _trainer(
            module,
            precision,
            max_epochs=module.schedule.epochs,
            callbacks=[*_with_tricks(module, callbacks), *bars, last_epoch],
            logger=list(loggers) or False,
            log_every_n_steps=1,  # nothing is logged by step but by `History`
            enable_progress_bar=watched(),
        )
        try:
            with _interruptions_told(last, module, every):
                trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
        finally:
            close(loggers)
    if not keep and checkpoints.exists():  # it does not where there was no epoch to go on from
        shutil.rmtree(checkpoints)
    return found


@contextmanager
def _interruptions_told(last: Path, module: Fit, every: int) -> Iterator[None]:
    """On Ctrl-C and on SIGTERM Lightning ends the process; `Interrupted` says where it resumes.

    Args:
        every: epochs between two checkpoints.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as end:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which Lightning ignores by then
        where = (
            f"the same command resumes after epoch {module.current_epoch // every * every} of "
            f"{module.schedule.epochs}, from {last}"
            if last.exists()
            else "no epoch was measured, so the same command starts from the first"
        )
        raise Interrupted(where, 143 if isinstance(end, SIGTERMException) else 130) from None


def _trainer(module: Fit, precision: Precision, **more: Any) -> pl.Trainer:
    shared: dict[str, Any] = {
        **accumulation(module.accumulate),
        **clipping(module.tricks.clip),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "reload_dataloaders_every_n_epochs": 1,
    }
    return pl.Trainer(
        accelerator="gpu" if device().type == "cuda" else "cpu",
        devices=1,
        precision=PLUGIN[precision],
        plugins=[Whole()],
        **{**shared, **more},
    )


def _with_tricks(module: Fit, callbacks: list[Callback]) -> list[Callback]:
    """The average comes before what measures it, and patience after."""
    tricks = module.tricks
    average = AVERAGES[tricks.average](module.schedule.epochs)
    scores = [each.score for each in callbacks if isinstance(each, Best)]
    if tricks.patience and not scores:
        raise ValueError("patience needs a Best among the callbacks")
    patience = [Patience(scores[0], tricks.patience)] if tricks.patience else []
    return [*([average] if average else []), *callbacks, *patience]


def _found(module: Fit, stored: Path, precision: Precision) -> dict[str, float]:
    """What `tricks.tune` finds, by Trainers that leave nothing behind."""
    with TemporaryDirectory() as scratch:
        trainer = partial(
            _trainer,
            module,
            precision,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=scratch,
        )
        return find(module, module.tricks.tune, trainer, stored)
