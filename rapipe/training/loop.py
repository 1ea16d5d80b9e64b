"""Runs a training to its end, or from where it was interrupted."""

from __future__ import annotations

import logging
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from rapipe.device import Precision, device
from rapipe.errors import Interrupted
from rapipe.progress import say, watched
from rapipe.training.averaging import AVERAGES
from rapipe.training.callbacks import BestEpoch, EarlyStop, History
from rapipe.training.checkpoint import ChecksummedIO, is_intact
from rapipe.training.loggers import close
from rapipe.training.module import TrainingModule
from rapipe.training.recipe import Tricks, accumulation, clipping
from rapipe.training.tuner import tune

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
REFRESH = 10
"""Steps between two looks of the progress bar."""


def fit(
    module: TrainingModule,
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
        loggers: get each row of the history (see `rapipe.training.loggers`).
        keep: leave the folder, for the caller to remove once all is written.

    Returns:
        What `tricks.tune` found, by its name.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module.tricks = tricks or module.tricks
    last = checkpoints / "last.ckpt"
    every = next((own.epochs for own in callbacks if isinstance(own, History)), 1)
    if last.exists() and not is_intact(last):
        say(f"{last} is damaged, so this training starts again")
        last.unlink()
    if last.exists():
        say(f"resuming from {last}")
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        with _announce_interruption(last, module, every):
            found = _tune(module, checkpoints / "found.json", precision)
        bars = [RichProgressBar(REFRESH, console_kwargs={"stderr": True})] if watched() else []
        last_epoch = ModelCheckpoint(
            checkpoints, filename="last", enable_version_counter=False, every_n_epochs=every
        )
        trainer = _trainer(
            module,
            precision,
            max_epochs=module.schedule.epochs,
            callbacks=[*_with_recipe(module, callbacks), *bars, last_epoch],
            logger=list(loggers) or False,
            log_every_n_steps=1,  # nothing is logged by step but by `History`
            enable_progress_bar=watched(),
        )
        try:
            with _announce_interruption(last, module, every):
                trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
        finally:
            close(loggers)
    if not keep and checkpoints.exists():  # it does not where there was no epoch to go on from
        shutil.rmtree(checkpoints)
    return found


@contextmanager
def _announce_interruption(last: Path, module: TrainingModule, every: int) -> Iterator[None]:
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


def _trainer(module: TrainingModule, precision: Precision, **more: Any) -> pl.Trainer:
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
        plugins=[ChecksummedIO()],
        **{**shared, **more},
    )


def _with_recipe(module: TrainingModule, callbacks: list[Callback]) -> list[Callback]:
    """The average comes before what measures it, and patience after."""
    tricks = module.tricks
    average = AVERAGES[tricks.average](module.schedule.epochs)
    scores = [each.score for each in callbacks if isinstance(each, BestEpoch)]
    if tricks.patience and not scores:
        raise ValueError("patience needs a Best among the callbacks")
    patience = [EarlyStop(scores[0], tricks.patience)] if tricks.patience else []
    return [*([average] if average else []), *callbacks, *patience]


def _tune(module: TrainingModule, stored: Path, precision: Precision) -> dict[str, float]:
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
        return tune(module, module.tricks.tune, trainer, stored)
