"""What happens between steps: measurements, the best epoch, early stopping.

Where weights are averaged, the averaged ones are measured and kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import nn

from rapipe.progress import is_interactive, say
from rapipe.training import ranks
from rapipe.training.averaging import Averaging

Row = dict[str, float]
SHOWN = "/validation_top1"
"""Of what is trained beside a network, what is said while it learns."""
PROBED_EPOCHS = 2
"""Epochs in which measurements are also made between steps."""


class History(Callback):
    """Rows of measurements, after epochs and, if asked, between steps in the first two.

    Args:
        measure: returns what to record; gets the Lightning module.
        probe_every: steps between two measurements in the first epochs; 0 for none.
        measure_every: epochs between two measurements; the last one is always measured. `fit`
            writes its checkpoints then, so that no row is of fewer steps where it resumes.
    """

    def __init__(
        self, measure: Callable[[Any], Row], probe_every: int = 0, measure_every: int = 1
    ) -> None:
        self.measure = measure
        self.probe_every = probe_every
        self.measure_every = measure_every
        self.rows: list[Row] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.probe_every or trainer.current_epoch >= PROBED_EPOCHS:
            return
        is_last = batch_idx + 1 == module.batches_an_epoch
        is_step = (batch_idx + 1) % module.accumulate == 0
        if is_step and not is_last and trainer.global_step % self.probe_every == 0:
            self._record(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):  # whose file begins anew; the others go on in theirs
                for row in self.rows:
                    _log(logger, row)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.measure_every and epoch < module.recipe.epochs:
            module.check_weights()
            return
        self._record(trainer, module)
        module.measured_step = trainer.global_step
        module.log_dict(self.rows[-1], logger=False)  # for other callbacks, such as `EarlyStop`
        if not is_interactive():
            shown = {k: v for k, v in self.rows[-1].items() if "/" not in k or k.endswith(SHOWN)}
            say(" ".join(f"{name} {value:.4g}" for name, value in shown.items()))

    def _record(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": step,
            "images_seen": step * module.batch_size * module.accumulate,
            "loss": module.pop_loss(),
        }
        module.check_weights()
        with averaged(trainer, module):
            module.check_weights()
            self.rows.append(ranks.agreed({**row, **self.measure(module)}))
        for logger in trainer.loggers:
            _log(logger, self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def _log(logger: Logger, row: Row) -> None:
    metrics = {name: value for name, value in row.items() if name != "step"}
    logger.log_metrics(metrics, step=int(row["step"]))


def averaging(trainer: pl.Trainer) -> Averaging | None:
    """The average of the weights, if one is made."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Averaging)), None)


def averaged(trainer: pl.Trainer, module: Any) -> AbstractContextManager[None]:
    """Within it the module has the averaged weights, where they are averaged."""
    average = averaging(trainer)
    return average.within(module) if average else nullcontext()


class BestEpoch(Callback):
    """Keeps the weights of the epoch with the highest `score` in `history` (first of equals).

    Only epochs that end with a measurement count.

    Where weights are averaged, only epochs with an average count once there is one.
    """

    def __init__(self, network: nn.Module, history: History, score: str) -> None:
        self.network = network
        self.history = history
        self.score = score
        self.best: dict[str, Any] = {}
        """Its row, its weights, and whether they are an average."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if module.measured_step != trainer.global_step:
            return
        row, average = self.history.rows[-1], averaging(trainer)
        is_average = int(average is not None and average.has_begun)
        rank = (is_average, row[self.score])
        if not self.best or rank > (self.best["averaged"], self.best["row"][self.score]):
            with averaged(trainer, module):
                weights = copy.deepcopy(self.network.state_dict())
            self.best = {"row": row, "averaged": is_average, "weights": weights}

    def restore(self) -> Row:
        """Put the best weights back into the network; returns the row of that epoch."""
        self.network.load_state_dict(self.best["weights"])
        row: Row = self.best["row"]
        return row

    def state_dict(self) -> dict[str, Any]:
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = dict(state_dict)


class EarlyStop(EarlyStopping):
    """Stops when the validation accuracy has not risen for some epochs; the best epoch is kept.

    Only epochs that end with a measurement are counted.

    Args:
        score: name of what `History` records.

    Source: Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade 1998.
    """

    def __init__(self, score: str, epochs: int) -> None:
        super().__init__(score, patience=epochs, mode="max", check_on_train_epoch_end=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at what was measured just now; else there is nothing to look at."""
        if pl_module.measured_step == trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stays stopped if it was, and the process was killed before it could say so."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
