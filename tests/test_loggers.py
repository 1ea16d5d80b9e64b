"""Loggers get the history, and end."""

from __future__ import annotations

import csv
import os
import re
import socket
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger
from trainings import Killed, plain_training

from rapipe.errors import UserError
from rapipe.training import loggers as logs
from rapipe.training.callbacks import History
from rapipe.training.loop import fit


def table(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_csv_file_is_the_history_also_when_resumed(tmp_path: Path) -> None:
    file = tmp_path / "logs/one/csv/metrics.csv"

    def once(epochs: int, stop: int) -> History:
        module, history = plain_training(epochs=epochs), History(lambda m: {"score": 0.5}, 1)
        stops = [Killed(stop)] if stop else []
        given = logs.loggers([], tmp_path / "logs", "one")
        fit(module, [history, *stops], tmp_path / "c", loggers=given)
        return history

    with pytest.raises(RuntimeError, match="killed"):
        once(3, 2)
    assert [row["step"] for row in table(file)] == [1, 2, 3, 4, 5, 6]
    history = once(3, 0)
    assert table(file) == [pytest.approx(row) for row in history.rows]
    assert [row["step"] for row in history.rows] == [1, 2, 3, 4, 5, 6, 9]
    assert len(once(1, 0).rows) == len(table(file)) == 3, "another training's file begins anew"


def test_a_logger_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in logs.PACKAGES.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            UserError,
            match=f"`loggers` names {name}, which is not installed: pip install {package}",
        ):
            logs.loggers([name], Path("nowhere"), "one")
    with pytest.raises(UserError, match="names aim, but there are csv, tensorboard, wandb"):
        logs.loggers(["aim"], Path("nowhere"), "one")
    with pytest.raises(UserError, match="wandb and wandb-offline: choose one"):
        logs.loggers(["wandb", "wandb-offline"], Path("nowhere"), "one")


class Stub(CSVLogger):
    """Stands in for Lightning's loggers of packages that are not installed."""

    made: list[tuple[Any, Any]] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(args[1] if kwargs.get("project") else args[0], "stub", "v")
        self.got: list[tuple[int, dict[str, float]]] = []
        self.made.append((args, kwargs))

    def log_hyperparams(self, params: Any = None) -> None:
        self.params = params

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.got.append((step, metrics))


def installed(package: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An empty module that seems to be installed."""
    module = ModuleType(package)
    module.__spec__ = ModuleSpec(package, None)
    monkeypatch.setitem(sys.modules, package, module)
    return module


def test_a_run_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class NoAccount(Stub):
        @property
        def experiment(self) -> Any:
            raise RuntimeError("no API key configured")

    installed("wandb", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", NoAccount)
    with pytest.raises(UserError, match=r"wandb, which does not start \(no API key.*wandb-offline"):
        logs.loggers(["wandb"], tmp_path, "one")


def test_named_loggers_get_the_history_and_runs_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    module = installed("wandb", monkeypatch)
    module.finish = lambda: ended.append(True)  # type: ignore[attr-defined]
    installed("tensorboard", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", Stub)
    monkeypatch.setattr(logs, "TensorBoardLogger", Stub)
    Stub.made.clear()
    given = logs.loggers(["tensorboard", "wandb-offline", "csv"], tmp_path, "a+b.c", {"k": 8})
    assert [log.params for log in given[1:]] == [{"k": 8}] * 2  # type: ignore[attr-defined]
    assert [type(log) for log in given] == [CSVLogger, Stub, Stub]
    assert Stub.made[0] == (
        (tmp_path, "a+b.c"),
        {"version": "tensorboard", "default_hp_metric": False},
    )
    assert Stub.made[1] == (
        ("a+b.c", tmp_path, "a-b-c", True),
        {"project": "rapipe", "mode": "offline"},
    )
    history = History(lambda m: {"score": 0.5}, 2)
    fit(plain_training(), [history], tmp_path / "c", loggers=given[:1] + given[2:])
    assert ended == [True]
    for (step, metrics), row in zip(given[2].got, history.rows, strict=True):  # type: ignore[attr-defined]
        assert {**metrics, "step": step} == row
    assert len(history.rows) == 2


def test_online_is_only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed("wandb", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", Stub)
    Stub.made.clear()
    logs.loggers(["wandb"], tmp_path, "one")
    logs.loggers(["wandb-offline"], tmp_path, "one")
    assert [kwargs.get("mode") for _, kwargs in Stub.made] == [None, "offline"]
    assert [args[3] for args, _ in Stub.made] == [False, True]


Rows = list[tuple[int, float]]
"""The steps and losses of a run."""
PARAMS = {"train.epochs": 3, "retrieval.k": 8, "variant.backbone": "resnet18"}


def needs(name: str) -> None:
    """Skip where the package is not there; the logger is the first to import it."""
    if find_spec(logs.PACKAGES[name]) is None:
        pytest.skip(f"{logs.PACKAGES[name]} is not installed")


def of_tensorboard(folder: Path) -> Rows:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "a+b.c/tensorboard")).Reload()
    assert "train.epochs: 3" in (folder / "a+b.c/tensorboard/hparams.yaml").read_text()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def of_wandb(folder: Path) -> Rows:
    """Of the parts that `wandb sync` sends as one run; a value stands there more than once."""
    values: dict[str, list[float]] = {"global_step": [], "loss": []}
    for path in sorted((folder / "wandb").glob("offline-run-*-a-b-c/run-a-b-c.wandb")):
        content = path.read_bytes()
        assert b"retrieval.k\x82\x01\x018" in content
        for name, numbers in values.items():  # a name, the tag of JSON, its length, the number
            pattern = name.encode() + rb"\x82\x01[\s\S]([\d.]+)"
            numbers += map(float, dict.fromkeys(re.findall(pattern, content)))
    return [(int(step), loss) for step, loss in zip(*values.values(), strict=True)]


def of_trackio(folder: Path) -> Rows:
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage

    assert [file.name for file in (folder / "trackio").glob("*.db")] == ["rapipe.db"]
    (run,) = Api().runs("rapipe")
    assert run.config is not None
    assert PARAMS.items() <= run.config.items()
    return [(row["step"], row["loss"]) for row in SQLiteStorage.get_logs("rapipe", run.name)]


def of_mlflow(folder: Path) -> Rows:
    from mlflow import MlflowClient
    from mlflow.telemetry import get_telemetry_client

    assert get_telemetry_client() is None
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("rapipe")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a+b.c"
    assert run.data.params == {key: str(value) for key, value in PARAMS.items()}
    history = client.get_metric_history(run.info.run_id, "loss")
    return [(metric.step, metric.value) for metric in history]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tensorboard", of_tensorboard),
        ("wandb-offline", of_wandb),
        ("trackio", of_trackio),
        ("mlflow", of_mlflow),
    ],
)
def test_the_real_package_has_one_run_of_a_resumed_training(
    name: str, read: Callable[[Path], Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: what would connect to another machine fails."""
    needs(name)
    for variable in [key for key in os.environ if key.startswith(("TRACKIO_", "MLFLOW_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # of this test alone
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)

    def once(*stops: Killed) -> History:
        module, history = plain_training(epochs=3), History(lambda m: {"score": 0.5})
        given = logs.loggers([name], tmp_path, "a+b.c", PARAMS)
        fit(module, [history, *stops], tmp_path / "c", loggers=given)
        return history

    with pytest.raises(RuntimeError, match="killed"):
        once(Killed(2))
    expected = [(row["step"], pytest.approx(row["loss"])) for row in once().rows]
    assert [step for step, _ in expected] == [3, 6, 9]
    assert read(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_database_of_mlflow_that_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 99)
    with pytest.raises(UserError, match=r"names mlflow, which does not start \(.*: look at MLFLOW"):
        logs.loggers(["mlflow"], tmp_path, "one")
