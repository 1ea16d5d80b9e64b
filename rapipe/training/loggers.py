"""Where the measurements of a training go while it runs, besides its history.

Every training writes a CSV file; the others are asked for by name. A training that is
resumed goes on in the same log: the name of a log must be of one training alone.

Only `wandb` goes online by itself. MLflow and Trackio write into the folder of all logs, unless
their own environment variables name a server. Nobody gets statistics of use.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from rapipe.errors import ArgumentError, first_line
from rapipe.io.locks import file_lock

PROJECT = "rapipe"
"""What Weights & Biases, MLflow and Trackio file all trainings under."""


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
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports
    id = re.sub(r"[^\w-]+", "-", name)  # the same for a training that is resumed
    mode: dict[str, Any] = {"mode": "offline"} if offline else {}  # else as the user has set it
    logger = WandbLogger(name, folder, id, offline, project=PROJECT, **mode)
    with _starting(logger_name, "log in with `wandb login`, or choose wandb-offline"):
        logger.experiment  # noqa: B018 - starts the run
    return logger


def trackio(folder: Path, name: str) -> Logger:
    """A run of the project rapipe in `<folder>/trackio`, or in the Space of TRACKIO_SPACE_ID.

    `TRACKIO_DIR=<folder>/trackio trackio show --project rapipe` shows it. A TRACKIO_DIR that is
    set counts instead of the folder, and TRACKIO_SERVER_URL names a server of one's own.

    Source: https://huggingface.co/docs/trackio.
    """
    os.environ.setdefault("TRACKIO_DIR", str(folder.absolute() / "trackio"))
    with _starting("trackio", "look at TRACKIO_DIR, TRACKIO_SPACE_ID and TRACKIO_SERVER_URL"):
        return TrackioLogger(name)


class TrackioLogger(Logger):
    """Lightning's face of a run of Trackio; one of the same name goes on.

    Args:
        name: of the run.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._trackio = name, import_module("trackio")
        options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(io.StringIO()):  # it prints how to see the run
            self._run = self._trackio.init(PROJECT, name, resume="allow", **options)

    @property
    def name(self) -> str:
        """Of the project."""
        return PROJECT

    @property
    def version(self) -> str:
        """The name of the run."""
        return self._name

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one row."""
        self._run.log(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep parameters with the run; to be called before the first row, which takes them."""
        self._run.config.update(params)

    def finalize(self, status: str) -> None:
        """Write what is left, and end the run. A second call does nothing."""
        if self._run is not None:
            self._run = None
            with redirect_stdout(io.StringIO()):
                self._trackio.finish()


def mlflow(folder: Path, name: str) -> Logger:
    """A run of the experiment rapipe in `<folder>/mlflow.db`, or where MLFLOW_TRACKING_URI says.

    `mlflow ui --backend-store-uri sqlite:///<folder>/mlflow.db` shows it. A database, since
    MLflow refuses new folders of runs. Processes take turns to open it, for the first one
    makes its tables.

    Source: Zaharia et al., "Accelerating the Machine Learning Lifecycle with MLflow", IEEE Data
    Engineering Bulletin 2018.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # both are read when mlflow is imported
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
    with (
        file_lock(folder / "mlflow.lock", "opens MLflow's database"),
        _starting("mlflow", "look at MLFLOW_TRACKING_URI, or remove what is damaged"),
    ):
        client = import_module("mlflow").MlflowClient(uri)
        experiment = client.get_experiment_by_name(PROJECT)
        id = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
        runs = client.search_runs([id], f"attributes.run_name = '{name}'", max_results=1)
        run_id = runs[0].info.run_id if runs else None
        logger = MLFlowLogger(PROJECT, name, uri, run_id=run_id)
        client.update_run(logger.run_id, status="RUNNING")  # again, where it had ended
    return logger


@contextmanager
def _starting(logger_name: str, remedy: str) -> Iterator[None]:
    """Raise `ArgumentError` for any error: no account, no network, a damaged file."""
    try:
        yield
    except Exception as error:
        raise ArgumentError(
            f"`loggers` names {logger_name}, which does not start ({first_line(error)}): {remedy}"
        ) from None


PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "wandb-offline": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
"""What must be installed besides rapipe."""
LOGGERS: dict[str, Callable[[Path, str], Logger]] = {
    "csv": csv,
    "tensorboard": tensorboard,
    "wandb": wandb,
    "wandb-offline": wandb_offline,
    "trackio": trackio,
    "mlflow": mlflow,
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


def loggers(
    names: Iterable[str], folder: Path, name: str, params: Mapping[str, Any] | None = None
) -> list[Logger]:
    """The loggers of a training: `csv`, and those named.

    Args:
        names: of `LOGGERS`.
        folder: of all logs.
        name: of this training alone, such as that of its checkpoints.
        params: what those named keep with the run; the same where it is resumed.

    Raises:
        ArgumentError: a package is not installed, or does not start.
    """
    check(names)
    logs = [LOGGERS[logger](folder, name) for logger in dict.fromkeys(["csv", *names])]
    for log in logs[1:]:
        log.log_hyperparams(dict(params or {}))
    return logs


def close(logs: Iterable[Logger]) -> None:
    """End runs of Weights & Biases and Trackio, which would else take the next training's rows."""
    logs = list(logs)
    if any(isinstance(log, WandbLogger) for log in logs):
        import_module("wandb").finish()
    for log in logs:
        if isinstance(log, TrackioLogger):
            log.finalize("closed")
