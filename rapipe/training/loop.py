"""Runs a training to its end, and goes on where it was interrupted."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from rapipe.device import Precision, device
from rapipe.errors import ArgumentError, Interrupted, UserError, first_line
from rapipe.progress import GRACE, is_interactive, say
from rapipe.training import ranks
from rapipe.training.averaging import AVERAGES
from rapipe.training.callbacks import BestEpoch, EarlyStop, History
from rapipe.training.checkpoint import ChecksummedIO, is_intact
from rapipe.training.loggers import close
from rapipe.training.module import TrainingModule
from rapipe.training.tuner import Tuned, tune

HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"Checkpoint directory .* exists and is not empty",  # we resume from it
    r"The dirpath has changed from ",  # the project was moved since
    r"Found \d+ module\(s\) in eval mode",  # frozen backbones, and slow copies of networks
    r"find_unused_parameters=True was specified",  # which some networks need
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # all ranks log the same
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
    checkpoints: Path | None = None,
    precision: Precision = "fp32",
    loggers: Sequence[Logger] = (),
    keep: bool = False,
) -> Tuned:
    """Train to the end of the recipe, resuming from the last measured epoch in `checkpoints`.

    The folder must belong to this training alone (name it by a hash of what
    goes in). A damaged checkpoint is removed.

    Args:
        checkpoints: a temporary folder unless given.
        callbacks: with a `BestEpoch` if the recipe has patience: its score is waited for.
        loggers: get each row of the history (see `rapipe.training.loggers`).
        keep: leave the folder, for the caller to remove once all is written.

    Returns:
        What `recipe.tune` found.
    """
    if checkpoints is None:
        with TemporaryDirectory() as scratch:
            return fit(module, callbacks, Path(scratch), precision, loggers, keep=True)
    last = checkpoints / "last.ckpt"
    histories = [callback for callback in callbacks if isinstance(callback, History)]
    every = histories[0].measure_every if histories else 1
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _check_ranks(module, precision)
    if ranks.rank() == 0:
        _announce_resumption(last)
    is_resumed = ranks.agreed(last.exists())
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        with _announce_interruption(last, module, every), _refuse_single_values(module):
            tuned = _tune(module, checkpoints / "tuned.json", precision)
        bars = (
            [RichProgressBar(REFRESH, console_kwargs={"stderr": True})] if is_interactive() else []
        )
        last_epoch = ModelCheckpoint(
            checkpoints, filename="last", enable_version_counter=False, every_n_epochs=every
        )
        trainer = _trainer(
            module,
            precision,
            max_epochs=module.recipe.epochs,
            callbacks=[*_with_recipe(module, callbacks), *bars, last_epoch],
            logger=list(loggers) or False,
            log_every_n_steps=1,  # nothing is logged by step but by `History`
            enable_progress_bar=is_interactive(),
        )
        try:
            with (
                _announce_interruption(last, module, every),
                _refuse_single_values(module),
                _announce_loss_of_a_rank(last),
            ):
                trainer.fit(module, ckpt_path=last if is_resumed else None, weights_only=True)
        finally:
            close(loggers)
    if (
        not keep and ranks.rank() == 0 and checkpoints.exists()
    ):  # it does not where there was no epoch to go on from
        shutil.rmtree(checkpoints)
    return tuned


def _check_ranks(module: TrainingModule, precision: Precision) -> None:
    """Raise `ArgumentError` where several ranks would not train the same, or cannot."""
    if ranks.count() > 1 and module.recipe.tune:
        raise ArgumentError(
            f"`tune` names {', '.join(module.recipe.tune)}, which is found on one device, but "
            f"{ranks.count()} train (`devices` times `nodes`): set what one device found, and "
            "`tune` to []"
        )
    ranks.refuse_different(
        f"{module.recipe}, seed {module.seed}, {precision}, {module.describe_epoch()}"
    )


def _announce_resumption(last: Path) -> None:
    """Say where a training goes on; remove a checkpoint that is damaged."""
    if last.exists() and not is_intact(last):
        say(f"{last} is damaged, so this training starts again")
        last.unlink()
    if last.exists():
        say(f"resuming from {last}")


def accumulation(batches: int) -> dict[str, Any]:
    """Adds up the gradients of several batches before a step, as if they were one larger batch.

    But for BatchNorm, which still sees one batch at a time. A batch that is left over at
    the end of an epoch is left out, so every step is of as many images. A Trainer's argument.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    arXiv 2017.
    """
    return {"accumulate_grad_batches": batches}


def clipping(norm: float) -> dict[str, Any]:
    """Scales a gradient down to the largest norm that is allowed, so that no step is wild.

    A Trainer's argument; 0 allows any norm.

    Source: Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    return {"gradient_clip_val": norm or None}


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
        resumption = (
            f"the same command resumes after epoch {module.current_epoch // every * every} of "
            f"{module.recipe.epochs}, from {last}"
            if last.exists()
            else "no epoch was measured, so the same command starts from the first"
        )
        raise Interrupted(resumption, 143 if isinstance(end, SIGTERMException) else 130) from None


@contextmanager
def _announce_loss_of_a_rank(last: Path) -> Iterator[None]:
    """Raise `UserError` where another rank has ended, or its machine cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        if ranks.count() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        time.sleep(GRACE)  # whoever began both has the first word
        raise UserError(
            f"another process of this training has ended or cannot be reached ({first_line(error)})"
            f": started again on all machines, it resumes from {last}"
        ) from error


@contextmanager
def _refuse_single_values(module: TrainingModule) -> Iterator[None]:
    """Raise `ArgumentError` where BatchNorm has one value of a feature: of one small image."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ArgumentError(
            f"{module.activity}: {module.describe_epoch()}, but two are needed, since BatchNorm "
            "normalises over a batch: add images, or choose a network without it"
        ) from error


def _trainer(module: TrainingModule, precision: Precision, **options: Any) -> pl.Trainer:
    shared: dict[str, Any] = {
        **accumulation(module.accumulate),
        **clipping(module.recipe.clip),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "reload_dataloaders_every_n_epochs": 1,
    }
    return pl.Trainer(
        accelerator="gpu" if device().type == "cuda" else "cpu",
        **_processes(),
        precision=PLUGIN[precision],
        plugins=[ChecksummedIO()],
        **{**shared, **options},
    )


def _processes() -> dict[str, Any]:
    """A Trainer's arguments: one device, or those of all ranks, of which each sees its own slices.

    BatchNorm is that of whole batches on GPUs; torch has no such one on a CPU.
    """
    if ranks.count() == 1:
        return {"devices": 1}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": local,
        "num_nodes": ranks.count() // local,
        "strategy": DDPStrategy(
            find_unused_parameters=True, cluster_environment=TorchElasticEnvironment()
        ),
        "sync_batchnorm": device().type == "cuda",
        "use_distributed_sampler": False,
    }


def _with_recipe(module: TrainingModule, callbacks: list[Callback]) -> list[Callback]:
    """The average comes before what measures it, and patience after."""
    recipe = module.recipe
    average = AVERAGES[recipe.average](module.steps, module.steps_an_epoch)
    scores = [callback.score for callback in callbacks if isinstance(callback, BestEpoch)]
    if recipe.patience and not scores:
        raise ValueError("patience needs a BestEpoch among the callbacks")
    patience = [EarlyStop(scores[0], recipe.patience)] if recipe.patience else []
    return [*([average] if average else []), *callbacks, *patience]


def _tune(module: TrainingModule, stored: Path, precision: Precision) -> Tuned:
    """What `recipe.tune` finds, by Trainers that leave nothing behind."""
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
        return tune(module, trainer, stored)
