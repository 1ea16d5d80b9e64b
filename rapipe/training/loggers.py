"""Where the measurements of a training go while it runs, besides its history.

Every training writes a CSV file; the others are asked for by name. A training that is
resumed goes on in the same log: the name of a log must be of one training alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from rapipe.errors import ArgumentError, first_line

PROJECT = "rapipe"
"""What Weights & Biases files all trainings under."""


def csv(folder: Path, name: str) -> Logger:
    """A table on disk, a row a measurement: `<folder>/<name>/csv/metrics.csv`.

    One that is there is removed: `History` writes the rows of a resumed training again.

    Source: this project.
    """
    shutil.rmtree(folder / name / "csv", ignore_errors=True)
    return CSVLogger(folder, name, version="csv", flush_logs_every_n_steps=1)


def tensorboard(folder: Path, name: str) -> Logger:
    """Files that `tensorboard --logdir <folder>` shows as curves, in `<folder>/<name>/tensorboard`.

    Source: Abadi et al., "TensorFlow: Large-Scale Machine Learning on Heterogeneous Systems", 2015.
    """
    return TensorBoardLogger(folder, name, version="tensorboard", default_hp_metric=False)


def wandb(folder: Path, name: str) -> Logger:
    """A run of the project rapipe at wandb.ai: goes online, with the account of this machine.

    Source: Biewald, "Experiment Tracking with Weights and Biases", 2020.
    """
    return _wandb(folder, name, "wandb", offline=False)


def wandb_offline(folder: Path, name: str) -> Logger:
    """A run of Weights & Biases that stays on disk, until `wandb sync` is called on it.

    Source: Biewald, "Experiment Tracking with Weights and Biases", 2020.
    """
    return _wandb(folder, name, "wandb-offline", offline=True)


def _wandb(folder: Path, name: str, logger_name: str, offline: bool) -> Logger:
    folder.mkdir(parents=True, exist_ok=True)
    id = re.sub(r"[^\w-]+", "-", name)  # the same for a training that is resumed
    mode: dict[str, Any] = {"mode": "offline"} if offline else {}  # else as the user has set it
    logger = WandbLogger(name, folder, id, offline, project=PROJECT, **mode)
    try:
        logger.experiment  # noqa: B018 - starts the run
    except Exception as error:  # of any kind: no account, no network
        raise ArgumentError(
            f"`loggers` names {logger_name}, which does not start ({first_line(error)}): log in "
            "with `wandb login`, or choose wandb-offline"
        ) from None
    return logger


PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "wandb-offline": "wandb"}
"""What must be installed besides rapipe."""
LOGGERS: dict[str, Callable[[Path, str], Logger]] = {
    "csv": csv,
    "tensorboard": tensorboard,
    "wandb": wandb,
    "wandb-offline": wandb_offline,
}


def check(names: Iterable[str]) -> None:
    """Raise `ArgumentError` if one is unknown or not installed, or two exclude each other."""
    names = set(names)
    for name in sorted(names - LOGGERS.keys()):
        raise ArgumentError(f"`loggers` names {name}, but there are {', '.join(LOGGERS)}")
    if {"wandb", "wandb-offline"} <= names:
        raise ArgumentError("`loggers` names wandb and wandb-offline: choose one of them")
    for name in sorted(names & PACKAGES.keys()):
        if find_spec(PACKAGES[name]) is None:
            raise ArgumentError(
                f"`loggers` names {name}, which is not installed: pip install {PACKAGES[name]}"
            )


def loggers(names: Iterable[str], folder: Path, name: str) -> list[Logger]:
    """The loggers of a training: `csv`, and those named.

    Args:
        names: of `LOGGERS`.
        folder: of all logs.
        name: of this training alone, such as that of its checkpoints.

    Raises:
        ArgumentError: a package is not installed, or does not start.
    """
    check(names)
    return [LOGGERS[logger](folder, name) for logger in dict.fromkeys(["csv", *names])]


def close(logs: Iterable[Logger]) -> None:
    """End runs of Weights & Biases, which would else take the next training's measurements too."""
    if any(isinstance(log, WandbLogger) for log in logs):
        import_module("wandb").finish()
